"""A folder of images without labels: which calibrate, which judge, and what is left out."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny_onnx

from medfm_compress.data.image_folder import open_images
from medfm_compress.data.open import open_study
from medfm_compress.data.study import Study
from medfm_compress.runtime.errors import StudyError
from medfm_compress.runtime.task import Task

TASK = Task(kind="multiclass", labels=("a", "b", "c"))


def images_of(folder: Path, most: int = 100, seed: int = 0) -> Study:
    return open_images(folder, TASK, tiny_onnx.SPEC, 8, most, seed)


@pytest.mark.parametrize("count", [12, 13, 40])
def test_two_of_three_calibrate_and_the_others_judge(count: int, tmp_path: Path) -> None:
    study = images_of(tiny_onnx.draw_images(tmp_path / "deep" / "er", count).parent)
    train, val = study.split("train"), study.split("val")
    assert len(train) + len(val) == count and len(train) >= 8 and len(val) >= 4
    assert len(val) == (count + 1) // 3
    assert not any(case.target for case in study.cases)
    assert (study.labels, study.kind, study.remarks) == (TASK.labels, "multiclass", ())
    assert images_of(tmp_path / "deep").cases == study.cases


def test_no_more_are_read_than_are_asked_for(tmp_path: Path) -> None:
    assert len(images_of(tiny_onnx.draw_images(tmp_path / "x", 30), most=15).cases) == 15


def test_what_cannot_be_used_is_left_out_and_said(tmp_path: Path) -> None:
    folder = tiny_onnx.draw_images(tmp_path / "x", 12)
    (folder / "broken.png").write_bytes((folder / "00.png").read_bytes()[:60])
    (folder / "text.png").write_text("no image")
    (folder / "notes.txt").write_text("no image either")
    study = images_of(folder)
    assert len(study.cases) == 12
    unread, remark = study.remarks
    assert unread == "1 file(s) that are no images are not read: 1 .txt"
    assert remark.startswith("left out 2 image(s) that cannot be used, the first: image '")


def test_a_table_beside_the_images_is_not_read_and_said(tmp_path: Path) -> None:
    folder = tiny_onnx.draw_images(tmp_path / "x", 12)
    (folder / "cases.csv").write_text("image,label\n00.png,a\n")
    (folder / ".hidden.csv").write_text("")
    (remark,) = images_of(folder).remarks
    assert remark == ("1 file(s) that are no images are not read: 1 .csv; labels in cases.csv count with --study alone")


def test_a_study_without_labels_asks_nothing_of_a_network(tmp_path: Path) -> None:
    study = open_study(tiny_onnx.draw_images(tmp_path / "x", 2))
    with pytest.raises(
        StudyError, match=r"x has no labels; put its images into a folder per class, or give a cases.csv"
    ):
        _ = study.task
    with pytest.raises(StudyError, match=r"no labelled case in split 'train', nor in another; put its images into"):
        study.labelled_split("train")


@pytest.mark.parametrize("count", [0, 3, 11])
def test_too_few_say_how_many_are_needed(count: int, tmp_path: Path) -> None:
    folder = tiny_onnx.draw_images(tmp_path / "x", count)
    with pytest.raises(
        StudyError, match=rf"has {count} images that can be used.* at least 8, and judging 4, .* give 12"
    ):
        images_of(folder)


def test_a_folder_must_be_one(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("")
    for name in ("x", "gone"):
        with pytest.raises(StudyError, match="is no folder"):
            images_of(tmp_path / name)


def test_images_that_are_all_too_small_are_refused_with_the_reason(tmp_path: Path) -> None:
    from PIL import Image

    for number in range(12):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{number}.png")
    with pytest.raises(StudyError, match=r"has 0 images.*12 image"):
        images_of(tmp_path)
