"""Patient keys that may be one patient's: named, never merged; and none that are not."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from medfm_compress.data.check import check_study
from medfm_compress.data.study import Case, Study
from medfm_compress.data.written_forms import normal_form, similar_forms


def test_keys_that_differ_in_separators_are_named_and_stay_apart() -> None:
    assert similar_forms(["A-12", "a 12", "x3", "X 03", "y1", "Y1", ""]) == [("a 12", "a-12"), ("x 03", "x3")]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("P1", "P1."), ("1", "+1"), ("1", '="1"'), ("1", "[1]"), ("1", "#1"), ("p(1)", "P1"), ("12345", "12,345"),
        ("1234567", "1,234,567"), ("12345", '="12,345"'), ("12345", "12 345"), ("P1", "\u04201"),
        ("HB-1", "\u041d\u0412-1"),
        ("AX1", "\u0391\u03a71"), ("Doe^John", "Doe, John"), ("OBrien", "O'Brien"), ("ALI", "al\u0131"),
        ("\u0130", "i"),
        ("\u0130pek", "ipek"), ("P1", "P1\u2800"), ("s\u00f8r", "so\u0338r"), ("\u0141uk", "luk"),
        ("Mu 1", "M\u00fc 1"),
        ("P-1-2", "P1/2"), ("P12", "P-12"), ("x3", "x3.0"), ("2020-01-02", "2020/1/2"), ("A_B_1", "AB1"),
        ("123-45-6789", "123456789"), ("943 476 5919", "9434765919"), ("2023/0123", "20230123"),
        ("TCGA-02-0001", "TCGA020001"),
    ],
)  # fmt: skip
def test_keys_that_may_be_one_patient_are_named_and_stay_apart(one: str, other: str) -> None:
    assert normal_form(one) != normal_form(other)
    assert similar_forms([one, "Q9", other]) == [tuple(sorted(map(normal_form, (one, other))))]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("1.2.840.1", "1.28.401"), ("1.2.840.0.1", "1.2.840.1"), ("1.2.840.10", "1.2.8401.0"), ("P-12", "P1-2"),
        ("P-12", "P-1-2"), ("1-23", "12-3"), ("1.5", "15"), ("12,34", "1234"), ("1,2345", "12345"),
        ("123-45-6789", "1234-56-789"),
        ("1,234,5", "12345"),
        ("N1_0001", "N10001"), ("2020-1-12", "2020-11-2"), ("10", "1"), ("P10", "P1"), ("P100", "P10"), ("-", "+"),
        ("\u0439", "\u0438"), ("\u0e01\u0e34\u0e19", "\u0e01\u0e32\u0e19"), ("\u0915\u093f", "\u0915"), ("O1", "01"),
    ],
)  # fmt: skip
def test_keys_of_different_patients_are_not_called_alike(one: str, other: str) -> None:
    assert similar_forms([one, other]) == []


def test_ordinary_keys_are_not_called_alike() -> None:
    random = np.random.default_rng(3)
    pairs = [(site, number) for site in range(1, 30) for number in range(1, 130)]
    for form in ("P{}-{}", "{}_{}", "{}.{}", "s{}p{}", "{} {}", "{:03}/{:05}", "site {}, patient {}"):
        assert similar_forms(form.format(*pair) for pair in pairs) == []
    digits = random.integers(0, 10**6, (3000, 4))
    assert similar_forms("1.2.840." + ".".join(map(str, row)) for row in digits) == []
    assert similar_forms(hashlib.sha256(bytes([*divmod(n, 256)])).hexdigest()[:16] for n in range(5000)) == []
    assert similar_forms(f"PAT{n:05}" for n in range(5000)) == similar_forms(map(str, range(5000))) == []


def test_keys_and_file_names_of_real_studies_are_not_called_alike(shared_data: Path) -> None:
    count = 0
    for name in ("chest-xray-pneumonia", "lung-histology", "skin-lesion", "polyps", "nuclei"):
        with (shared_data / name / "cases.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        for column in ("patient", "image"):
            keys = {row[column] for row in rows if row.get(column)}
            count += len(keys)
            assert similar_forms(keys) == []
    assert count > 10_000


def test_study_check_names_a_patient_of_two_splits_who_is_spelt_in_two_ways(in_memory: Callable[..., Study]) -> None:
    keys = ("P1", "\u04201", "Doe^John", "Doe, John", "P-12", "P1-2")
    splits = ("train", "test", "train", "train", "train", "test")
    cases = [
        Case(image=f"{n}", split=split, target=(n % 2,), patient=key)
        for n, (key, split) in enumerate(zip(keys, splits, strict=True))
    ]
    (remark,) = [text for text in check_study(in_memory(cases)).remarks if "groups of patient keys" in text]
    assert remark.startswith(
        "2 groups of patient keys differ in punctuation, zeros, accents or letters that look alike"
    )
    assert "1 of them in several splits, which would be leakage: 'p1' and '\\u04401'; they count as different" in remark
