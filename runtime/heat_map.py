"""Where the network looked: an occlusion map by the very engine that gave the finding, and the picture of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from medfm_compress.runtime.image_spec import ImageSpec
from medfm_compress.runtime.occlusion import OcclusionOptions, occlusion_map, windows

if TYPE_CHECKING:
    from medfm_compress.runtime.engine import Engine, Prediction

OnStep = Callable[[int, int], None]
"""Called before every run of the network with how many are done and how many there are; what it raises ends the map."""
_OPACITY = 0.55
_COLD, _HOT = np.array([170, 0, 60], np.float32), np.array([255, 230, 0], np.float32)


class HeatMap(NamedTuple):
    """What speaks for one finding.

    Attributes:
        finding: that was explained.
        evidence: float32 ``[H, W]``, log-odds that covering a place takes away; negative where it adds some.
        picture: uint8 ``[H, W, 3]``, the image as the network saw it, before normalisation.
    """

    finding: str
    evidence: NDArray[np.float32]
    picture: NDArray[np.uint8]


def heat_map(
    engine: Engine,
    tensor: NDArray[np.float32],
    prediction: Prediction,
    *,
    finding: str | None = None,
    on_step: OnStep | None = None,
) -> HeatMap | None:
    """Map of one finding in ``prediction``; None where no finding is given.

    Args:
        engine: that predicted; run some 226 times.
        tensor: what it was given, ``[1, C, H, W]``, normalised (`NetworkInput.tensor`).
        prediction: of this image.
        finding: to be explained; by default the one that matters most.
        on_step: see `OnStep`.

    Raises:
        InputError: the network is a segmentation, there is no such finding, the logits of a covered image are not finite, or the engine is closed.
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
    height, width = tensor.shape[2:]
    runs = 1 + len(list(windows(height, width, OcclusionOptions())))
    return HeatMap(
        finding=chosen,
        evidence=occlusion_map(_counting(engine, runs, on_step), tensor, engine.task, chosen),
        picture=picture_of(tensor, engine.manifest.image_spec),
    )


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


def overlay(heat: HeatMap) -> NDArray[np.uint8]:
    """``heat.picture`` under its evidence, uint8 ``[H, W, 3]``: red is little, yellow most, grey none or against."""
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
    largest = float(evidence.max())
    part = (evidence / largest if largest > 0 else evidence)[..., None].astype(np.float32)
    opacity: NDArray[np.float32] = np.float32(_OPACITY) * np.sqrt(part)
    return _COLD + part * (_HOT - _COLD), opacity


def _counting(engine: Engine, runs: int, on_step: OnStep | None) -> Callable[[NDArray[np.float32]], NDArray[Any]]:
    """The network, which tells of every run before it."""
    if on_step is None:
        return engine.logits
    done = iter(range(runs))

    def logits_of(image: NDArray[np.float32]) -> NDArray[Any]:
        on_step(next(done), runs)
        return engine.logits(image)

    return logits_of
