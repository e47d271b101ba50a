"""Which images a network is pre-trained on, and which it is checked on: never one of a test split."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from medfm_compress.compress.training.dataset import UNLABELLED
from medfm_compress.data.study import Case, Study
from medfm_compress.runtime.errors import StudyError

_HELD_OUT = 0.1

Group = tuple[Study, tuple[Case, ...]]


class Images(NamedTuple):
    """Cases by study.

    Attributes:
        training: to learn from.
        validation: to choose the best epoch by.
    """

    training: tuple[Group, ...]
    validation: tuple[Group, ...]


def choose_images(studies: tuple[Study, ...]) -> Images:
    """Train and unlabelled cases of all studies, with or without labels; the first one's val split checks them.

    Where it has none, a tenth of its images, by patient, is held out.

    Raises:
        StudyError: a study without a training or unlabelled image, or too few to hold one out.
    """
    first, own = studies[0], _training(studies[0])
    val = first.split("val")
    if not val:
        own, val = hold_out(first, own)
    more = tuple((study, _training(study)) for study in studies[1:])
    return Images(((first, own), *more), ((first, val),))


def _training(study: Study) -> tuple[Case, ...]:
    cases = tuple(case for case in study.cases if case.split in ("train", UNLABELLED))
    if not cases:
        there = ", ".join(sorted({case.split for case in study.cases})) or "none"
        raise StudyError(
            f"{study.root} has no image in split 'train' or '{UNLABELLED}' to learn from; its splits: {there}"
        )
    return cases


def hold_out(study: Study, cases: tuple[Case, ...]) -> tuple[tuple[Case, ...], tuple[Case, ...]]:
    """The cases without, and the patients who make up, a tenth of them; single images where there is one patient.

    Raises:
        StudyError: fewer than two images.
    """
    if len(cases) < 2:
        raise StudyError(f"{study.root} has a single image to learn from; at least two are needed")
    names = [case.cluster for case in cases]
    if len(set(names)) == 1:
        names = [case.image for case in cases]
    clusters = sorted(set(names))
    held: set[str] = set()
    for number in np.random.default_rng(0).permutation(len(clusters))[:-1]:  # one stays to learn from
        held.add(clusters[number])
        if sum(name in held for name in names) >= _HELD_OUT * len(cases):
            break
    kept = tuple(case for case, name in zip(cases, names, strict=True) if name not in held)
    return kept, tuple(case for case, name in zip(cases, names, strict=True) if name in held)
