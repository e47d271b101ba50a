"""``medfm-compress embed`` and ``anomaly fit``: from a study to a bundle, and what is wrong is said in one sentence."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("timm")

import striped_study  # noqa: E402

from medfm_compress.__main__ import main  # noqa: E402
from medfm_compress.compress.networks.build import build_model  # noqa: E402
from medfm_compress.compress.networks.model import load_model_card, save_model  # noqa: E402
from medfm_compress.runtime.bundle.bundle import Bundle  # noqa: E402
from medfm_compress.runtime.task import Task  # noqa: E402

FAST = ("--epochs", "1", "--batch-size", "8", "--precision", "fp32", "--device", "cpu", "--views", "1")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return striped_study.write(tmp_path_factory.mktemp("striped"))


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    model = build_model("resnet10t", Task(kind="binary", labels=("no", "yes")), size_px=64, colour="grey")
    return save_model(model, tmp_path_factory.mktemp("teacher"))


def run(*arguments: object) -> int:
    """Exit code of one command."""
    with pytest.raises(SystemExit) as caught:
        main([str(argument) for argument in arguments])
    return int(caught.value.code or 0)


def test_embed_fit_and_export(study: Path, teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    encoder, model, bundle = tmp_path / "encoder", tmp_path / "model", tmp_path / "model.medfm"
    options = ("--student", "test_resnet", "--study", study, "--normal", "normal", "--length", 4, "--length", 8)
    assert run("embed", teacher, *options, "--out", encoder, *FAST, "--json") == 0
    assert json.loads(capsys.readouterr().out)["lengths"] == [4, 8]
    options = ("--study", study, "--normal", "normal", "--length", 4, "--memory-budget", "1kB")
    assert run("anomaly", "fit", encoder, *options, "--out", model, "--json") == 0
    assert json.loads(capsys.readouterr().out)["name"] == "test_resnet-knn-4"
    assert load_model_card(model).task.normal_labels == ("normal",)
    rule = ("--rule", "false-alarm-rate<=0.1", "--intended-use", "a test")
    assert run("export", model, "--study", study, "--out", bundle, *rule) == 0
    manifest = Bundle.open(bundle).manifest
    assert manifest.task.normal_labels == ("normal",)
    assert [output.role for output in manifest.outputs] == ["logits", "nearest"]
    assert run("prune", model, "--study", study, "--min-speedup", 2, "--out", tmp_path / "pruned") == 2
    assert "prune the model that the encoder is made of" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--normal", "healthy"), "has no label 'healthy' that could be normal; its labels are 'normal', 'lesion'"),
        (("--normal", "lesion"), "2 normal cases in split 'train'; at least 8 are needed"),
        (("--normal", "normal", "--memory-budget", "0.01kB"), "5 neighbours need"),
        (("--normal", "normal", "--weights", "x"), "is a model folder and says it itself; leave --weights out"),
        (("--normal", "normal", "--length", "9999"), "--length"),
    ],
)
def test_what_cannot_be_fitted(
    options: tuple[str, ...],
    sentence: str,
    study: Path,
    teacher: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    assert run("anomaly", "fit", teacher, "--study", study, *options, "--out", out) == 2
    assert sentence in capsys.readouterr().err
    assert not (out / "model.json").exists()


def test_an_encoder_is_not_written_over(study: Path, teacher: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--study", study, "--normal", "normal", "--out", teacher)
    assert run("anomaly", "fit", teacher, *options) == 2
    assert "holds a finished model" in capsys.readouterr().err
    assert run("anomaly", "fit", teacher, *options, "--overwrite") == 2
    assert "is the encoder that it is made of" in capsys.readouterr().err


def test_a_study_is_checked_with_its_normal_labels(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("study", "check", study, "--normal", "normal", "--accept-leakage") == 0
    out = capsys.readouterr().out
    assert "labels: abnormal (whatever is not 'normal')" in out
    assert "2 of 26 cases of train are not normal" in out
