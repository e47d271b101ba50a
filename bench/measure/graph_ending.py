"""What comes out of an ONNX graph: logits, or probabilities of a softmax or of sigmoids.

Taken for logits, probabilities are a silent wrong answer: softmax([1, 0]) is [0.73, 0.27]. So an ending is used where
it is proven, by the operator that makes the output or by rows that add up to 1. Where outputs lie in [0, 1], are of
one sign or add up to a constant, or a softmax, sigmoid or the like lies between the last product with weights and the
output (percent, decimal or reversed logarithms, stretched sigmoids), nobody guesses and the user is asked.

Logits come back out of probabilities by

    z = log p                    of a softmax
    z = log p − log(1 − p)       of a sigmoid

with p kept in [1e-7, 1 − 1e-7].
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from medfm_compress.bench.measure.output_maker import Maker

Ending = Literal["logits", "softmax", "sigmoid"]
ENDINGS: tuple[Ending, ...] = get_args(Ending)

_LEAST = 1e-7
_SUM_TOLERANCE = 1e-4
_CLIPPED = 0.5  # bytes hold the range of p that was calibrated, and noise leaves it
_BYTE_STEP = 1 / 255
_ROUNDING = 0.01  # how far outside [0, 1] probabilities that are stored in bytes may round
# Factors after which logarithms of probabilities are natural ones: of other bases, and with the sign reversed.
_LOGARITHMS = (-1.0, float(np.log(10)), float(np.log(2)), -float(np.log(10)), -float(np.log(2)))


def proven_ending(outputs: NDArray[Any], maker: Maker, *, exclusive: bool) -> Ending | None:
    """What ``outputs`` ``[n, outputs]`` on noise are; None where nothing proves it.

    Args:
        outputs: on several inputs.
        maker: see `maker_of_output`.
        exclusive: whether the study's labels exclude each other; two sigmoids may add up to 1 and be either.
    """
    if not within_unit(outputs):
        return "logits" if _proven_logits(outputs, maker, exclusive=exclusive) else None
    if maker == "log":
        return None
    if maker == "sigmoid" and not (exclusive and _adds_up(outputs, _SUM_TOLERANCE)):
        return "sigmoid"
    tolerance = _CLIPPED if maker == "softmax" else _SUM_TOLERANCE
    return "softmax" if outputs.shape[1] > 1 and _adds_up(outputs, tolerance) else None


def _proven_logits(outputs: NDArray[Any], maker: Maker, *, exclusive: bool) -> bool:
    """Whether ``outputs`` that leave [0, 1] are logits; natural logarithms of a softmax are."""
    if maker == "log-softmax" or (exclusive and _exponentials_add_up(outputs)):
        return True
    if maker in ("softmax", "sigmoid", "log", "squashed") or _are_shares(outputs) or _exponentials_add_up(outputs):
        return False
    return maker == "product" or not _has_one_sign(outputs)


def contradiction(ending: Ending, maker: Maker, labels: int, *, exclusive: bool) -> str:
    """Why an ending cannot be that of a study, as the end of a sentence; empty where it can.

    Args:
        ending: as proven, or as the user says.
        maker: see `maker_of_output`.
        labels: outputs of the graph.
        exclusive: whether the study's labels exclude each other.
    """
    if not exclusive and (ending == "softmax" or maker == "log-softmax"):
        return (
            "it ends in a softmax, whose labels exclude each other, and the study's findings are independent; use a "
            "study of exclusive labels, or a model of independent findings"
        )
    if exclusive and labels > 1 and ending == "sigmoid":
        return (
            "it ends in a sigmoid for each label, which is for independent findings, and the study's labels exclude "
            "each other; use a study of independent findings, or a model of exclusive labels"
        )
    if labels == 1 and ending == "softmax":
        return "a softmax of one output is always 1; export it with one output for each label, or without the softmax"
    return ""


def disproof(ending: Ending, outputs: NDArray[Any], *, exclusive: bool) -> str:
    """Why ``outputs`` ``[n, outputs]`` cannot be what somebody says, as the end of a sentence; empty where they can.

    Args:
        ending: as somebody says.
        outputs: on noise.
        exclusive: whether the study's labels exclude each other.
    """
    if ending == "logits":
        return _disproof_of_logits(outputs, exclusive=exclusive)
    if not within_unit(outputs):
        return f"its outputs reach from {outputs.min():.3g} to {outputs.max():.3g} on noise, outside [0, 1]"
    most = float(outputs.sum(1).max())
    if ending == "softmax" and most > 1 + max(0.1, outputs.shape[1] / 2 * _BYTE_STEP):
        return f"its outputs add up to {most:.3g} on noise, and those of a softmax to 1 at most"
    return ""


def _disproof_of_logits(outputs: NDArray[Any], *, exclusive: bool) -> str:
    if _are_shares(outputs):
        total = float(outputs.sum(1).mean())
        return f"its outputs on noise have one sign and always add up to {total:.3g}, as probabilities do, scaled"
    if any(_exponentials_add_up(factor * outputs) for factor in _LOGARITHMS):
        return "its outputs are logarithms of probabilities to another base or with the sign reversed"
    if not exclusive and _exponentials_add_up(outputs):
        return "its outputs are logarithms of a softmax, whose labels exclude each other, and the findings do not"
    return ""


def within_unit(outputs: NDArray[Any]) -> bool:
    """Whether all values lie in [0, 1], within what rounding to bytes adds."""
    return bool(((outputs >= -_ROUNDING) & (outputs <= 1 + _ROUNDING)).all())


def logits_of_outputs(outputs: NDArray[Any], ending: Ending) -> NDArray[np.float32]:
    """Logits ``[n, outputs]`` float32 of what a graph gives, of the same shape."""
    if ending == "logits":
        return np.asarray(outputs, np.float32)
    p = np.clip(np.asarray(outputs, np.float64), _LEAST, 1 - _LEAST)
    return (np.log(p) if ending == "softmax" else np.log(p) - np.log1p(-p)).astype(np.float32)


def _has_one_sign(outputs: NDArray[Any]) -> bool:
    return bool((outputs >= 0).all() or (outputs <= 0).all())


def _are_shares(outputs: NDArray[Any]) -> bool:
    """Several outputs of one sign that vary and always add up to the same: probabilities, times a factor."""
    total = outputs.sum(1)
    even = np.ptp(total) < _SUM_TOLERANCE * np.abs(total).max()
    varied = np.ptp(outputs, axis=0).max() > 10 * _SUM_TOLERANCE * np.abs(total).max()
    return outputs.shape[1] > 1 and _has_one_sign(outputs) and bool(even and varied)


def _exponentials_add_up(outputs: NDArray[Any]) -> bool:
    """Several outputs that vary and whose exponentials always add up to 1: logarithms of probabilities."""
    varied = outputs.shape[1] > 1 and np.ptp(outputs, axis=0).max() > 10 * _SUM_TOLERANCE
    return bool(varied) and bool((outputs < 1).all()) and _adds_up(np.exp(outputs), _SUM_TOLERANCE)


def _adds_up(outputs: NDArray[Any], tolerance: float) -> bool:
    return bool((np.abs(outputs.sum(1) - 1) < tolerance).all())
