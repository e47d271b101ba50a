"""``medfm-compress demo``: the first thing that a newcomer runs."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from medfm_compress import demo
from medfm_compress.__main__ import main
from medfm_compress.bench.measure.latency import Plan


def test_the_demo_ends_with_a_verdict_and_a_file_to_predict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command itself, on fewer patients and epochs."""
    whole = demo.demo_recipe(0)
    short = msgspec.structs.replace(whole.teacher, training=msgspec.structs.replace(whole.teacher.training, epochs=1))
    student = msgspec.structs.replace(whole.distill.training, epochs=1)
    recipe = msgspec.structs.replace(
        whole,
        teacher=short,
        distill=msgspec.structs.replace(whole.distill, training=student),
        quantize=msgspec.structs.replace(whole.quantize, samples=16, time_budget_s=0, error_limit=1e-9),
        bench=msgspec.structs.replace(
            whole.bench, plan=Plan(rounds=10, turn_ms=2, min_calls=2, max_calls=3, warm_up_s=0.1)
        ),
    )
    monkeypatch.setattr(demo, "PATIENTS", 40)
    monkeypatch.setattr(demo, "demo_recipe", lambda seed: recipe)
    with pytest.raises(SystemExit) as ended:
        main(["demo", "--out", str(tmp_path / "demo")])
    assert ended.value.code in (1, 3), "so few patients cannot pass"
    out = capsys.readouterr().out
    assert "no INT8 variant ships:\n  " in out
    assert "verdict:" in out and "predict on one of its DICOM files" in out
    _, bundle, image = out.splitlines()[-1].rsplit(maxsplit=2)
    assert Path(bundle).is_file() and Path(image).is_file()
