"""Where the network looked: an occlusion map by the very engine that gave the finding."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from medfm_compress.runtime.occlusion import occlusion_map

if TYPE_CHECKING:
    from medfm_compress.runtime.engine import Engine, Prediction


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


def heat_map(engine: Engine, tensor: NDArray[np.float32], prediction: Prediction) -> HeatMap | None:
    """Map of the finding that matters most in ``prediction``; None where no finding is given.

    Args:
        engine: that predicted; run some 226 times.
        tensor: what it was given, ``[1, C, H, W]``, normalised (`NetworkInput.tensor`).
        prediction: of this image.

    Raises:
        InputError: the logits of a covered image are not finite, or the engine is closed.
        Refused: likewise, by the engine.
    """
    finding = finding_to_explain(prediction)
    if finding is None:
        return None
    spec = engine.manifest.image_spec
    scale, shift = (np.asarray(values, np.float32)[:, None, None] for values in (spec.std, spec.mean))
    seen = np.rint(255 * np.clip(tensor[0] * scale + shift, 0, 1)).astype(np.uint8)
    return HeatMap(
        finding=finding,
        evidence=occlusion_map(engine.logits, tensor, engine.task, finding),
        picture=np.repeat(seen, 3 // len(seen), axis=0).transpose(1, 2, 0),
    )


def finding_to_explain(prediction: Prediction) -> str | None:
    """The most probable of the findings that were called, or of all where none was; None where there are none."""
    called = [name for name, is_called in prediction.findings.items() if is_called]
    return max(called or prediction.probabilities, key=prediction.probabilities.__getitem__, default=None)
