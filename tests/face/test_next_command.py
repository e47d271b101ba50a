"""What a command prints as the next one works when it is pasted, in folders whose names have spaces."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from medfm_compress.__main__ import main
from medfm_compress.data.synthetic import draw_study

TRAIN = ("--epochs", "1", "--batch-size", "12", "--precision", "fp32", "--device", "cpu")
BENCH = ("--rounds", "10", "--turn", "2ms", "--min-calls", "2", "--max-calls", "3", "--warm-up", "100ms")
# What makes a pasted command short here.
QUICK = {"finetune": TRAIN, "distill": TRAIN, "quantize": ("--samples", "8", "--time-budget", "0")}
POLICY = "non_inferiority:\n  - {metric: auroc, margin: 0.05}\nmin_positives: 5\nmin_negatives: 5\nmin_clusters: 5\n"


@pytest.fixture
def study(tmp_path: Path) -> Path:
    draw_study(tmp_path / "a place" / "my study", patients=40, seed=0, size_px=64)
    return tmp_path / "a place" / "my study"


def run(capsys: pytest.CaptureFixture[str], words: list[str], codes: tuple[int, ...] = (0,)) -> list[str]:
    """Words of the next command that one prints."""
    with pytest.raises(SystemExit) as ended:
        main(words)
    captured = capsys.readouterr()
    assert (ended.value.code or 0) in codes, captured.err
    pasted = re.search(r"^(?:next|judge it with): (medfm-compress .*)$", captured.out, re.M)
    return shlex.split(pasted[1])[1:] if pasted else []


def test_from_images_to_a_verdict(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = study.parent
    words = ["pretrain", "test_resnet", "--study", str(study), "--image-size", "32", "--out", str(place / "b one")]
    ran = []
    while words:
        words += TRAIN if words[0] == "pretrain" else QUICK.get(words[0], ())
        ran.append(words[0])
        words = run(capsys, words)
    assert ran == ["pretrain", "finetune", "distill", "export", "quantize", "policy"]
    (place / "policy.yaml").write_text(POLICY)
    bundle = next(place.glob("*-int8.medfm"))
    bench = ["bench", str(bundle), "--teacher", str(place / "b one-teacher"), "--study", str(study)]
    bench += ["--policy", str(place / "policy.yaml"), "--out", str(place / "the report"), *BENCH]
    gate = run(capsys, bench)
    assert gate[0] == "gate"
    assert run(capsys, gate, (0, 1, 3)) == []
    assert run(capsys, ["study", "check", str(study), "--policy", str(place / "policy.yaml")], (0, 3)) == []


def test_from_a_pruned_model(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = study.parent / "a model"
    made = [
        "finetune",
        "test_resnet",
        "--study",
        str(study),
        "--image-size",
        "32",
        "--epochs",
        "0",
        "--out",
        str(model),
    ]
    assert run(capsys, made)[0] == "distill"
    pruned = ["prune", str(model), "--study", str(study), "--max-macs", "0.8", "--target", "", *TRAIN]
    export = run(capsys, [*pruned, "--importance", "magnitude", "--out", str(study.parent / "cut")])
    assert export[0] == "export"
    assert run(capsys, export)[0] == "quantize"
