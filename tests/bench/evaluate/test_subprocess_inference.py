"""Models in processes of their own: one that is asked again is not opened again."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

from msgspec.structs import replace

from medfm_compress.bench.evaluate.subprocess_inference import Processes
from medfm_compress.bench.measure.latency import Plan
from medfm_compress.bench.models import variant_models
from medfm_compress.runtime.bundle.bundle import Bundle


def test_a_model_is_opened_once_whatever_it_decides_by(tiny: ModuleType, tmp_path: Path) -> None:
    (model,) = variant_models(Bundle.open(tiny.bundle(tmp_path / "a.medfm")), 1)
    calibrated = replace(model, task=replace(model.task, temperature=2.0))
    smaller = replace(model, spec=replace(model.spec, resize="shortest"))
    with Processes() as processes:
        worker = processes.of(model, Plan())
        assert processes.of(calibrated, Plan()) is worker
        assert processes.of(smaller, Plan()) is not worker
        process = worker._process
        assert process.poll() is None
    assert process.poll() is not None, "it ends with the context"
