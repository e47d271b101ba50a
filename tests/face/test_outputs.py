"""What --out names is refused before any work where it cannot, or should not, be written."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medfm_compress import steps
from medfm_compress.__main__ import main
from medfm_compress.cli.outputs import REPORT_FILES
from medfm_compress.compress.training.config import TrainingConfig
from medfm_compress.runtime.errors import InputError
from medfm_compress.step_settings import ExportStep, FinetuneStep

MODELS = {
    "finetune": ("finetune", "resnet10t", "--study", "none", "--image-size", "32"),
    "distill": ("distill", "none", "--study", "none", "--student", "resnet10t"),
    "prune": ("prune", "none", "--study", "none", "--max-macs", "0.5", "--target", ""),
    "pretrain": ("pretrain", "resnet10t", "--study", "none", "--image-size", "32"),
}
BUNDLES = {
    "export": ("export", "none", "--study", "none"),
    "quantize": ("quantize", "none.medfm", "--study", "none"),
}

POLICY = str(Path(__file__).parents[2] / "examples" / "chest-xray-policy.yaml")
REPORTS = {
    "bench": ("bench", "none.medfm", "--study", "none", "--teacher", "none", "--policy", "none"),
    "explain": ("explain", "none.medfm", "--study", "none", "--teacher", "none"),
    "gate": ("gate", "--bundle", "none.medfm", "--study", "none", "--teacher", "none"),
}


def refuse(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """The complaint of a command that ends with exit code 2."""
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error
    return error


@pytest.mark.parametrize("name", BUNDLES)
def test_a_bundle_that_is_there_is_not_replaced_unasked(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, name: str
) -> None:
    out = tmp_path / "b.medfm"
    out.write_bytes(b"a bundle")
    assert "b.medfm exists; name another file, or replace it with --overwrite" in refuse(
        capsys, *BUNDLES[name], "--out", out
    )
    assert "exists" not in refuse(capsys, *BUNDLES[name], "--out", out, "--overwrite")
    assert out.read_bytes() == b"a bundle"  # what could not be made replaces nothing


@pytest.mark.parametrize(("name", "held"), [("explain", "explanations"), *product(("bench", "gate"), REPORT_FILES)])
def test_a_report_that_is_there_is_not_replaced_unasked(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, name: str, held: str
) -> None:
    words = REPORTS[name]
    (tmp_path / held).write_text("x")
    complaint = f"has {held} already; name another folder, or replace it with --overwrite"
    if name == "gate":
        words = (*words, "--policy", POLICY)
    assert complaint in refuse(capsys, *words, "--out", tmp_path)
    assert complaint not in refuse(capsys, *words, "--out", tmp_path, "--overwrite")


@pytest.mark.parametrize("option", ["--junit", "--markdown", "--sarif"])
def test_the_gate_does_not_replace_a_file_unasked(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, option: str
) -> None:
    words = ("gate", tmp_path / "none.json", "--policy", POLICY, option)
    (tmp_path / "file").write_text("precious")
    assert f"{option} {tmp_path / 'file'} exists" in refuse(capsys, *words, tmp_path / "file")
    assert "exists" not in refuse(capsys, *words, tmp_path / "file", "--overwrite")
    assert "give the path of a file" in refuse(capsys, *words, "")
    assert (tmp_path / "file").read_text() == "precious"


def test_the_demo_replaces_no_policy_unasked(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "policy.yaml").write_text("mine")
    assert "policy.yaml is not the demo's" in refuse(capsys, "demo", "--out", tmp_path)
    assert (tmp_path / "policy.yaml").read_text() == "mine"


@pytest.mark.parametrize("name", BUNDLES)
@pytest.mark.parametrize("out", ["x.onnx", "x", "x.medfm.zip"])
def test_a_bundle_ends_in_medfm(capsys: pytest.CaptureFixture[str], name: str, out: str) -> None:
    assert f"--out is {out}; give the path of a .medfm file" in refuse(capsys, *BUNDLES[name], "--out", out)


@pytest.mark.parametrize("name", [*BUNDLES, *MODELS, *REPORTS, "split", "demo", "compress"])
@pytest.mark.parametrize("out", ["", "."])
def test_an_empty_out_is_refused(capsys: pytest.CaptureFixture[str], name: str, out: str) -> None:
    others = {"split": ("study", "split", "none", "--test", "0.2"), "demo": ("demo",), "compress": ("compress", "none")}
    words = (BUNDLES | MODELS | REPORTS | others)[name]
    if name == "gate":
        words = (*words, "--policy", POLICY)
    assert "--out is empty" in refuse(capsys, *words, "--out", out)


@pytest.mark.parametrize("name", MODELS)
def test_a_finished_model_is_not_replaced_unasked(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, name: str
) -> None:
    out = tmp_path / "m"
    (out / "training").mkdir(parents=True)
    assert "--overwrite" not in refuse(capsys, *MODELS[name], "--out", out)  # what an interrupted run left
    (out / ("backbone.json" if name == "pretrain" else "model.json")).write_text("{}")
    assert "holds a finished model; name another folder, or write into it with --overwrite" in refuse(
        capsys, *MODELS[name], "--out", out
    )
    assert "--overwrite" not in refuse(capsys, *MODELS[name], "--out", out, "--overwrite")


def test_a_folder_of_other_things_is_not_written_into_unasked(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "thesis.txt").write_text("x")
    assert "is a folder that is not empty" in refuse(capsys, *MODELS["finetune"], "--out", tmp_path)
    (tmp_path / "new").mkdir()
    assert "--overwrite" not in refuse(capsys, *MODELS["finetune"], "--out", tmp_path / "new")


def test_split_does_not_replace_a_table_unasked(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = tmp_path / "cases.csv"
    out.write_text("image,split\n")
    assert "--overwrite" in refuse(capsys, "study", "split", tmp_path, "--test", "0.2", "--out", out)
    assert out.read_text() == "image,split\n"


def test_a_misspelt_student_is_refused_before_the_teacher_is_opened(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    words = ("distill", "none", "--study", "none", "--out", tmp_path / "m", "--student")
    assert "timm has no model 'resnet18z'; near it: " in refuse(capsys, *words, "resnet18z")
    assert "scaled student" in refuse(capsys, *words, "scaled:width=wide")
    assert not (tmp_path / "m").exists()


def test_an_unknown_rule_is_refused_before_any_work(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    error = refuse(capsys, *BUNDLES["export"], "--out", tmp_path / "b.medfm", "--rule", "best")
    assert "operating point rule 'best' is unknown" in error
    with pytest.raises(InputError, match="operating point rule"):
        ExportStep(rule="sensitivity>=95")


@pytest.mark.parametrize(("modality", "coloured", "warned"), [
    ("radiograph", True, True), ("radiograph", False, False), ("dermoscopy", True, False),
])  # fmt: skip
def test_colour_images_with_the_augmentation_of_radiographs_are_warned_of(
    tmp_path: Path, modality: str, coloured: bool, warned: bool
) -> None:
    for number in range(16):
        values = np.random.default_rng(number).integers(0, 255, (40, 40, 3), dtype=np.uint8)
        values = values if coloured else np.repeat(values[..., :1], 3, axis=2)
        Image.fromarray(values).save(tmp_path / f"{number}.png")
    rows = "".join(f"{number}.png,{('train', 'val')[number // 8]},{number % 2}\n" for number in range(16))
    (tmp_path / "cases.csv").write_text(f"image,split,label\n{rows}")
    training = TrainingConfig(epochs=1, batch_size=8, device="cpu", precision="fp32", modality=modality)  # type: ignore[arg-type]
    lines: list[str] = []
    steps.finetune(tmp_path, FinetuneStep(model="test_resnet", image_size=32, training=training), lines.append,
                   tmp_path / "model")  # fmt: skip
    assert any("give --modality dermoscopy" in line for line in lines) == warned
