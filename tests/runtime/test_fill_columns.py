"""Columns of one image: from the caller, from the file, both, or neither; and what is refused without saying whose."""

from __future__ import annotations

import numpy as np
import pytest
from msgspec.structs import replace

from medfm_compress.runtime.columns import NumericColumn
from medfm_compress.runtime.errors import ImageRefused, InputError
from medfm_compress.runtime.fill_columns import fill_columns, only_by_argument
from tests.helpers.tiny_columns import AGE, COLUMNS, SEX, VIEW

WEIGHT = NumericColumn(name="weight", unit="kg", minimum=1, maximum=300, mean=70, dicom="PatientWeight")


def years(text: str) -> float:
    filled = fill_columns([replace(AGE, mean=0, standard_deviation=1)], {}, {"PatientAge": text})
    return float(filled.inputs["age"][0, 0])


def test_the_file_fills_what_is_not_given() -> None:
    filled = fill_columns(COLUMNS, {}, {"PatientAge": "070Y", "PatientSex": "M"})

    assert filled.sources == {"age": "PatientAge", "sex": "PatientSex", "view": "imputed"}
    np.testing.assert_array_equal(filled.inputs["age"], [[1.0]])
    np.testing.assert_array_equal(filled.inputs["sex"], [[0, 1, 0]])
    np.testing.assert_array_equal(filled.inputs["view"], [[0, 1]])


def test_arguments_fill_what_the_file_lacks() -> None:
    filled = fill_columns(COLUMNS, {"age": "30", "view": "AP"}, {})

    assert filled.sources == {"age": "argument", "sex": "missing", "view": "argument"}
    np.testing.assert_array_equal(filled.inputs["age"], [[-1.0]])
    np.testing.assert_array_equal(filled.inputs["sex"], [[0, 0, 1]])


@pytest.mark.parametrize(
    ("text", "expected"),
    [("063Y", 63), ("006M", 0.5), ("052W", 52 * 7 / 365.25), ("010D", 10 / 365.25), ("000D", 0), ("7Y", 7)],
)
def test_ages_of_every_unit(text: str, expected: float) -> None:
    assert years(text) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("text", "expected"), [("063Y", 63), ("006M", 0.5), ("63 years", 63)])
def test_an_argument_may_be_written_as_dicom_does(text: str, expected: float) -> None:
    plain = replace(AGE, mean=0, standard_deviation=1)
    filled = fill_columns([plain], {"age": text}, {})
    assert float(filled.inputs["age"][0, 0]) == pytest.approx(expected) and filled.sources == {"age": "argument"}
    with pytest.raises(ImageRefused, match="age is given as 000Y, which is 0 years"):
        fill_columns([plain], {"age": "000Y"}, {})


def test_an_age_in_months() -> None:
    months = NumericColumn(name="age", unit="months", minimum=0, maximum=240, dicom="PatientAge")
    assert fill_columns([months], {}, {"PatientAge": "002Y"}).inputs["age"][0, 0] == pytest.approx(24)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("000Y", "0 years, which is no age"),
        ("000M", "0 months"),
        ("000W", "0 weeks"),
        ("200Y", "nobody reaches"),
        ("063", "no age; DICOM writes"),
        ("-05Y", "no age"),
        ("63 years", "no age"),
        ("063y", "no age"),
        ("1063Y", "no age"),
        ("063Y\\064Y", "several values"),
        ("115Y", "not what the model takes as age, 0 to 110 years"),
    ],
)
def test_an_age_that_is_none_is_refused_and_not_said(text: str, reason: str) -> None:
    with pytest.raises(ImageRefused, match=reason) as refusal:
        years(text)
    assert text not in str(refusal.value).replace("such as 063Y", "")


@pytest.mark.parametrize(("given", "value"), [("50Y", 50), ("050Y", 50), ("6M", 0.5), (" 50 years ", 50), ("50", 50)])
def test_an_age_as_users_write_it(given: str, value: float) -> None:
    assert (
        fill_columns([AGE], {"age": given}, {}).inputs["age"] == fill_columns([AGE], {"age": value}, {}).inputs["age"]
    )


