"""Is this bundle slower than the one before it? Interleaved pairs of fresh processes, with an effect floor.

The unit is a pair of processes (old, new, old, new, …), because what differs from process to process (memory layout,
which core, what was cached) is not seen inside one.
"""

from __future__ import annotations

import msgspec

from medfm_compress.bench.types import Interval


class Slowdown(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One variant against the same variant of an earlier bundle.

    Attributes:
        variant: name of the variant.
        baseline_digest: ``model_digest`` of the earlier bundle.
        baseline_p50_ms: median of each pair's earlier process.
        p50_ms: median of each pair's later process.
        ratio: geometric mean of new / old over the pairs, above 1 where the new one is slower.
    """

    variant: str
    baseline_digest: str
    baseline_p50_ms: tuple[float, ...]
    p50_ms: tuple[float, ...]
    ratio: Interval
