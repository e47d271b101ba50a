"""DICOM files as a study: with a table, in class folders, and without labels."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from pydicom import dcmread

from medfm_compress.data.open import open_study
from medfm_compress.data.study import Study
from medfm_compress.runtime.errors import StudyError


def arrange(drawn: Study, folder: Path, place: str, count: int = 30) -> Path:
    for number, case in enumerate(drawn.cases[:count]):
        label = drawn.labels[case.target[0]]
        target = folder / place.format(label=label, patient=case.patient, number=number)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(drawn.root.parent / case.image, target)
    return folder


def test_files_in_folders_of_patients_are_unlabelled(drawn: Study, tmp_path: Path) -> None:
    study = open_study(arrange(drawn, tmp_path, "{patient}/{number}"))
    assert study.labels == ()
    assert {case.split for case in study.cases} == {"unlabelled"}
    assert len({case.patient for case in study.cases}) == len({case.patient for case in drawn.cases[:30]})
    assert not any("SYN" in case.patient for case in study.cases)
    assert {case.subgroups["sex"] for case in study.cases} == {"F", "M"}
    assert all(case.subgroups["age"].endswith("9") for case in study.cases)


def test_a_flat_folder_is_unlabelled(drawn: Study, tmp_path: Path) -> None:
    assert open_study(arrange(drawn, tmp_path, "{number}.dcm", 5)).labels == ()


def test_folders_of_several_patients_are_classes(drawn: Study, tmp_path: Path) -> None:
    study = open_study(arrange(drawn, tmp_path, "{label}/{number}.dcm"))
    assert study.labels == ("normal", "opacity")
    assert all(case.patient for case in study.cases)


def test_a_table_without_patients_takes_them_from_the_files(drawn: Study, tmp_path: Path) -> None:
    arrange(drawn, tmp_path, "{number}.dcm", 2)
    (tmp_path / "cases.csv").write_text("image,split,label,sex\n0.dcm,train,x,U\n1.dcm,train,y,\n")
    study = open_study(tmp_path)
    assert all(len(case.patient) == 16 for case in study.cases)
    assert study.cases[0].subgroups["sex"] == "U"  # the table's word counts
    assert "age" in study.cases[0].subgroups


def test_an_issuer_that_some_files_lack_does_not_make_two_patients(drawn: Study, tmp_path: Path) -> None:
    def patients(*issuers: str) -> list[str]:
        folder = tmp_path / f"study-{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        for number, issuer in enumerate(issuers):
            dataset = dcmread(drawn.root.parent / drawn.cases[number].image)
            dataset.PatientID = "4711"
            if issuer:
                dataset.IssuerOfPatientID = issuer
            dataset.save_as(folder / f"{number}.dcm")
        return [case.patient for case in open_study(folder).cases]

    assert len(set(patients("", "HOSPITAL-A", ""))) == 1
    # Two issuers are two patients, unless a bare ID may be of either.
    assert len(set(patients("HOSPITAL-A", "HOSPITAL-B"))) == 2
    # Held for one: two would let leakage pass unseen.
    assert len(set(patients("", "HOSPITAL-A", "HOSPITAL-B"))) == 1


@pytest.mark.parametrize("with_table", [True, False])
def test_slices_of_a_ct_series_are_refused_by_name(drawn: Study, tmp_path: Path, with_table: bool) -> None:
    for number in range(3):
        dataset = dcmread(drawn.root.parent / drawn.cases[number].image)
        dataset.Modality, dataset.SeriesInstanceUID = "CT", "2.25.1"
        dataset.save_as(tmp_path / f"{number}.dcm")
    if with_table:
        rows = "".join(f"{number}.dcm,train,{number},p{number}\n" for number in range(3))
        (tmp_path / "cases.csv").write_text("image,split,label,patient\n" + rows)
    with pytest.raises(StudyError, match="3 files are slices of one CT series, a 3-D volume, which is out of scope"):
        open_study(tmp_path)