@pytest.mark.parametrize("given", ["50y", "1050Y", "fifty", "50 months"])
def test_an_argument_that_is_no_age_names_both_ways_to_write_one(given: str) -> None:
    with pytest.raises(ImageRefused, match=f"'{given}'; give a number, in years, or an age .* such as 050Y"):
        fill_columns([AGE], {"age": given}, {})


def test_an_argument_stands_in_for_an_age_that_is_none() -> None:
    filled = fill_columns([AGE], {"age": 50}, {"PatientAge": "000Y"})
    assert filled.sources == {"age": "argument"}


@pytest.mark.parametrize("given", [63, 63.9, "62.5", 64])
def test_an_argument_that_agrees_with_completed_years(given: float | str) -> None:
    assert fill_columns([AGE], {"age": given}, {"PatientAge": "063Y"}).sources == {"age": "argument"}


@pytest.mark.parametrize(
    ("given", "attributes"),
    [
        ({"age": 65}, {"PatientAge": "063Y"}),
        ({"age": 5, "sex": "male"}, {"PatientSex": "F"}),
        ({"age": 5, "sex": "male"}, {"PatientSex": "O"}),
        ({"age": 5, "view": "AP"}, {"ViewPosition": "LL"}),
    ],
)
def test_an_argument_that_contradicts_the_file(given: dict[str, float | str], attributes: dict[str, str]) -> None:
    with pytest.raises(ImageRefused, match="of the file says something else"):
        fill_columns(COLUMNS, given, attributes)


@pytest.mark.parametrize(
    ("given", "attributes", "reason"),
    [
        ({}, {}, "age is missing, and the file has no PatientAge: .*0 to 110 years"),
        ({"age": None}, {}, "age is missing"),
        ({"age": 120}, {}, "takes 0 to 110"),
        ({"age": "nan"}, {}, "finite"),
        ({"age": "4_5"}, {}, "'4_5'; give a number"),
        ({"age": "\u0660\u0664\u0665Y"}, {}, "give a number"),
        ({"age": True}, {}, "give a number"),
        ({}, {"PatientAge": "4_5Y"}, "is no age"),
        ({}, {"PatientAge": "\u0660\u0664\u0665Y"}, "is no age"),
        ({"age": 5, "sex": "F"}, {}, "takes female, male"),
        ({"age": 5}, {"PatientSex": "O"}, "PatientSex of the file .* one of female, male"),
        ({"age": 5}, {"ViewPosition": "LATERAL"}, "one of AP, PA"),
    ],
)
def test_what_is_refused(given: dict[str, float | str | None], attributes: dict[str, str], reason: str) -> None:
    with pytest.raises(ImageRefused, match=reason):
        fill_columns(COLUMNS, given, attributes)


@pytest.mark.parametrize("text", ["heavy", "inf", "nan", "70,5", "70\\71", "7_0", "\u0667\u0660"])
def test_a_number_that_is_none(text: str) -> None:
    with pytest.raises(ImageRefused, match="PatientWeight of the file"):
        fill_columns([WEIGHT], {}, {"PatientWeight": text})


def test_a_number_may_be_rounded() -> None:
    assert fill_columns([WEIGHT], {"weight": 70.02}, {"PatientWeight": "70"}).sources == {"weight": "argument"}
    with pytest.raises(ImageRefused, match="something else"):
        fill_columns([WEIGHT], {"weight": 71}, {"PatientWeight": "70"})


def test_a_column_that_the_model_does_not_have() -> None:
    with pytest.raises(InputError, match="no column 'weight'; it takes age, sex, view"):
        fill_columns(COLUMNS, {"weight": 3}, {})
    with pytest.raises(InputError, match="takes none"):
        fill_columns([], {"age": 3}, {})


def test_which_columns_only_an_argument_gives() -> None:
    assert only_by_argument([replace(AGE, dicom=""), SEX, replace(VIEW, dicom="")]) == ("age",)
