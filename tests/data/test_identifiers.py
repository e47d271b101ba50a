"""Which columns are said to identify patients."""

from __future__ import annotations

import pytest

from medfm_compress.data.identifiers import identifying, is_patient_key

NAMES = [
    "accession",
    "PatientName",
    "patient_name",
    "birth_date",
    "DOB",
    "StudyInstanceUID",
    "mrn",
    "e-mail",
    "Study Date",
    *("patient_id", "PatientID", "Patient-ID", "patient.id", "PATIENTID", "patient", "Subject", "subject_id", "pid"),
    *("case_id", "StudyID", "exam_id", "FileNumber", "file number", "visit_no", "ParticipantKey", "first_name"),
]


@pytest.mark.parametrize("column", NAMES)
def test_by_name(column: str) -> None:
    assert identifying(column, ["a"] * 100) == "by its name"


@pytest.mark.parametrize(
    "column",
    [
        "sex",
        "age",
        "site",
        "scanner",
        "filename_format",
        "update",
        "bodypart",
        "view",
        "patient_sex",
        "PatientAge",
        "patient_weight",
        "case_mix",
        "study_arm",
        "site_id",
        "scanner_id",
        "lesion_id",
        "exam_room",
        "person_years",
    ],
)
def test_ordinary_columns_are_left_alone(column: str) -> None:
    assert identifying(column, ["a", "b", ""] * 100) == ""


@pytest.mark.parametrize(
    ("column", "tells"),
    [(name, True) for name in ("Patient", "patient_id", "PatientID", "patients", "SUBJECT", "subject-id", "MRN", "pid")]
    + [(name, False) for name in ("patient_age", "PatientSex", "case_id", "lesion_id", "patient_group", "subjective")],
)
def test_names_that_tell_patients_apart(column: str, tells: bool) -> None:
    assert is_patient_key(column) is tells


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ([f"1967-0{n % 9 + 1}-1{n % 9}" for n in range(50)], "it holds dates"),
        ([f"0{n % 9 + 1}.1{n % 9}.1967" for n in range(50)], "it holds dates"),
        ([f"A{n:07d}" for n in range(50)], "nearly every row has a value of its own"),
        ([str(4_000_000 + n) for n in range(50)], "nearly every row has a value of its own"),
        ([str(n % 100) for n in range(90)], ""),
        ([f"{n * 0.37:.3f}" for n in range(50)], ""),
        (["A", "B"], ""),
    ],
)
def test_by_content(values: list[str], reason: str) -> None:
    assert identifying("x", values) == reason
