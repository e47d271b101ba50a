"""Occlusion sensitivity: where covering the image takes away evidence for a finding.

    h(p) = mean over windows w that cover pixel p of  s(x) − s(x with w replaced by the baseline)

x the network's input, s the finding's log-odds. Zeiler & Fergus, Visualizing and Understanding Convolutional Networks
(2014). It needs no gradients, only the network's logits, so it looks at the very engine that runs on the device,
quantized or not. Windows are relative to the input, so networks of different input size get the same windows.

    s = z_f                              multi-label
    s = z_f − log Σ_{g ≠ f} exp(z_g)     binary and multi-class: log p_f / (1 − p_f), free of saturation

The baseline is the image's own mean a channel, or the image blurred; black would itself be a finding in a radiograph.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.task import Task

FloatArray = NDArray[np.float32]
Logits = Callable[[FloatArray], NDArray[Any]]
"""A network: normalised input ``[1, C, H, W]``, float32 → logits ``[1, labels]``."""
Baseline = Literal["mean", "blurred"]
Window = tuple[slice, slice]


class OcclusionOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How to cover an image.

    Attributes:
        patch: side of the window over the side of the input, in (0, 1).
        stride: step of the window over the side of the input, in (0, ``patch``], so that no pixel is left out.
        baseline: what stands in a covered window: ``mean`` of the image, or the image ``blurred``.
    """

    patch: float = 1 / 8
    stride: float = 1 / 16
    baseline: Annotated[Baseline, Meta(extra={"option": "cover"})] = "mean"

    def __post_init__(self) -> None:
        if not 0 < self.stride <= self.patch < 1:
            raise InputError(
                f"patch is {self.patch:g} and stride {self.stride:g}; both are parts of the image's side, above 0 and "
                "below 1, and the stride is at most the patch"
            )


def occlusion_map(
    logits_of: Logits, image: FloatArray, task: Task, finding: str, options: OcclusionOptions | None = None
) -> FloatArray:
    """Map of how much each place speaks for ``finding``; negative where covering it raises the score.

    Args:
        logits_of: the network; run once on the image and once a window, at batch size 1 as on the device.
        image: normalised input ``[1, C, H, W]``, float32.
        task: of the network.
        finding: one of ``task.findings``.
        options: see `OcclusionOptions`.

    Returns:
        float32 ``[H, W]``, in units of log-odds.

    Raises:
        InputError: no such finding, an image smaller than 2 pixels, or logits that are not finite.
    """
    options = options or OcclusionOptions()
    height, width = image.shape[2:]
    substitute = np.broadcast_to(_baseline(image, options.baseline), image.shape)
    whole = _score(logits_of, image, task, finding)
    drops, counts = np.zeros((height, width)), np.zeros((height, width))
    covered = image.copy()
    for rows, columns in windows(height, width, options):
        covered[..., rows, columns] = substitute[..., rows, columns]
        drops[rows, columns] += whole - _score(logits_of, covered, task, finding)
        counts[rows, columns] += 1
        covered[..., rows, columns] = image[..., rows, columns]
    heat: FloatArray = (drops / counts).astype(np.float32)
    return heat


def log_odds(logits: NDArray[Any], task: Task, finding: str) -> NDArray[np.float64]:
    """Log-odds ``[n]``, float64, of ``finding`` by logits ``[n, labels]``, before any temperature.

    Raises:
        InputError: no such finding, or logits that do not fit the task.
    """
    if finding not in task.findings:
        raise InputError(f"there is no finding {finding!r}; choose of {', '.join(task.findings)}")
    values = np.asarray(logits, np.float64)
    if values.ndim != 2 or values.shape[1] != len(task.labels):
        raise InputError(f"logits have shape {values.shape}; the task needs [n, {len(task.labels)}]")
    index = task.labels.index(finding)
    own: NDArray[np.float64] = values[:, index]
    if task.independent:
        return own
    others = np.delete(values, index, axis=1)
    return np.asarray(own - np.logaddexp.reduce(others, axis=1))


def windows(height: int, width: int, options: OcclusionOptions) -> Iterator[Window]:
    """Rows and columns of each window; the first and the last touch the borders, so that every pixel is covered.

    Raises:
        InputError: a side below 2 pixels.
    """
    if min(height, width) < 2:
        raise InputError(f"the image is {width}×{height} px; it takes at least 2×2 to cover a part of it")
    return itertools.product(_spans(height, options), _spans(width, options))


def _spans(side: int, options: OcclusionOptions) -> list[slice]:
    length = min(side - 1, max(1, round(side * options.patch)))
    count = min(side - length, max(1, round((1 - options.patch) / options.stride))) + 1
    # A stride that rounding made longer than the patch would leave pixels out.
    count = max(count, -(-(side - length) // length) + 1)
    starts = np.linspace(0, side - length, count).round().astype(int)
    return [slice(start, start + length) for start in starts.tolist()]


def _baseline(image: FloatArray, kind: Baseline) -> FloatArray:
    if kind == "mean":
        mean: FloatArray = image.mean(axis=(2, 3), keepdims=True)
        return mean
    return _box_blur(_box_blur(_box_blur(image, 2), 3), 2)


def _box_blur(image: FloatArray, axis: int, part: int = 8) -> FloatArray:
    """Mean over ``side / part`` pixels to either side along ``axis``; the border is repeated."""
    side = image.shape[axis]
    radius = max(1, side // part)
    padding = [(radius + 1, radius) if number == axis else (0, 0) for number in range(image.ndim)]
    sums = np.cumsum(np.pad(image, padding, mode="edge"), axis=axis, dtype=np.float64)
    upper, lower = np.arange(side) + 2 * radius + 1, np.arange(side)
    blurred: FloatArray = ((sums.take(upper, axis) - sums.take(lower, axis)) / (2 * radius + 1)).astype(np.float32)
    return blurred


def _score(logits_of: Logits, image: FloatArray, task: Task, finding: str) -> float:
    score = float(log_odds(logits_of(image), task, finding)[0])
    if not np.isfinite(score):
        raise InputError("the network's logits are not finite on a covered image; run it in a higher precision")
    return score
