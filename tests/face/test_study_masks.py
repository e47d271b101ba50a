"""``medfm-compress study`` on studies with masks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from medfm_compress.cli.study import app
from medfm_compress.data.open import open_study
from medfm_compress.runtime.errors import InputError, StudyError


def run(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if isinstance(result.exception, Exception):
        raise result.exception
    return result.exit_code, result.stdout


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """Images with a label and a mask of values 0 and 200."""
    folder = tmp_path / "study"
    folder.mkdir()
    rows = ["image,split,label,mask"]
    for number in range(60):
        values = np.random.default_rng(number).integers(0, 255, (40, 48), dtype=np.uint8)
        Image.fromarray(values).save(folder / f"{number}.png")
        mask = np.zeros((40, 48), np.uint8)
        mask[5 : 5 + number % 7 * 3, 8:20] = 200
        Image.fromarray(mask).save(folder / f"{number}-mask.png")
        rows.append(f"{number}.png,train,{'benign' if number % 2 else 'malignant'},{number}-mask.png")
    (folder / "cases.csv").write_text("\n".join(rows) + "\n")
    return folder


def test_check_says_what_masks_show(study: Path) -> None:
    code, text = run("check", study, "--structure", "lesion")
    assert code == 0
    assert "share of the image that a structure covers" in text
    assert "60 images, segmentation" in text and "label: benign 30, malignant 30" in text
    code, text = run("check", study)
    assert code == 0 and "'mask' were not looked at; --structure NAME" in text


def test_a_mask_that_cannot_be_used_ends_with_2(study: Path) -> None:
    Image.fromarray(np.zeros((40, 40), np.uint8)).save(study / "3-mask.png")
    code, text = run("check", study, "--structure", "lesion")
    assert code == 2
    assert "unusable: 1 mask(s) cannot be used, first mask of '3.png': it is 40×40 px and the image 48×40 px" in text


def test_split_keeps_labels_and_says_how_to_open(study: Path, tmp_path: Path) -> None:
    out = tmp_path / "cut.csv"
    code, text = run("split", study, "--structure", "lesion", "--val", "0.2", "--test", "0.2", "--out", out)
    assert code == 0
    assert "opened with --structure lesion" in text
    opened = open_study(out, structures=("lesion",))
    assert {case.subgroups["label"] for case in opened.cases} == {"benign", "malignant"}
    assert [len(opened.split(name)) for name in ("train", "val", "test")] == [36, 12, 12]


def test_masks_then_tiles_then_check(study: Path, tmp_path: Path) -> None:
    code, text = run("masks", study, "--structure", "lesion=200", "--out", tmp_path / "masks")
    assert code == 0 and "60 masks converted; they show lesion" in text
    with pytest.raises(InputError, match="exists"):
        run("masks", study, "--structure", "lesion=200", "--out", tmp_path / "masks")
    code, text = run(
        "tiles", tmp_path / "masks", "--structure", "lesion", "--size", 32, "--overlap", 0, "--out", tmp_path / "tiles"
    )
    assert code == 0 and "60 images, 240 tiles of 32×32 px" in text
    code, text = run("check", tmp_path / "tiles", "--accept-leakage")
    assert "240 images, segmentation" in text and "image_label: benign 120, malignant 120" in text


def test_what_is_asked_for_wrongly_is_refused(study: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="write NAME"):
        run("masks", study, "--structure", "lesion=red", "--out", tmp_path / "x")
    with pytest.raises(StudyError, match="200, which stand for nothing"):
        run("masks", study, "--structure", "lesion=100", "--out", tmp_path / "x")
    with pytest.raises(InputError, match="overlap"):
        run("tiles", study, "--structure", "lesion", "--size", 32, "--overlap", 2, "--out", tmp_path / "x")
    with pytest.raises(StudyError, match="no study of masks"):
        run("tiles", study, "--size", 32, "--out", tmp_path / "x")
    assert not (tmp_path / "x" / "cases.csv").exists()
