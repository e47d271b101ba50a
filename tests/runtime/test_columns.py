"""What a value beside the image becomes, and what is refused; stored and digested with the bundle."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from medfm_compress.runtime.columns import (
    CategoricalColumn,
    Column,
    NumericColumn,
    check_columns,
    encode_columns,
)
from medfm_compress.runtime.errors import InputError

AGE = NumericColumn(
    name="age", unit="years", minimum=0, maximum=120, mean=50, standard_deviation=20, dicom="PatientAge"
)
SEX = CategoricalColumn(name="sex", categories=("F", "M"), missing="category", dicom="PatientSex")


def test_a_number_is_standardised_and_a_category_one_of_k() -> None:
    inputs = encode_columns([AGE, SEX], {"age": "70", "sex": "M"})

    assert list(inputs) == ["age", "sex"]
    np.testing.assert_array_equal(inputs["age"], [[1.0]])
    np.testing.assert_array_equal(inputs["sex"], [[0, 1, 0]])
    assert all(row.dtype == np.float32 for row in inputs.values())


@pytest.mark.parametrize(
    ("missing", "expected"), [("impute", [[0.0]]), ("category", [[0.0, 1.0]])], ids=["impute", "category"]
)
def test_a_missing_number(missing: str, expected: list[list[float]]) -> None:
    column = msgspec.structs.replace(AGE, missing=missing)

    np.testing.assert_array_equal(encode_columns([column], {})["age"], expected)
    assert column.width == len(expected[0])


def test_a_missing_category_is_its_own_or_the_imputed_one() -> None:
    imputing = CategoricalColumn(name="view", categories=("AP", "PA"), missing="impute", imputed="PA")

    np.testing.assert_array_equal(encode_columns([SEX], {"sex": None})["sex"], [[0, 0, 1]])
    np.testing.assert_array_equal(encode_columns([imputing], {})["view"], [[0, 1]])


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"sex": "F"}, "age is missing"),
        ({"age": 130, "sex": "F"}, "takes 0 to 120"),
        ({"age": "old", "sex": "F"}, "give a number"),
        ({"age": "nan", "sex": "F"}, "finite"),
        ({"age": "4_5", "sex": "F"}, "'4_5'; give a number"),
        ({"age": "\uff14\uff15", "sex": "F"}, "give a number"),
        ({"age": "\u0664\u0665", "sex": "F"}, "give a number"),
        ({"age": True, "sex": "F"}, "True; give a number"),
        ({"age": np.True_, "sex": "F"}, "give a number"),
        ({"age": b"45", "sex": "F"}, "give a number"),
        ({"age": [45], "sex": "F"}, "give a number"),
        ({"age": 3, "sex": "X"}, "takes F, M"),
        ({"age": 3, "weight": 3}, "no column 'weight'"),
    ],
)
def test_a_value_that_a_column_does_not_take(values: dict[str, float | str], said: str) -> None:
    with pytest.raises(InputError, match=said):
        encode_columns([AGE, SEX], values)


def test_two_columns_of_one_name() -> None:
    with pytest.raises(InputError, match="called 'age'"):
        check_columns([AGE, msgspec.structs.replace(AGE, unit="months")])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"name": "image"}, "not 'image'"),
        ({"name": "Age"}, "small letters"),
        ({"dicom": "patient age"}, "DICOM keyword"),
        ({"minimum": 120.0}, "range"),
        ({"maximum": float("inf")}, "finite"),
        ({"standard_deviation": 0.0}, "above 0"),
        ({"mean": -1.0}, "in the range"),
        ({"unit": ""}, "no unit"),
    ],
)
def test_a_numeric_column_that_makes_no_sense(change: dict[str, object], said: str) -> None:
    with pytest.raises(InputError, match=said):
        msgspec.structs.replace(AGE, **change)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"categories": ("F",)}, "different ones"),
        ({"categories": ("F", "F")}, "different ones"),
        ({"categories": ("F", " M")}, "spaces"),
        ({"missing": "impute"}, "name one"),
        ({"imputed": "F"}, "name one"),
    ],
)
def test_a_categorical_column_that_makes_no_sense(change: dict[str, object], said: str) -> None:
    with pytest.raises(InputError, match=said):
        msgspec.structs.replace(SEX, **change)


@pytest.mark.parametrize("text", ["70 years", " 70 ", "7e1"])
def test_a_unit_may_stand_behind_a_number(text: str) -> None:
    np.testing.assert_array_equal(encode_columns([AGE], {"age": text})["age"], [[1.0]])


def test_a_number_without_a_unit_is_not_cut() -> None:
    count = NumericColumn(name="parity", unit="1", minimum=0, maximum=99)
    np.testing.assert_array_equal(encode_columns([count], {"parity": "11"})["parity"], [[11.0]])


def test_another_unit_is_no_number() -> None:
    with pytest.raises(InputError, match="'70 months'; give a number, in years"):
        encode_columns([AGE], {"age": "70 months"})


def test_whole_numbers_make_the_same_column() -> None:
    assert msgspec.json.encode(AGE) == msgspec.json.encode(msgspec.structs.replace(AGE, minimum=0.0, maximum=120.0))


def test_codes_say_categories_of_an_attribute() -> None:
    with pytest.raises(InputError, match="codes for 'X', which is no category"):
        msgspec.structs.replace(SEX, codes={"F": "X"})
    with pytest.raises(InputError, match="codes and no DICOM keyword"):
        msgspec.structs.replace(SEX, codes={"F": "F"}, dicom="")


def test_columns_are_read_back_as_they_were_written() -> None:
    columns: tuple[Column, ...] = (AGE, SEX)

    assert msgspec.json.decode(msgspec.json.encode(columns), type=tuple[Column, ...]) == columns
