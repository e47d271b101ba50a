"""From an image to its label map: resized to the network's input as a whole, or tile by tile.

Device, bench and whoever else wants to know what a network says of an image go this way.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from medfm_compress.runtime.activation import check_probabilities
from medfm_compress.runtime.image_spec import ImageSpec
from medfm_compress.runtime.images.pixels import Pixels
from medfm_compress.runtime.preprocess import at_resolution, layout, preprocess
from medfm_compress.runtime.segmentation.label_map import (
    LabelMap,
    Planes,
    label_map_of,
    laid,
    lay_on_image,
    probability_maps,
)
from medfm_compress.runtime.segmentation.windows import Run, sliding_logits
from medfm_compress.runtime.task import Task

SMALLER_THAN_TILE = "image-smaller-than-tile"


class Segmented(NamedTuple):
    """What a network says of one image.

    Attributes:
        label_map: uint8 ``[H, W]`` at the image's own size.
        peaks: float64 ``[structures]``: the highest probability of each anywhere in the image, as the network gave it.
        probabilities: float32 ``[structures, H, W]``; None unless they were asked for.
        flags: quality remarks.
    """

    label_map: LabelMap
    peaks: NDArray[np.float64]
    probabilities: Planes | None = None
    flags: tuple[str, ...] = ()


def segment(
    run: Run, pixels: Pixels, task: Task, spec: ImageSpec, *, workers: int = 1, keep_probabilities: bool = False
) -> Segmented:
    """Segment one image.

    Args:
        run: the network; of tiles it is called from ``workers`` threads.
        pixels: the image.
        task: of the network.
        spec: of its input; with tiles the image is not resized to it.
        workers: tiles at a time.
        keep_probabilities: also return the probability maps, which is memory.

    Raises:
        ImageRefused: see `preprocess`.
        Refused: logits that are not finite, and what ``run`` raises.
    """
    if spec.tiles:
        return _by_tiles(run, pixels, task, spec, workers, keep_probabilities)
    height, width = pixels.shape[:2]
    logits = run(preprocess(pixels, spec))
    return of_logits(logits, task, spec, height, width, keep_probabilities=keep_probabilities)


def of_logits(
    logits: NDArray[Any], task: Task, spec: ImageSpec, height: int, width: int, *, keep_probabilities: bool = False
) -> Segmented:
    """`segment` of an image that was resized as a whole, whose logits ``[1, structures, h, w]`` are there already."""
    answer = lay_on_image(logits, task, spec, height, width, keep_probabilities=keep_probabilities)
    place = layout(height, width, spec)
    shown = probability_maps(logits, task).reshape(-1, spec.height_px, spec.width_px)
    shown = shown[:, place.top : place.top + place.rows, place.left : place.left + place.columns]
    return Segmented(answer.label_map, _peaks(shown), answer.probabilities)


def _by_tiles(
    run: Run, pixels: Pixels, task: Task, spec: ImageSpec, workers: int, keep_probabilities: bool
) -> Segmented:
    own = pixels.shape[:2]
    pixels = at_resolution(pixels, spec)
    height, width = pixels.shape[:2]
    flags = (SMALLER_THAN_TILE,) if height < spec.height_px or width < spec.width_px else ()
    count = len(task.labels)
    keeps = keep_probabilities or (height, width) != own
    kept = np.empty((count, height, width), np.float32) if keeps else None
    label_map, peaks = np.empty((height, width), np.uint8), np.zeros(count)
    for band in sliding_logits(run, pixels, spec, workers):
        maps = probability_maps(band.logits, task)
        rows = slice(band.top, band.top + maps.shape[1])
        peaks = np.maximum(peaks, _peaks(maps))
        if kept is not None:
            kept[:, rows] = maps
        if (height, width) == own:
            label_map[rows] = label_map_of(maps, count)
    check_probabilities(peaks)
    if kept is None or (height, width) == own:
        return Segmented(label_map, peaks, kept, flags)
    answer = laid(kept, *own, keep_probabilities=keep_probabilities)
    return Segmented(answer.label_map, peaks, answer.probabilities, flags)


def _peaks(maps: Planes) -> NDArray[np.float64]:
    peaks: NDArray[np.float64] = maps.reshape(len(maps), -1).max(axis=1).astype(np.float64)
    return peaks
