"""Where the network looked, by the very engine that gave the finding, and the picture of it.

A bundle with class activation maps (`class_activation`) gives a map with its finding; any other by occlusion.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from medfm_compress.runtime.bundle.manifest import ANOMALY_MAP
from medfm_compress.runtime.class_activation import (
    CAM,
    CLASS_TOKEN,
    ClassActivation,
    grey_picture,
    on_image,
    on_input,
)
from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.image_spec import ImageSpec
from medfm_compress.runtime.images.pixels import Pixels
from medfm_compress.runtime.network_inputs import NetworkInputs, columns_of, images_of, with_columns
from medfm_compress.runtime.occlusion import OcclusionOptions, occlusion_map, windows
from medfm_compress.runtime.task import Task

if TYPE_CHECKING:
    from medfm_compress.runtime.engine import Engine
    from medfm_compress.runtime.prediction import Prediction

OCCLUSION, ACTIVATION, CLASS_TOKEN_ATTENTION = "occlusion", "class activation", "class token attention"
ANOMALY = "anomaly map"
METHODS = MappingProxyType({CAM: ACTIVATION, CLASS_TOKEN: CLASS_TOKEN_ATTENTION, ANOMALY_MAP: ANOMALY})

OnStep = Callable[[int, int], None]
"""Called before every run of the network with how many are done and how many there are; what it raises ends the map."""
_OPACITY = 0.55
_COLD, _HOT = np.array([170, 0, 60], np.float32), np.array([255, 230, 0], np.float32)


class HeatMap(NamedTuple):
    """What speaks for one finding.

    Attributes:
        finding: that was explained.
        evidence: float32 ``[H, W]``, log-odds that covering a place takes away, or that it adds; negative where it
            speaks against the finding.
        picture: uint8 ``[H, W, 3]``, the image as the network saw it, before normalisation, or as it is in the file.
        method: ``occlusion``, ``class activation``, of a ViT that reads one token ``class token attention``, or
            ``anomaly map``: then the evidence is the logit of the score at a place, 0 that of a usual normal image.
        full: evidence that is painted in full colour; 0 is the most that there is.
    """

    finding: str
    evidence: NDArray[np.float32]
    picture: NDArray[np.uint8]
    method: str = OCCLUSION
    full: float = 0.0


def heat_map(
    engine: Engine,
    inputs: NetworkInputs,
    prediction: Prediction,
    *,
    finding: str | None = None,
    on_step: OnStep | None = None,
) -> HeatMap | None:
    """Map of one finding in ``prediction``; None where no finding is given.

    Args:
        engine: that predicted; run once where its bundle gives class activation maps, else some 226 times.
        inputs: what it was given (`NetworkInput.inputs`); columns stay while parts of the image are covered.
        prediction: of this image.
        finding: to be explained; by default the one that matters most.
        on_step: see `OnStep`.

    Raises:
        InputError: the network is a segmentation.
        InputError: there is no such finding, the logits of a covered image are not finite, or the engine is closed.
        Refused: likewise, by the engine.
    """
    if engine.task.is_dense:
        raise InputError(
            "a heat map explains what is said of a whole image; a segmentation says of every pixel what it shows: look "
            "at its label map ('medfm-compress run BUNDLE IMAGE --overlay FOLDER')"
        )
    chosen = finding if finding is not None and prediction.probabilities else finding_to_explain(prediction)
    if chosen is None:
        return None
    spec, tensor = engine.manifest.image_spec, images_of(inputs)
    activation = engine.activation(inputs)
    if activation is not None:
        evidence = on_input(activation.evidence(engine.task, chosen), spec)
        method, full = method_of(activation), called_from(engine.task)
        return HeatMap(chosen, evidence, picture_of(tensor, spec), method, full)
    height, width = tensor.shape[2:]
    runs = 1 + len(list(windows(height, width, OcclusionOptions())))
    return HeatMap(
        finding=chosen,
        evidence=occlusion_map(_counting(engine, inputs, runs, on_step), tensor, engine.task, chosen),
        picture=picture_of(tensor, spec),
    )


def heat_map_of_image(
    activation: ClassActivation, pixels: Pixels, spec: ImageSpec, task: Task, finding: str
) -> HeatMap:
    """Map of ``finding`` at the image's own size, from the run that gave it; the image is grey under it.

    Args:
        activation: of the image (`NetworkInput.activation`).
        pixels: of the image.
        spec: of the bundle.
        task: of the variant that predicted.
        finding: to be explained.

    Raises:
        InputError: there is no such finding.
    """
    height, width = pixels.shape[:2]
    evidence = on_image(activation.evidence(task, finding), spec, height, width)
    return HeatMap(finding, evidence, grey_picture(pixels), method_of(activation), called_from(task))


def method_of(activation: ClassActivation) -> str:
    """How the maps of a run were made, in words."""
    return METHODS.get(activation.output, ACTIVATION)


def called_from(task: Task) -> float:
    """The logit from which a place of an anomaly map would be called by itself; 0 of other tasks, and without one."""
    if task.gives_probabilities:
        return 0.0
    threshold = next((point.threshold for point in task.operating_points), 0.0)
    called = math.log(threshold) - math.log1p(-threshold) if 0 < threshold < 1 else 0.0
    return max(called * task.temperature, 0.0)


def finding_to_explain(prediction: Prediction) -> str | None:
    """The most probable of the findings that were called, or of all where none was; None where there are none."""
    called = [name for name, is_called in prediction.findings.items() if is_called]
    return max(called or prediction.probabilities, key=prediction.probabilities.__getitem__, default=None)


def picture_of(tensor: NDArray[np.float32], spec: ImageSpec) -> NDArray[np.uint8]:
    """The image as the network sees it: ``[1, C, H, W]``, normalised → uint8 ``[H, W, 3]``."""
    scale, shift = (np.asarray(values, np.float32)[:, None, None] for values in (spec.std, spec.mean))
    seen = np.rint(255 * np.clip(tensor[0] * scale + shift, 0, 1)).astype(np.uint8)
    picture: NDArray[np.uint8] = np.repeat(seen, 3 // len(seen), axis=0).transpose(1, 2, 0)
    return picture


def scale_bar(height: int, width: int) -> NDArray[np.uint8]:
    """The colours of `overlay` on an even grey, from no evidence to the most of a map: uint8 ``[height, width, 3]``."""
    evidence = np.broadcast_to(np.linspace(0, 1, width, dtype=np.float32), (height, width))
    return overlay(HeatMap("", evidence, np.full((height, width, 3), 128, np.uint8)))


def overlay(heat: HeatMap) -> NDArray[np.uint8]:
    """``heat.picture`` under its evidence, uint8 ``[H, W, 3]``: red is little, yellow most, grey none or against.

    Of an anomaly map yellow is what would be called by itself, so that a normal image stays grey.
    """
    colour, opacity = _warmth(heat)
    shown: NDArray[np.uint8] = np.rint(heat.picture * (1 - opacity) + colour * opacity).astype(np.uint8)
    return shown


def layer(heat: HeatMap) -> NDArray[np.uint8]:
    """The evidence alone, to be laid over the picture: uint8 ``[H, W, 4]``, red, green, blue and opacity."""
    colour, opacity = _warmth(heat)
    rgba: NDArray[np.uint8] = np.rint(np.concatenate([colour, 255 * opacity], axis=2)).astype(np.uint8)
    return rgba


def _warmth(heat: HeatMap) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Colour ``[H, W, 3]`` in 0 to 255, and opacity ``[H, W, 1]`` in [0, 1]."""
    evidence = np.clip(heat.evidence, 0, None)
    largest = heat.full or float(evidence.max())
    part = np.clip(evidence / largest if largest > 0 else evidence, 0, 1)[..., None].astype(np.float32)
    opacity: NDArray[np.float32] = np.float32(_OPACITY) * np.sqrt(part)
    return _COLD + part * (_HOT - _COLD), opacity


def _counting(
    engine: Engine, inputs: NetworkInputs, runs: int, on_step: OnStep | None
) -> Callable[[NDArray[np.float32]], NDArray[Any]]:
    """The network on another image beside the columns of ``inputs``; it tells of every run before it."""
    columns, done = columns_of(inputs), iter(range(runs))

    def logits_of(image: NDArray[np.float32]) -> NDArray[Any]:
        if on_step is not None:
            on_step(next(done), runs)
        return engine.logits(with_columns(image, columns))

    return logits_of
