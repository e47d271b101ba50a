"""Draws of training cases: so many of every class, of as many patients as there are."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from medfm_compress.compress.few_labels.linear_classifier import Integers


def draw(classes: Integers, patients: Sequence[str], per_class: int, seed: tuple[int, ...]) -> Integers:
    """Positions of ``per_class`` cases of every class, the classes one after the other.

    A patient's second case is drawn only once every other patient of the class has one, and so on: five images of one
    patient are less than five labels.

    Args:
        classes: of the training cases, ``[n]``.
        patients: whose they are, ``[n]``.
        per_class: at most the cases of the smallest class.
        seed: equal seeds draw the same.
    """
    random = np.random.default_rng(np.random.SeedSequence(seed))
    chosen: list[int] = []
    for label in np.unique(classes):
        seen: dict[str, int] = defaultdict(int)
        ranked: list[tuple[int, int, int]] = []
        for position in random.permutation(np.flatnonzero(classes == label)).tolist():
            ranked.append((seen[patients[position]], len(ranked), position))
            seen[patients[position]] += 1
        chosen += [position for *_, position in sorted(ranked)[:per_class]]
    return np.array(chosen, dtype=np.int64)
