"""A study and a device make the same number of the same words."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from medfm_compress.data.column_values import column_value
from medfm_compress.runtime.columns import NumericColumn
from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.fill_columns import fill_columns

WEIGHT = NumericColumn(name="weight", unit="kg", minimum=0, maximum=1e6)
AGE = NumericColumn(name="age", unit="years", minimum=0, maximum=1e6, dicom="PatientAge")


@pytest.mark.parametrize("unit", ["years", "months", "weeks", "days"])
@pytest.mark.parametrize("text", ["063Y", "006M", "018M", "010W", "051W", "010D", "000D"])
def test_an_age_is_the_same_in_training_and_on_the_device(text: str, unit: str) -> None:
    column = replace(AGE, unit=unit)
    filled = fill_columns([column], {}, {"PatientAge": text}).inputs["age"]
    assert column_value(column, text) == pytest.approx(float(filled[0, 0]), rel=1e-6)


@pytest.mark.parametrize("column", [WEIGHT, AGE], ids=["number", "age"])
@pytest.mark.parametrize("text", ["4_5", "4\u00b2", "4\u00bd", "\u0664\u0665", "\uff14\uff15", "\u2463", "inf"])
def test_what_the_device_takes_for_no_number_is_none_in_a_study(column: NumericColumn, text: str) -> None:
    with pytest.raises(InputError, match=f"{column.name} is .*, which is no "):
        column_value(column, text)
