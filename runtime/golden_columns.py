"""Values of columns for golden cases: drawn from the columns' definitions alone, so that a bundle need not store them.

u = the first 8 bytes of sha256("<seed>/<column>/<case>") as a fraction of 2^64. Of a number the value is

    μ + (4u − 2) σ, at least its minimum and at most its maximum

and categories are gone through in turn from one that u of case 0 names, so that every category comes up where there are
as many cases; a missing value, where one is answered, is a category of its own there and every fourth number.

What is drawn must never change: bundles hold the logits that belong to it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from medfm_compress.runtime.columns import CategoricalColumn, Column, encode_columns

_MISSING_EVERY = 4
_SPREAD = 4.0  # standard deviations from the lowest to the highest number


def golden_values(columns: Sequence[Column], case: int, seed: int = 0) -> dict[str, float | str | None]:
    """Column → value of golden case number ``case``; None where it is missing."""
    return {column.name: _value(column, case, seed) for column in columns}


def golden_columns(columns: Sequence[Column], count: int, seed: int = 0) -> dict[str, NDArray[np.float32]]:
    """Column → float32 ``[count, width]`` of the first ``count`` golden cases; nothing for no columns."""
    cases = [encode_columns(columns, golden_values(columns, case, seed)) for case in range(count)]
    return {column.name: np.concatenate([case[column.name] for case in cases]) for column in columns}


def _value(column: Column, case: int, seed: int) -> float | str | None:
    answered = column.missing != "refuse"
    if isinstance(column, CategoricalColumn):
        options = (*column.categories, None) if answered else column.categories
        return options[(int(_fraction(column.name, 0, seed) * len(options)) + case) % len(options)]
    if answered and case % _MISSING_EVERY == _MISSING_EVERY - 1:
        return None
    number = column.mean + _SPREAD * (_fraction(column.name, case, seed) - 0.5) * column.standard_deviation
    return min(max(number, column.minimum), column.maximum)


def _fraction(name: str, case: int, seed: int) -> float:
    """In [0, 1), the same on every machine."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}/{case}".encode()).digest()[:8], "big") / 2.0**64
