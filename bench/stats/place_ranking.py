"""How anomaly maps rank abnormal places above normal ones: one value a case, by thresholds that all cases share.

Scores of pixels are counted in bins between the same edges. With N_b the pixels outside masks of all cases in bin b,
P_ib those inside the masks of case i, R_rb those of region r of its masks (what hangs together, 8 neighbours):

    pixel AUROC_i = Σ_b (P_ib / P_i) (N_<b + N_b / 2) / N

the share of normal pixels that an abnormal one of the case outranks.
The mean weighted by P_i is the AUROC of all pixels.

    FPR_b = N_>=b / N        O_rb = R_r>=b / R_r        PRO_r = (1 / L) ∫_0^L O_r dFPR ,  L = 0.3

the overlap with a region, over thresholds of which at most L of the normal pixels are called; PRO_i is the mean over
the case's regions, and the mean of PRO_r over all regions is the per-region overlap of Bergmann et al., The MVTec
Anomaly Detection Dataset, IJCV 129 (2021) 1038–1059, integrated and normalised as there. Between edges both curves are
straight, so that a bin's pixels count as ties.

Edges are quantiles of the maps' own places, 4096 of them at most: every pixel lies between places, and none has to be
kept. A pixel that the network did not see (NaN) is below all others.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from medfm_compress.bench.stats.lesion_matching import number_regions

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
FALSE_POSITIVE_LIMIT = 0.3
"""L, of the pixels outside masks."""
MOST_EDGES = 4096


class _Counts(NamedTuple):
    """Of one region: the bins that it has pixels in, and how many in each."""

    bins: Integers
    pixels: Integers


class PlaceRanking:
    """Counts scores of pixels case by case; the values follow when all cases are counted."""

    def __init__(self, places: Sequence[NDArray[np.float32]]) -> None:
        """Choose edges for maps whose places have the scores ``places``, of any shapes."""
        values = np.unique(np.concatenate([part.reshape(-1) for part in places]))
        rows = np.unique(np.linspace(0, len(values) - 1, MOST_EDGES).round().astype(np.int64))
        self._edges = values[rows]
        self._normal = np.zeros(len(self._edges) + 1, np.int64)
        self._cases: list[tuple[_Counts, ...]] = []

    def add(self, scores: NDArray[np.float32], abnormal: NDArray[np.bool_] | None) -> None:
        """Count one case.

        Args:
            scores: of its pixels, ``[H, W]``; NaN where the network did not see.
            abnormal: which of them are, of the same shape; None where nobody knows: then nothing of it is counted.
        """
        if abnormal is None:
            self._cases.append(())
            return
        bins = np.searchsorted(self._edges, np.where(np.isnan(scores), -np.inf, scores), side="right")
        self._normal += np.bincount(bins[~abnormal], minlength=len(self._normal))
        numbers, sizes = number_regions(abnormal)
        order = np.argsort(numbers[abnormal], kind="stable")
        parts = np.split(bins[abnormal][order], np.cumsum(sizes)[:-1]) if len(sizes) else []
        self._cases.append(tuple(_Counts(*np.unique(part, return_counts=True)) for part in parts))

    def pixel_auroc(self) -> Floats:
        """Of each case, ``[n]``; NaN where it has no abnormal pixel, or no case has a normal one."""
        total = int(self._normal.sum())
        below = (np.cumsum(self._normal) - self._normal / 2) / max(total, 1)
        values = [self._outranked(case, below) if case and total else np.nan for case in self._cases]
        return np.array(values, np.float64)

    def pro(self) -> Floats:
        """Of each case, ``[n]``; NaN likewise."""
        total = int(self._normal.sum())
        rates = _from_the_top(self._normal) / max(total, 1)
        values = [self._overlap(case, rates) if case and total else np.nan for case in self._cases]
        return np.array(values, np.float64)

    def _outranked(self, case: tuple[_Counts, ...], below: Floats) -> float:
        pixels = sum(int(region.pixels.sum()) for region in case)
        return float(sum(region.pixels @ below[region.bins] for region in case) / pixels)

    def _overlap(self, case: tuple[_Counts, ...], rates: Floats) -> float:
        areas = []
        for region in case:
            counts = np.zeros(len(self._normal), np.int64)
            counts[region.bins] = region.pixels
            areas.append(_area(rates, _from_the_top(counts) / counts.sum()))
        return float(np.mean(areas))


def _from_the_top(counts: Integers) -> Floats:
    """How many lie above each threshold, from the one above all to the one below all."""
    return np.concatenate([[0.0], np.cumsum(counts[::-1], dtype=np.float64)])


def _area(rates: Floats, overlap: Floats) -> float:
    """Mean height of the straight lines through (``rates``, ``overlap``), ``[k]`` each, from 0 to the limit."""
    inside = rates < FALSE_POSITIVE_LIMIT
    # At one rate a curve may rise: what it reaches there counts from there on.
    last = int(inside.sum()) - 1
    run = rates[last + 1] - rates[last]
    at_limit = overlap[last] + (overlap[last + 1] - overlap[last]) * (FALSE_POSITIVE_LIMIT - rates[last]) / run
    x, y = np.append(rates[inside], FALSE_POSITIVE_LIMIT), np.append(overlap[inside], at_limit)
    return float(((x[1:] - x[:-1]) * (y[1:] + y[:-1]) / 2).sum() / FALSE_POSITIVE_LIMIT)
