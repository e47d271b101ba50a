"""Candidates for where a fast placement misses the error limit: the same kernels with numbers that suit this placement.

The search builds on what is best where the limits are met, and that is another placement's numbers. So the fastest
placement that nothing but its error keeps from shipping gets numbers of its own, cheap ones first, each change on top
of what helped so far.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from medfm_compress.compress.quantization.methods import (
    EXPLICIT_STRENGTHS,
    SECOND_ESTIMATOR,
    TRAINED,
    DoesNotApply,
    Lookup,
    Method,
)


def missed_candidates(lookup: Lookup) -> Iterator[Method | DoesNotApply]:
    """See above; those that have not been tried yet."""
    if lookup.missed() is None:
        reason = "no faster candidate misses the error limit alone"
        yield DoesNotApply(candidate="int8-for-a-faster-placement", reason=reason)
        return
    for change in _changes(lookup):
        start = lookup.missed()
        if start is None:
            return
        changed = msgspec.structs.replace(start, **change)
        if start.estimator != TRAINED and not lookup.tried(changed):
            yield changed


def _changes(lookup: Lookup) -> Iterator[dict[str, Any]]:
    yield {"estimator": SECOND_ESTIMATOR, "smoothquant": lookup.smooths()}
    yield {"bias_correction": True}
    for strength in EXPLICIT_STRENGTHS if lookup.divides() else ():
        yield {"divided": strength}
    yield {"symmetric": "none"}  # finer steps, where zero points had been done without
