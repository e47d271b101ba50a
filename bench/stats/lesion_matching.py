"""Regions of two masks held against each other: how many of the truth's were found, and how many were made up.

A region is what hangs together over sides and corners (8 neighbours). A drawn region p and a true one t match where

    IoU(p, t) = |p ∩ t| / |p ∪ t| >= the declared threshold ,   > 0

each with one other at most: pairs are taken from the largest IoU down, of equal ones in reading order. Then

    lesion sensitivity = matched true regions / true regions       false positives = drawn regions without a match

Two true regions that were drawn as one are one found and one lost; one that was drawn in two pieces is one found and
one false positive. That is ``panoptica``'s naive threshold matching.

Sources: Kofler et al., panoptica, arXiv:2312.02608; Maier-Hein et al., Nature Methods 21 (2024) 195–212.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from medfm_compress.runtime.segmentation.regions import find_runs

Integers = NDArray[np.int64]
Mask = NDArray[np.bool_]


class Matching(NamedTuple):
    """Regions of one image.

    Attributes:
        sizes: pixels of every true region, [true].
        found: whether a drawn one matches it, [true].
        drawn: how many regions were drawn.
    """

    sizes: Integers
    found: Mask
    drawn: int

    @property
    def false_positives(self) -> int:
        """Drawn regions that match no true one."""
        return self.drawn - int(self.found.sum())

    def sensitivity(self, below_px: float = np.inf) -> float:
        """Share of the true regions of fewer than ``below_px`` pixels that were found; NaN where there is none."""
        counted = self.sizes < below_px
        return float(self.found[counted].mean()) if counted.any() else float("nan")


def match_regions(predicted: Mask, truth: Mask, least_iou: float) -> Matching:
    """Match the regions of two masks ``[H, W]``; ``least_iou`` is in (0, 1]."""
    drawn, drawn_sizes = number_regions(predicted)
    true, true_sizes = number_regions(truth)
    both = (drawn > 0) & (true > 0)
    pairs, overlap = np.unique((true[both] - 1) * (len(drawn_sizes) + 1) + drawn[both] - 1, return_counts=True)
    t, p = np.divmod(pairs, len(drawn_sizes) + 1)
    iou = overlap / (true_sizes[t] + drawn_sizes[p] - overlap)
    found, taken = np.zeros(len(true_sizes), bool), np.zeros(len(drawn_sizes), bool)
    for pair in np.argsort(-iou, kind="stable").tolist():
        if iou[pair] >= least_iou and not found[t[pair]] and not taken[p[pair]]:
            found[t[pair]] = taken[p[pair]] = True
    return Matching(true_sizes, found, len(drawn_sizes))


def number_regions(mask: Mask) -> tuple[Integers, Integers]:
    """Number of the region, from 1, that each pixel of ``mask`` ``[H, W]`` is of (0: none), and pixels of each."""
    runs = find_runs(mask)
    count = int(runs.region.max(initial=-1)) + 1
    numbers = np.zeros((mask.shape[0], mask.shape[1] + 1), np.int64)
    numbers[runs.row, runs.start] = runs.region + 1
    numbers[runs.row, runs.end] -= runs.region + 1  # runs of a row are apart, so that none begins where one ends
    sizes = np.bincount(runs.region, runs.end - runs.start, count).astype(np.int64)
    return np.cumsum(numbers, axis=1)[:, :-1], sizes
