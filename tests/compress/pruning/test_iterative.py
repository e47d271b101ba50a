"""Pruning in steps: it recovers in between, goes on after an interruption, and writes down what it did."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.numpy_helper
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("timm")
pytest.importorskip("torch_pruning")

from medfm_compress.bench.types.sensitivity import SensitivityPoint  # noqa: E402
from medfm_compress.compress.distillation.options import Distillation  # noqa: E402
from medfm_compress.compress.latency.json_cache import JsonCache  # noqa: E402
from medfm_compress.compress.networks.build import build_model  # noqa: E402
from medfm_compress.compress.networks.model import Model, load_model  # noqa: E402
from medfm_compress.compress.pruning import record as records  # noqa: E402
from medfm_compress.compress.pruning.calibration_cases import draw, training_batches, validation_set  # noqa: E402
from medfm_compress.compress.pruning.iterative import PruningRun, prune_and_recover  # noqa: E402
from medfm_compress.compress.pruning.options import PruneOptions  # noqa: E402
from medfm_compress.compress.pruning.record import RECORD, PruningRecord  # noqa: E402
from medfm_compress.compress.pruning.sparsity import sparse_layers  # noqa: E402
from medfm_compress.compress.teachers.module_teacher import ModuleTeacher  # noqa: E402
from medfm_compress.compress.training.config import TrainingConfig  # noqa: E402
from medfm_compress.data.open import open_study  # noqa: E402
from medfm_compress.data.study import Study  # noqa: E402
from medfm_compress.export import build, onnx_export  # noqa: E402
from medfm_compress.runtime.errors import InputError, ModelError, StudyError  # noqa: E402
from medfm_compress.runtime.task import Task  # noqa: E402

POINTS = tuple[SensitivityPoint, ...]
ONE_EPOCH = TrainingConfig(epochs=1, precision="fp32", device="cpu", learning_rate=5e-4)
OPTIONS = PruneOptions(max_macs=0.4, target="", steps=2, training=ONE_EPOCH, distillation=Distillation(views=1))


@pytest.fixture(scope="module")
def study(tmp_path_factory: Any) -> Study:
    """48 tiny images, those with a finding brighter; a third are for validation."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("study")
    noise = np.random.default_rng(0)
    rows = ["image,split,label,patient"]
    for number in range(48):
        pixels = noise.integers(0, 120, (40, 40), dtype=np.uint8) + np.uint8(100 * (number % 2))
        Image.fromarray(pixels).save(folder / f"{number}.png")
        label = ("normal", "opacity")[number % 2]
        rows.append(f"{number}.png,{'val' if number >= 32 else 'train'},{label},p{number}")
    (folder / "cases.csv").write_text("\n".join(rows) + "\n")
    return open_study(folder)


def small_model() -> Model:
    torch.manual_seed(0)
    return build_model("test_resnet", Task(kind="binary", labels=("normal", "opacity")), size_px=40, colour="grey")


class Stop(Exception):
    """Stands for an interruption."""


def run(study: Study, out: Path, options: PruneOptions = OPTIONS, stop_at: str = "") -> tuple[PruningRecord, list[str]]:
    lines: list[str] = []

    def hear(line: str) -> None:
        lines.append(line)
        if stop_at and line.startswith(stop_at):
            raise Stop

    model = small_model()
    return prune_and_recover(PruningRun(study, ModuleTeacher(model), options, out, hear), model), lines


@pytest.fixture(scope="module")
def whole(study: Study, tmp_path_factory: Any) -> tuple[Path, PruningRecord, list[str]]:
    """A call that nothing interrupts."""
    out = tmp_path_factory.mktemp("whole") / "out"
    return out, *run(study, out)


