"""Where the network looked, from the run that gave the finding: class activation maps laid on the image.

M_k ``[h, w]`` are the network's output of role ``cam``: what each place adds to logit k by way of the last feature map
(Zhou et al. 2016; see `export.passes.cam_output`), or of a ViT's class token by way of the last attention
(`export.passes.class_token_output`). A finding's evidence is what a place adds to its log-odds, to first order:

    E = M_f                                            findings that do not exclude each other
    E = M_f − Σ_{g ≠ f} q_g M_g,  q = softmax of the others' logits       binary and multi-class

A map is laid on the image by its geometry: image pixel → network's input → place, linear between the places' centres.
What the network did not see (cropped away) has no evidence. An anomaly map (``anomaly_map``) is laid on it likewise:
its evidence is the anomaly score of a place.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from medfm_compress.runtime.bundle.manifest import Tensor
from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.image_spec import ImageSpec
from medfm_compress.runtime.images.pixels import Pixels
from medfm_compress.runtime.preprocess import LUMA, resized_size
from medfm_compress.runtime.task import Task

FloatArray = NDArray[np.float32]
CAM, CLASS_TOKEN = "cam", "class_token_cam"
MAP_OUTPUTS = (CAM, CLASS_TOKEN)
"""Names of outputs of maps, of role ``cam``: of a last feature map, and of a class token's attention."""


class ClassActivation(NamedTuple):
    """Of one image.

    Attributes:
        maps: M, float32 ``[labels, h, w]``.
        logits: float32 ``[labels]``.
        output: name of the network's output, one of `MAP_OUTPUTS`.
    """

    maps: FloatArray
    logits: FloatArray
    output: str = CAM

    def evidence(self, task: Task, finding: str) -> FloatArray:
        """E of ``finding``, ``[h, w]``, in units of log-odds before any temperature.

        Raises:
            InputError: there is no such finding.
        """
        if finding not in task.findings:
            raise InputError(f"there is no finding {finding!r}; choose of {', '.join(task.findings)}")
        index = task.labels.index(finding)
        if task.independent:
            return np.asarray(self.maps[index], np.float32)
        others = [number for number in range(len(task.labels)) if number != index]
        weights = np.exp(self.logits[others] - self.logits[others].max())
        rest = np.tensordot(weights / weights.sum(), self.maps[others], axes=1)
        return np.asarray(self.maps[index] - rest, np.float32)


def read_activation(
    outputs: Mapping[str, NDArray[Any]], cam: Tensor, logits: NDArray[np.float32]
) -> ClassActivation | None:
    """Of a network's outputs; None where the maps are not finite: a heat map is left out then, a finding is not."""
    maps = np.asarray(outputs[cam.name], np.float32)
    if maps.shape != cam.shape or not np.isfinite(maps).all():
        return None
    return ClassActivation(maps[0], logits[0], cam.name)


def on_input(evidence: FloatArray, spec: ImageSpec) -> FloatArray:
    """Evidence ``[h, w]`` on the network's input, ``[height_px, width_px]``."""
    rows = _between(np.arange(spec.height_px, dtype=np.float64) + 0.5, spec.height_px, evidence.shape[0])
    columns = _between(np.arange(spec.width_px, dtype=np.float64) + 0.5, spec.width_px, evidence.shape[1])
    return np.asarray(rows @ evidence @ columns.T, np.float32)


def on_image(evidence: FloatArray, spec: ImageSpec, height: int, width: int) -> FloatArray:
    """Evidence ``[h, w]`` on an image of ``height`` × ``width`` px before preprocessing; 0 where it was cropped."""
    rows, columns = _placed(evidence, spec, height, width)
    return np.asarray(rows @ evidence @ columns.T, np.float32)


def score_on_image(scores: FloatArray, spec: ImageSpec, height: int, width: int) -> FloatArray:
    """Likewise scores of places, of which 0 is one like any other; NaN where the image was cropped."""
    rows, columns = _placed(scores, spec, height, width)
    laid: FloatArray = np.asarray(rows @ scores @ columns.T, np.float32)
    laid[~rows.any(axis=1)] = np.nan
    laid[:, ~columns.any(axis=1)] = np.nan
    return laid


def _placed(values: FloatArray, spec: ImageSpec, height: int, width: int) -> tuple[FloatArray, FloatArray]:
    """Interpolation matrices of rows and of columns, see `_seen`."""
    resized = resized_size(height, width, spec)
    rows = _seen(height, resized[0], spec.height_px, values.shape[0])
    return rows, _seen(width, resized[1], spec.width_px, values.shape[1])


def grey_picture(pixels: Pixels) -> NDArray[np.uint8]:
    """The image in grey, uint8 ``[H, W, 3]``, so that colour is the map's alone."""
    values = pixels.values.astype(np.float32)
    if pixels.is_colour:
        values = values @ np.asarray(LUMA, np.float32)
    part = np.clip((values - pixels.low) / (pixels.high - pixels.low), 0, 1)
    return np.repeat(np.rint(255 * part).astype(np.uint8)[..., None], 3, axis=2)


def _seen(side: int, resized: int, network: int, places: int) -> FloatArray:
    """Interpolation matrix ``[side, places]`` from places to pixels of the image; a pixel not seen has a row of 0.

    A resized image is padded or cropped about its centre, as in `preprocess`.
    """
    short = max(0, network - resized)
    start = round((resized + short - network) / 2) - short // 2
    positions = (np.arange(side) + 0.5) * resized / side - start
    matrix = _between(positions, network, places)
    matrix[(positions < 0) | (positions > network)] = 0
    return matrix


def _between(positions: NDArray[np.float64], network: int, places: int) -> FloatArray:
    """Interpolation matrix ``[n, places]`` at ``positions`` of an input of ``network`` pixels; level at the borders."""
    at = np.clip(positions * places / network - 0.5, 0, places - 1)
    left = np.minimum(at.astype(np.int64), max(places - 2, 0))
    matrix = np.zeros((len(at), places), np.float32)
    rows = np.arange(len(at))
    matrix[rows, left] = 1 - (at - left)
    if places > 1:
        matrix[rows, left + 1] = at - left
    return matrix
