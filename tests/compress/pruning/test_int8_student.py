"""What INT8 does to a pruned student is told beside FP32 and the original."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("timm")

from medfm_compress.bench.types.target import Target  # noqa: E402
from medfm_compress.compress.latency.latency_goal import LatencyGoal  # noqa: E402
from medfm_compress.compress.networks.build import build_model  # noqa: E402
from medfm_compress.compress.networks.model import Model  # noqa: E402
from medfm_compress.compress.pruning import int8_student  # noqa: E402
from medfm_compress.compress.pruning.int8_student import Int8Student, judge_int8  # noqa: E402
from medfm_compress.data.open import open_study  # noqa: E402
from medfm_compress.data.study import Study  # noqa: E402
from medfm_compress.runtime.errors import ModelError  # noqa: E402
from medfm_compress.runtime.progress import no_progress  # noqa: E402
from medfm_compress.runtime.task import Task  # noqa: E402

GOAL = LatencyGoal(budget_ms=1.0, target=Target.parse("onnxruntime:cpu:int8"))


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """48 tiny images, those with a finding brighter; a third are for validation."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("study")
    noise = np.random.default_rng(0)
    rows = ["image,split,label"]
    for number in range(48):
        pixels = noise.integers(0, 120, (32, 32), dtype=np.uint8) + np.uint8(100 * (number % 2) + number)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        rows.append(f"{number}.png,{'val' if number >= 32 else 'train'},{('normal', 'opacity')[number % 2]}")
    (folder / "cases.csv").write_text("\n".join(rows) + "\n")
    return open_study(folder)


def model_with(factor: float) -> Model:
    """A network whose first layer has one channel so many times larger, which the second takes back."""
    torch.manual_seed(0)
    first, second = torch.nn.Conv2d(1, 8, 3, 2), torch.nn.Conv2d(8, 8, 3, 2)
    head = torch.nn.Linear(8, 2)
    pool = (torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), head)
    with torch.no_grad():
        head.weight[0], head.weight[1] = -1.0, 1.0
        for layer in (first, second):
            layer.weight.abs_()  # so that bright images differ from dark ones
        first.weight[0] *= factor
        second.weight[:, 0] /= factor
        first.bias[0] = 0.0  # type: ignore[index]
    model = build_model("test_resnet", Task(kind="binary", labels=("normal", "opacity")), size_px=32, colour="grey")
    return dataclasses.replace(model, module=torch.nn.Sequential(first, torch.nn.ReLU(), second, *pool))


def judged(student: Model, original: Model, study: Study) -> Int8Student:
    return judge_int8(student, original, study, GOAL, no_progress, 0)


def test_a_student_that_rounds_well_is_told_to_be_fit(study: Study) -> None:
    model = model_with(1.0)
    result = judged(model, model, study)
    assert result.reason == "" and result.method.startswith("int8-")
    assert (result.calibrated_on, result.judged_on) == (32, 16)
    assert 0 < result.relative_logit_error < 0.03
    assert result.score_original == result.score_fp32 is not None
    assert result.score_int8 == pytest.approx(result.score_fp32, abs=0.02)


def test_a_student_that_rounds_badly_is_not(study: Study) -> None:
    result = judged(model_with(3e4), model_with(1.0), study)
    assert result.relative_logit_error > 0.03
    assert "above the limit 0.03" in result.reason
    assert result.score_fp32 == pytest.approx(result.score_original, abs=0.05)


def test_a_student_that_does_not_run_in_int8_says_why(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> Any:
        raise ModelError("no such operator")

    monkeypatch.setattr(int8_student, "_nearest", refuse)
    model = model_with(1.0)
    assert judged(model, model, study) == Int8Student(reason="it cannot be made: no such operator")


def test_prune_writes_it_down_and_prints_it(study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The figures of latency are made up: what is tested is that an INT8 target ends in INT8 figures."""
    pytest.importorskip("torch_pruning")
    from typer import Typer
    from typer.testing import CliRunner

    from medfm_compress.cli.prune import prune
    from medfm_compress.compress.networks.model import save_model
    from medfm_compress.compress.pruning import iterative

    monkeypatch.setattr(iterative, "_compare", lambda *_: ())
    torch.manual_seed(0)
    task = Task(kind="binary", labels=("normal", "opacity"))
    save_model(build_model("test_resnet", task, size_px=32, colour="grey"), tmp_path / "model")
    app = Typer()
    app.command()(prune)
    words = [
        str(tmp_path / "model"),
        "--study",
        str(study.root),
        "--max-macs",
        "0.6",
        "--target",
        "onnxruntime:cpu:int8",
    ]
    words += ["--epochs", "0", "--allocation", "uniform", "--importance", "magnitude", "--no-repair", "--device", "cpu"]
    done = CliRunner().invoke(app, [*words, "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, (done.output, done.exception)
    assert "AUROC on 16 validation cases: original" in done.stdout
    assert "INT8 beside its own FP32: relative logit error" in done.stdout
    assert '"int8": {' in (tmp_path / "out" / "pruning.json").read_text()
