"""Golden values of columns follow from the definitions: the same everywhere, every category, missing where answered."""

from __future__ import annotations

import numpy as np
from msgspec.structs import replace

from medfm_compress.runtime.columns import CategoricalColumn, NumericColumn
from medfm_compress.runtime.golden_columns import golden_columns, golden_values

AGE = NumericColumn(name="age", unit="years", minimum=18, maximum=60, mean=50, standard_deviation=20)
SEX = CategoricalColumn(name="sex", categories=("F", "M"), missing="category")


def test_values_stay_what_stored_logits_were_made_from() -> None:
    values = [golden_values([AGE, SEX], case) for case in range(4)]
    assert [value["sex"] for value in values] == [None, "F", "M", None]
    np.testing.assert_allclose([value["age"] for value in values], [47.5790, 22.8757, 60.0000, 50.4609], atol=1e-4)


def test_numbers_stay_in_their_range_and_differ() -> None:
    ages = [golden_values([AGE], case)["age"] for case in range(64)]
    assert min(ages) >= 18 and max(ages) == 60 and len(set(ages)) > 30
    assert ages != [golden_values([AGE], case, seed=1)["age"] for case in range(64)]


def test_missing_comes_up_only_where_it_is_answered() -> None:
    assert golden_values([replace(AGE, missing="impute")], 3) == {"age": None}
    never = replace(SEX, missing="refuse")
    assert {golden_values([never], case)["sex"] for case in range(8)} == {"F", "M"}


def test_arrays_have_a_row_a_case() -> None:
    drawn = golden_columns([AGE, SEX], 3)
    assert {name: array.shape for name, array in drawn.items()} == {"age": (3, 1), "sex": (3, 3)}
    assert golden_columns([], 3) == {}
