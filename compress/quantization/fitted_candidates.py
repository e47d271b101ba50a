"""Candidates for where a fast placement misses the error limit: the same kernels with numbers that are chosen better.

They take longer to make than the others, so they are tried only for the fastest placement that nothing but its error
keeps from shipping, one change on top of what helped so far.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from medfm_compress.compress.quantization.methods import DoesNotApply, Lookup, Method


def more_faithful(lookup: Lookup) -> Iterator[Method | DoesNotApply]:
    """See above; nothing where no candidate missed the error limit alone."""
    if lookup.missed() is None:
        yield DoesNotApply(candidate="int8-fitted", reason="no faster candidate misses the error limit alone")
        return
    if not lookup.equalizes():
        yield DoesNotApply(candidate="int8-equalized", reason="no residual stream takes up factors")
    for change in _changes(lookup):
        start = lookup.missed()
        if start is None:
            return
        yield msgspec.structs.replace(start, **change)


def _changes(lookup: Lookup) -> Iterator[dict[str, Any]]:
    if lookup.equalizes():
        yield {"equalized": True}
    yield {"fitted": "biases", "bias_correction": False}
    yield {"fitted": "weights", "bias_correction": False}
