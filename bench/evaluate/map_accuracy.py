"""Whether a heat map shows the right place: the pointing game against masks, insertion and deletion.

    pointing     1 where the map's highest value lies within the mask, else 0 (Zhang et al. 2016)
    deletion     mean over i of s(x with its hottest i/n replaced by the image's mean)     low is good
    insertion    mean over i of s(the image's mean with its hottest i/n shown)             high is good

s is the probability of the finding; i = 0 … n steps, the area under the curve by trapezoids (Petsiuk et al. 2018). None
of the three is 0 or 1 for a map that tells nothing: hold them against the middle of the image, which lesions often
fill, and against the network with random weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from medfm_compress.bench.evaluate.attribution_agreement import ExplanationAgreement
from medfm_compress.bench.evaluate.mask_comparison import CaseValues, MeanComparison, compare_means
from medfm_compress.bench.types.policy import Policy
from medfm_compress.runtime.errors import InputError

STEPS = 10


class Perturbed(NamedTuple):
    """Areas under the curves, each in [0, 1] for a probability."""

    insertion: float
    deletion: float


def points_at(heat: NDArray[np.floating], mask: NDArray[np.generic]) -> float:
    """Share of the map's highest pixels ``[H, W]`` that lie within ``mask`` ``[H, W]``: 0 or 1 where it is one pixel.

    Raises:
        InputError: shapes that differ, values that are not finite, or a mask of nothing.
    """
    inside = np.asarray(mask) != 0
    if heat.shape != inside.shape or not np.isfinite(heat).all():
        raise InputError(f"the map has shape {heat.shape}, the mask {inside.shape}; both must be one, and finite")
    if not inside.any():
        raise InputError("the mask draws nothing, so that nothing can be pointed at")
    return float(inside[heat == heat.max()].mean())


def compare_pointing(
    row: ExplanationAgreement, clusters: Sequence[int], policy: Policy
) -> tuple[MeanComparison, CaseValues] | None:
    """The pointing game of a variant against the teacher's, paired, by patient; None where no case has a mask.

    Args:
        row: of the report.
        clusters: patient of each case of the report's tables, by number.
        policy: α, resamples and seed.
    """
    drawn = [number for number, points in enumerate(row.pointing) if points is not None]
    if not drawn or max(row.cases) >= len(clusters):
        return None
    values = np.array([[points[number] for number in drawn] for points in (row.teacher_pointing, row.pointing)], float)
    patients = np.unique([clusters[row.cases[number]] for number in drawn], return_inverse=True)[1].astype(np.int64)
    cases = CaseValues(values, patients)
    # A share of cases, as a mean Dice is one of pixels: a case can be lost by 1.
    return compare_means(cases, "dice", policy, None, seed=(policy.seed,), same=False), cases


def insertion_deletion(
    score_of: Callable[[NDArray[np.float32]], float],
    image: NDArray[np.float32],
    heat: NDArray[np.floating],
    steps: int = STEPS,
) -> Perturbed:
    """Both areas for one image.

    Args:
        score_of: normalised input ``[1, C, H, W]``, float32 → probability of the finding.
        image: normalised input ``[1, C, H, W]``.
        heat: ``[H, W]``.
        steps: >= 1; the network runs twice as often, and once.

    Raises:
        InputError: shapes that differ, or no step.
    """
    if heat.shape != image.shape[2:] or steps < 1:
        raise InputError(f"the map has shape {heat.shape}, the image {image.shape[2:]}, with {steps} steps")
    order = np.argsort(-heat, axis=None, kind="stable")
    mean: NDArray[Any] = np.broadcast_to(image.mean(axis=(2, 3), keepdims=True), image.shape)
    flat, blank = (values.reshape(image.shape[1], -1) for values in (image, mean))
    curves: tuple[list[float], list[float]] = ([], [])
    for step in range(steps + 1):
        hottest = order[: round(len(order) * step / steps)]
        for curve, start, other in zip(curves, (blank, flat), (flat, blank), strict=True):
            shown = start.copy()
            shown[:, hottest] = other[:, hottest]
            curve.append(score_of(np.ascontiguousarray(shown.reshape(image.shape), np.float32)))
    areas = [float(np.trapezoid(curve, dx=1 / steps)) for curve in curves]
    return Perturbed(insertion=areas[0], deletion=areas[1])
