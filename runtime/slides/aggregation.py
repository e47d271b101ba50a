"""From the probabilities of tiles to that of their slide, one tile after the other.

max         max_i p_i
mean-top    mean of the k largest p_i (of all, where there are fewer)
noisy-or    1 − Π_i (1 − p_i), as −expm1(Σ log1p(−p_i))
"""

from __future__ import annotations

import heapq

import numpy as np
from numpy.typing import NDArray

from medfm_compress.runtime.slides.settings import Aggregation

_ONE = 1.0 - 1e-12


class Aggregator:
    """Takes tiles, gives the slide; holds k numbers a finding however many tiles there are."""

    def __init__(self, findings: int, aggregation: Aggregation, top: int) -> None:
        self.aggregation, self.tiles = aggregation, 0
        self._keep = 1 if aggregation == "max" else top
        self._largest: list[list[float]] = [[] for _ in range(findings)]
        self._absent = np.zeros(findings)

    def add(self, scores: NDArray[np.floating]) -> None:
        """Probabilities ``[findings]`` of one tile."""
        self.tiles += 1
        if self.aggregation == "noisy-or":
            self._absent += np.log1p(-np.minimum(scores.astype(np.float64), _ONE))
            return
        for kept, score in zip(self._largest, scores.tolist(), strict=True):
            if len(kept) < self._keep:
                heapq.heappush(kept, score)
            else:
                heapq.heappushpop(kept, score)

    def scores(self) -> NDArray[np.float64]:
        """Of the slide, ``[findings]``; NaN where there was no tile."""
        if not self.tiles:
            return np.full(len(self._largest), np.nan)
        if self.aggregation == "noisy-or":
            return np.clip(-np.expm1(self._absent), 0, 1)
        return np.array([sum(sorted(kept)) / len(kept) for kept in self._largest])


def aggregate(scores: NDArray[np.floating], aggregation: Aggregation, top: int) -> NDArray[np.float64]:
    """Of a slide whose tiles have ``scores`` ``[tiles, findings]``; see `Aggregator`."""
    aggregator = Aggregator(scores.shape[1], aggregation, top)
    for row in scores:
        aggregator.add(row)
    return aggregator.scores()
