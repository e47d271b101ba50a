"""Anomaly studies: normal labels divide the cases, and what is not normal need not be learned."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medfm_compress.data.check import check_study
from medfm_compress.data.fingerprint import study_fingerprint
from medfm_compress.data.normal_labels import normal_cases
from medfm_compress.data.open import open_study, open_study_of
from medfm_compress.data.splitting import SplitPlan, split_study
from medfm_compress.data.table import write_table
from medfm_compress.export.cases import check_labels, sample_cases
from medfm_compress.runtime.errors import StudyError
from medfm_compress.runtime.task import Task

ROWS = (
    ("train", "benign"),
    ("train", "scar"),
    ("train", "carcinoma"),
    ("val", "benign"),
    ("test", "benign"),
    ("test", "carcinoma"),
    ("test", "sarcoma"),  # stands nowhere else
)


def study_in(folder: Path, rows: tuple[tuple[str, str], ...] = ROWS) -> Path:
    lines = ["image,split,label,sex"]
    for number, (split, label) in enumerate(rows):
        values = np.random.default_rng(number).integers(0, 255, (40, 40), dtype=np.uint8)
        Image.fromarray(values).save(folder / f"{number}.png")
        lines.append(f"{number}.png,{split},{label},F")
    (folder / "cases.csv").write_text("\n".join(lines) + "\n")
    return folder


def test_normal_labels_make_one_finding_of_all_others(tmp_path: Path) -> None:
    study = open_study(study_in(tmp_path), normal=("benign", "scar"))
    assert (study.kind, study.labels, study.normal) == ("anomaly", ("abnormal",), ("benign", "scar"))
    assert [case.target[0] for case in study.cases] == [0, 0, 1, 0, 0, 1, 1]
    assert [case.subgroups["label"] for case in study.cases] == [label for _, label in ROWS]
    assert [case.image for case in normal_cases(study, "train")] == ["0.png", "1.png"]
    assert sample_cases(study, "train", 9, 0) == study.cases[:2], "what is abnormal calibrates nothing"
    assert "1 of 3 cases of train are not normal; nothing is learned or decided from them" in study.remarks
    assert study.task == Task(kind="anomaly", labels=("abnormal",), normal=("benign", "scar"))


def test_a_model_opens_its_study_with_its_own_normal_labels(tmp_path: Path) -> None:
    path = study_in(tmp_path)
    task = Task(kind="anomaly", labels=("abnormal",), normal=("benign",))
    study = open_study_of(task, path)
    check_labels(study, task)
    other = open_study(path, normal=("benign", "scar"))
    with pytest.raises(StudyError, match=r"takes benign for normal, .* with benign, scar as"):
        check_labels(other, task)
    with pytest.raises(StudyError, match="with nothing as normal"):
        check_labels(open_study(study_in(tmp_path, ROWS[:6])), task)
    assert study_fingerprint(study) != study_fingerprint(other)


@pytest.mark.parametrize(
    ("rows", "normal", "sentence"),
    [
        (ROWS, ("healthy",), "no label 'healthy' that could be normal; its labels are 'benign', 'carcinoma'"),
        (ROWS, ("sarcoma",), "train has no normal case .*1 'benign', 1 'carcinoma'"),
        (ROWS, ("benign", "benign"), "name each of them once"),
        ((*ROWS, ("val", "")), ("benign",), "1 cases of train, val or test have no label"),
        ((*ROWS, ("val", "Benign")), ("benign",), "differ only in case"),
    ],
)
def test_what_cannot_be_used_is_said(
    tmp_path: Path, rows: tuple[tuple[str, str], ...], normal: tuple[str, ...], sentence: str
) -> None:
    with pytest.raises(StudyError, match=sentence):
        open_study(study_in(tmp_path, rows), normal=normal)


def test_masks_and_normal_labels_are_not_asked_for_together(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="give one of them"):
        open_study(study_in(tmp_path), normal=("benign",), structures=("lesion",))
    (tmp_path / "cases.csv").write_text("image,split,label:a\n0.png,train,1\n1.png,train,0\n")
    with pytest.raises(StudyError, match="no column 'label'"):
        open_study(tmp_path, normal=("benign",))


def test_a_test_split_without_anything_abnormal_is_fine_and_said(tmp_path: Path) -> None:
    rows = (("train", "benign"), ("val", "benign"), ("test", "benign"))
    study = open_study(study_in(tmp_path, rows), normal=("benign",))
    assert any("no case of test is abnormal" in remark for remark in study.remarks)
    checked = check_study(study)
    assert not checked.errors
    assert any("val has 1 images and 1 of 'normal'" in remark for remark in checked.remarks)
    rows = (("train", "benign"), ("test", "carcinoma"))
    assert any(
        "no case of test is normal" in r for r in open_study(study_in(tmp_path, rows), normal=("benign",)).remarks
    )


def test_a_new_test_split_gets_what_is_abnormal(tmp_path: Path) -> None:
    rows = (*(("train", "benign"),) * 20, *(("train", "carcinoma"),) * 6)
    study = open_study(study_in(tmp_path, rows), normal=("benign",))
    cut = split_study(study, SplitPlan(val=0.2, test=0.2, keep_test=False)).study
    counts = Counter((case.split, case.target[0]) for case in cut.cases)
    assert counts == {("train", 0): 12, ("val", 0): 4, ("test", 0): 4, ("test", 1): 6}
    write_table(cut, tmp_path / "cut.csv")
    again = open_study(tmp_path / "cut.csv", normal=("benign",))
    assert [(c.image, c.split, c.target, c.subgroups) for c in again.cases] == [
        (c.image, c.split, c.target, c.subgroups) for c in cut.cases
    ]


def test_folders_of_classes_have_normal_labels_too(tmp_path: Path) -> None:
    for split, label in (("train", "0"), ("train", "1"), ("test", "2")):
        (tmp_path / split / label).mkdir(parents=True)
        Image.fromarray(np.full((40, 40), int(label), np.uint8)).save(tmp_path / split / label / "a.png")
    study = open_study(tmp_path, normal=("0",))
    assert [case.target for case in study.cases] == [(1,), (0,), (1,)]


def test_images_without_labels_are_taken_for_a_model_of_anomalies(tmp_path: Path) -> None:
    from medfm_compress.data.image_folder import open_images
    from medfm_compress.runtime.image_spec import ImageSpec

    task = Task(kind="anomaly", labels=("abnormal",), normal=("benign",))
    for number in range(12):
        values = np.random.default_rng(number).integers(0, 255, (40, 40), dtype=np.uint8)
        Image.fromarray(values).save(tmp_path / f"{number}.png")
    spec = ImageSpec(height_px=32, width_px=32, colour="grey", mean=(0.5,), std=(0.5,))
    study = open_images(tmp_path, task, spec, 8, 64, 0)
    check_labels(study, task)
    assert not any(case.target for case in study.cases)
