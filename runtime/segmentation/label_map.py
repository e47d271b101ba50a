"""From maps of logits to a label map at the image's own size.

    p_k = exp(z_k / T) / (1 + Σ_j exp(z_j / T))      of one structure: 1 / (1 + exp(−z / T))
    P_k = resize(crop(p_k))                          padding cut off; Pillow's BILINEAR on 32-bit float planes
    m   = k where P_k is the highest and at least 1 − Σ_j P_j, the background's; else 0

One plane is held at a time, however many structures there are. What is judged on a bench and what a device gives come
out of this one function.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from medfm_compress.runtime.errors import InputError, Refused
from medfm_compress.runtime.image_spec import ImageSpec
from medfm_compress.runtime.preprocess import layout
from medfm_compress.runtime.segmentation.enlarged_mask import enlarged_mask
from medfm_compress.runtime.task import Task

LabelMap = NDArray[np.uint8]
Planes = NDArray[np.float32]


class Laid(NamedTuple):
    """An answer at the size of its image.

    Attributes:
        label_map: uint8 ``[H, W]``; 0 background, k the k-th structure.
        probabilities: float32 ``[structures, H, W]``; None unless they were asked for.
    """

    label_map: LabelMap
    probabilities: Planes | None = None


def probability_maps(logits: NDArray[Any], task: Task) -> Planes:
    """Probabilities of the structures, float32 of the logits' own shape: ``[structures, h, w]`` or ``[1, …]`` of it.

    Raises:
        InputError: another number of maps than the task has structures.
        Refused: a logit is not finite.
    """
    z = np.asarray(logits)
    if z.ndim not in (3, 4) or z.shape[-3] != len(task.labels) or z.shape[:-3] not in ((), (1,)):
        raise InputError(f"logits have shape {z.shape}; the task needs [{len(task.labels)}, height, width]")
    if not np.isfinite(z).all():
        raise Refused("a logit is not finite; no result is given")
    z = np.asarray(z, np.float64) / task.temperature
    highest = np.maximum(z.max(axis=-3, keepdims=True), 0)
    powers: NDArray[np.float64] = np.exp(z - highest)
    powers /= np.exp(-highest) + powers.sum(axis=-3, keepdims=True)
    return powers.astype(np.float32)


def label_map_of(planes: Iterable[Planes], structures: int) -> LabelMap:
    """The most probable of background and structures at each pixel; of equal ones the structure, then the first.

    Args:
        planes: float32 ``[H, W]`` of each structure, in order.
        structures: how many there are.
    """
    if structures == 1:
        return (next(iter(planes)) >= 0.5).view(np.uint8)
    best = total = where = None
    for number, plane in enumerate(planes, start=1):
        if best is None or total is None or where is None:
            best, total, where = plane.copy(), plane.copy(), np.ones(plane.shape, np.uint8)
            continue
        total += plane
        higher = plane > best
        best[higher], where[higher] = plane[higher], number
    if best is None or total is None or where is None:
        raise InputError("there is no structure; a segmentation has at least one")
    where[best < 1 - total] = 0
    return where


def lay_on_image(
    logits: NDArray[Any], task: Task, spec: ImageSpec, height: int, width: int, *, keep_probabilities: bool = False
) -> Laid:
    """The answer on one image of ``height`` × ``width`` px that was resized to the network's input as a whole.

    Args:
        logits: ``[structures, height_px, width_px]``, or with a first axis of 1.
        task: whose structures they are.
        spec: of the input, without tiles.
        height: of the image.
        width: of the image.
        keep_probabilities: also return the maps at the image's size.

    Raises:
        InputError: logits or spec do not fit.
        Refused: a logit is not finite.
    """
    given = probability_maps(logits, task)
    maps = given.reshape(-1, *given.shape[-2:])
    if maps.shape[1:] != (spec.height_px, spec.width_px):
        raise InputError(f"maps are {maps.shape[1:]}, the network's input {(spec.height_px, spec.width_px)}")
    place = layout(height, width, spec)
    shown = maps[:, place.top : place.top + place.rows, place.left : place.left + place.columns]
    return laid(shown, height, width, keep_probabilities=keep_probabilities)


def laid(maps: Planes, height: int, width: int, *, keep_probabilities: bool = False) -> Laid:
    """Probability maps ``[structures, h, w]`` that show exactly the image, at ``height`` × ``width`` px."""
    if len(maps) == 1 and not keep_probabilities:
        mask = enlarged_mask(maps[0], height, width)
        if mask is not None:
            return Laid(mask)
    resized = (resize_plane(plane, height, width) for plane in maps)
    if not keep_probabilities:
        return Laid(label_map_of(resized, len(maps)))
    kept = np.stack(list(resized))
    return Laid(label_map_of(kept, len(kept)), kept)


def resize_plane(plane: Planes, height: int, width: int) -> Planes:
    """A float32 plane at another size, by Pillow's BILINEAR (antialiased where it becomes smaller)."""
    if plane.shape == (height, width):
        return plane
    from PIL import Image

    image = Image.fromarray(np.ascontiguousarray(plane))
    return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR), np.float32)