def test_steps_lead_to_the_goal_and_leave_a_record(whole: Any) -> None:
    out, record, lines = whole
    assert record.macs_after <= 0.4 * record.macs_before and len(record.steps) == 2
    assert record.steps[0].macs_after == record.steps[1].macs_before
    halfway = record.steps[0].macs_after / record.macs_before
    assert halfway == pytest.approx(0.4**0.5, abs=0.08), "the first step goes half the way"
    assert records.load(out / RECORD, PruningRecord) == record

    model = load_model(out)
    assert [step.split()[0].strip(":") for step in model.provenance.steps] == [
        "prune",
        "distilled",
        "prune",
        "distilled",
    ]
    assert model.architecture.pruning["macs_after"] == record.macs_after

    page = (out / "training" / "step-1" / "sensitivity.html").read_text()
    figures = json.loads((out / "training" / "step-1" / "sensitivity.json").read_bytes())
    assert "<svg" in page and figures["cases"] == 16
    shown = {curve["name"]: curve["chosen"] for curve in figures["curves"]}
    assert shown == {group.name: group.after for group in record.steps[0].groups}
    assert any(group.after < group.before for group in record.steps[0].groups)
    assert sum("recorded" in line or "teacher:" in line for line in lines) < 10


@pytest.mark.parametrize("moment", ["groups tried", "step 1:", "epoch", "step 2:"])
def test_an_interrupted_call_goes_on_and_ends_alike(study: Study, whole: Any, tmp_path: Path, moment: str) -> None:
    with pytest.raises(Stop):
        run(study, tmp_path / "cut", stop_at=moment)
    assert not (tmp_path / "cut" / "model.json").exists(), "no half-made model"
    again, lines = run(study, tmp_path / "cut")
    if moment in {"epoch", "step 2:"}:
        assert "step 1: kept from an earlier call" in lines
    assert again.steps == whole[1].steps
    ends = [load_model(folder).weights_sha256() for folder in (whole[0], tmp_path / "cut")]
    assert ends[0] == ends[1]


def test_other_options_are_not_served_from_an_earlier_call(study: Study, tmp_path: Path) -> None:
    import msgspec

    plain = msgspec.structs.replace(OPTIONS, steps=1, training=TrainingConfig(epochs=0))
    first, _ = run(study, tmp_path / "out", plain)
    second, lines = run(study, tmp_path / "out", msgspec.structs.replace(plain, max_macs=0.6))
    assert not any("kept" in line for line in lines)
    assert second.macs_after > first.macs_after


def test_sparse_weights_stay_sparse_through_recovery(study: Study, tmp_path: Path) -> None:
    import msgspec

    record, _ = run(study, tmp_path / "out", msgspec.structs.replace(OPTIONS, steps=1, sparse=True))
    assert record.sparse
    assert set(record.sparse) <= set(sparse_layers(load_model(tmp_path / "out").module))


