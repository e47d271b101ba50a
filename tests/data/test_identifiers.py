"""Which columns are said to identify patients."""

from __future__ import annotations

import pytest

from medfm_compress.data.identifiers import identifying

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
]


@pytest.mark.parametrize("column", NAMES)
def test_by_name(column: str) -> None:
    assert identifying(column, ["a"] * 100) == "by its name"


@pytest.mark.parametrize("column", ["sex", "age", "site", "scanner", "filename_format", "update", "bodypart", "view"])
def test_ordinary_columns_are_left_alone(column: str) -> None:
    assert identifying(column, ["a", "b", ""] * 100) == ""


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
