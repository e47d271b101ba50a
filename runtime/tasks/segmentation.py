"""Segmentation: a map of logits a structure; the background's logit is 0 and has no map.

    p_k = exp(z_k / T) / (1 + Σ_j exp(z_j / T))         of one structure: 1 / (1 + exp(−z / T))

A case's score of a structure is its highest p_k over the pixels.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.image_spec import ImageSpec
from medfm_compress.runtime.task import Task


class SegmentationRules:
    """See `TaskRules`."""

    def logits_shape(self, task: Task, spec: ImageSpec) -> tuple[int, ...]:
        """``(1, structures, height_px, width_px)``: a logit for every pixel of the input."""
        return (1, len(task.labels), spec.height_px, spec.width_px)

    def check_spec(self, task: Task, spec: ImageSpec) -> None:
        """Raises InputError where the answer would not lie on the stored pixels of one image, all of them."""
        if spec.dicom.turns or spec.dicom.frame_aggregation:
            raise InputError(
                "the DICOM rules turn images or take all frames; a segmentation answers for the stored pixels of one: "
                "leave orientation, mirrored_to and frame 'all' out"
            )
        if not spec.tiles and (spec.crop_fraction != 1 or spec.resize == "shortest"):
            raise InputError(
                f"the image spec crops (resize {spec.resize!r}, crop_fraction {spec.crop_fraction:g}); a segmentation "
                "must see the whole image: use resize 'stretch' or 'longest' and crop_fraction 1"
            )

    def comparable(self, logits: NDArray[Any], task: Task) -> NDArray[np.float64]:
        """``[n · height · width, structures]``: every pixel is an answer."""
        rows = np.moveaxis(np.asarray(logits, dtype=np.float64), 1, -1)
        return rows.reshape(-1, rows.shape[-1])

    def case_logits(self, logits: NDArray[Any], task: Task) -> NDArray[np.float64]:
        """The logit, at temperature T, of each structure's highest probability over the pixels."""
        z = np.asarray(logits, dtype=np.float64) / task.temperature
        # log p_k − log(1 − p_k), with Σ over the others and the background.
        highest = np.maximum(z.max(axis=1, keepdims=True), 0)
        powers, background = np.exp(z - highest), np.exp(-highest)
        others = background + powers.sum(axis=1, keepdims=True) - powers
        with np.errstate(divide="ignore"):
            odds = np.where(others > 0, z - highest - np.log(others), np.inf)
        if z.shape[1] == 1:
            odds = z  # no sum, no rounding
        peaks: NDArray[np.float64] = odds.reshape(*odds.shape[:2], -1).max(axis=2) * task.temperature
        return np.clip(peaks, -1e4, 1e4)