def test_an_export_keeps_sparse_weights_sparse_or_is_refused(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What mixes weights on the way to the file would cost the very speed that 2:4 is for."""
    import msgspec

    from medfm_compress import steps
    from medfm_compress.step_settings import ExportStep

    run(study, tmp_path / "sparse", msgspec.structs.replace(OPTIONS, steps=1, sparse=True))
    lines: list[str] = []

    def export(bundle: Path) -> None:
        steps.export(tmp_path / "sparse", study.root, ExportStep(), "sparse", "", lines.append, bundle)

    export(tmp_path / "good.medfm")
    assert "2:4 sparse, in the exported file as well" in lines[-1]

    real = onnx_export.export_onnx

    def dense(*arguments: Any, **options: Any) -> Any:
        made = real(*arguments, **options)
        model = onnx.load_model_from_string(made.content)
        for tensor in model.graph.initializer:
            values = onnx.numpy_helper.to_array(tensor)
            if values.dtype == np.float32 and values.ndim > 1:
                tensor.CopyFrom(
                    onnx.numpy_helper.from_array(np.where(values == 0, np.float32(1e-9), values), tensor.name)
                )
        return msgspec.structs.replace(made, content=model.SerializeToString())

    monkeypatch.setattr(build, "export_onnx", dense)
    with pytest.raises(ModelError, match="export the sparse network again"):
        export(tmp_path / "dense.medfm")
    assert not list(tmp_path.glob("*dense.medfm*")), "nothing is left"


def test_a_target_is_timed_and_what_is_met_already_is_refused(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real engine, layers from a table of its own; the speed-up holds for what was measured."""
    import msgspec

    pytest.importorskip("openvino")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    plain = {"target": "openvino:cpu:fp32", "training": TrainingConfig(epochs=0), "allocation": "global"}
    with pytest.raises(InputError, match=r"met already: test_resnet takes [\d.]+ ms on openvino:cpu:fp32:1"):
        run(study, tmp_path / "met", PruneOptions(max_latency_ms=1e6, **plain))
    assert not (tmp_path / "met").exists()

    record, lines = run(study, tmp_path / "out", PruneOptions(max_macs=0.6, **plain))
    before, after = record.measurements
    assert (before.name, after.name) == ("original", "pruned") and before.target == "openvino:cpu:fp32:1"
    assert after.size_bytes < before.size_bytes
    assert record.speedup is not None
    of_rounds = np.log(np.divide(before.cpu_ms, after.cpu_ms))  # one thread of a CPU
    assert record.speedup.estimate == pytest.approx(np.exp(np.median(of_rounds)))
    assert record.speedup.low <= record.speedup.estimate <= record.speedup.high
    assert any("in turns" in line for line in lines)
    assert msgspec.json.decode((tmp_path / "out" / RECORD).read_bytes())["target"] == record.target


def test_sparse_without_recovery_is_refused() -> None:
    with pytest.raises(InputError, match="without recovery"):
        PruneOptions(max_macs=0.5, sparse=True, training=TrainingConfig(epochs=0))


def test_draws_balance_classes_and_repeat(study: Study) -> None:
    train = [case for case in study.cases if case.split == "train"]
    rare = [case for case in train if case.target == (0,)] + [case for case in train if case.target == (1,)][:3]
    drawn = draw(rare, 8, seed=3)
    assert len(drawn) == len({case.image for case in drawn}) == 8
    assert sum(case.target == (1,) for case in drawn) == 3, "all of the rare class"
    assert draw(rare, 8, seed=3) == drawn and draw(rare, 8, seed=4) != drawn


def test_a_study_too_small_for_taylor_is_refused_with_a_way_out(study: Study, tmp_path: Path) -> None:
    import msgspec

    few = msgspec.structs.replace(study, cases=tuple(c for c in study.cases if c.split == "val") + study.cases[:6])
    with pytest.raises(InputError, match=r"6 .*magnitude"):
        run(few, tmp_path / "out")
    assert not (tmp_path / "out" / "model.json").exists()


def test_cases_are_normalised_and_only_from_their_split(study: Study) -> None:
    model = small_model()
    train = training_batches(study, model, lambda _: None)
    validation = validation_set(study, model, lambda _: None)
    assert sum(len(images) for images, _ in train) == 32
    assert sum(len(images) for images, _ in validation.batches) == 16
    assert abs(float(torch.cat([images for images, _ in train]).mean())) < 2.5
    truth = torch.cat([targets for _, targets in validation.batches])
    assert validation.score(torch.stack([-truth[:, 0], truth[:, 0]], 1).double(), truth) == 1.0
    assert validation.score(torch.zeros(3, 2).double(), torch.ones(3, 1, dtype=torch.int64)) is None, "one class alone"
    other = Task(kind="binary", labels=("healthy", "ill"))
    import dataclasses

    with pytest.raises(StudyError, match="healthy"):
        training_batches(study, dataclasses.replace(model, task=other), lambda _: None)


def test_points_survive_and_foreign_ones_do_not(tmp_path: Path) -> None:
    cache = JsonCache(tmp_path / "sensitivity-cache.json", "one", POINTS)
    cache["unit"] = (SensitivityPoint(kept=4, error=0.5),)
    assert dict(JsonCache(tmp_path / "sensitivity-cache.json", "one", POINTS)) == {
        "unit": (SensitivityPoint(kept=4, error=0.5),)
    }
    assert not JsonCache(tmp_path / "sensitivity-cache.json", "two", POINTS)
    (tmp_path / "sensitivity-cache.json").write_text("{")
    assert not JsonCache(tmp_path / "sensitivity-cache.json", "one", POINTS)
