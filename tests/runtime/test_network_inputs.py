"""Images alone and images with columns are cut, joined and fed to a session alike."""

from __future__ import annotations

import numpy as np
import pytest

from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.network_inputs import (
    ImagesAndColumns,
    arguments_of,
    columns_of,
    feed,
    images_of,
    joined,
    rows_of,
    with_columns,
)

IMAGES = np.arange(3 * 4, dtype=np.float32).reshape(3, 1, 2, 2)
COLUMNS = {"age": np.float32([[0.5], [1], [2]]), "sex": np.float32([[1, 0], [0, 1], [1, 0]])}


def test_without_columns_the_images_are_all_there_is() -> None:
    assert with_columns(IMAGES, {}) is IMAGES
    assert images_of(IMAGES) is IMAGES and columns_of(IMAGES) == {} and arguments_of(IMAGES) == (IMAGES,)
    assert list(feed(["x"], IMAGES)) == ["x"]
    np.testing.assert_array_equal(joined([IMAGES[:1], IMAGES[1:]]), IMAGES)


def test_columns_are_cut_with_their_images() -> None:
    inputs = with_columns(IMAGES, COLUMNS)
    assert isinstance(inputs, ImagesAndColumns) and len(inputs) == 3
    last = inputs[[2, 0]]
    np.testing.assert_array_equal(images_of(last), IMAGES[[2, 0]])
    np.testing.assert_array_equal(columns_of(last)["age"], [[2], [0.5]])
    parts = list(rows_of(inputs))
    assert [len(part) for part in parts] == [1, 1, 1]
    again = joined(parts)
    for array, expected in zip(arguments_of(again), (IMAGES, *COLUMNS.values()), strict=True):
        np.testing.assert_array_equal(array, expected)


def test_a_session_gets_each_input_by_its_name_whatever_their_order() -> None:
    fed = feed(["sex", "pixels", "age"], with_columns(IMAGES, COLUMNS))
    np.testing.assert_array_equal(fed["pixels"], IMAGES)
    np.testing.assert_array_equal(fed["sex"], COLUMNS["sex"])


@pytest.mark.parametrize("names", [["image"], ["image", "age"], ["image", "age", "sex", "view"], ["age", "sex"]])
def test_a_session_with_other_inputs_than_there_are_columns(names: list[str]) -> None:
    with pytest.raises(InputError, match="columns given: 'age', 'sex'"):
        feed(names, with_columns(IMAGES, COLUMNS))


def test_other_numbers_of_cases() -> None:
    with pytest.raises(InputError, match="3 images"):
        with_columns(IMAGES, {"age": COLUMNS["age"][:2]})
