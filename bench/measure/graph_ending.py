"""What comes out of an ONNX graph: logits, or probabilities of a softmax or of sigmoids.

Taken for logits, probabilities are a silent wrong answer: softmax([1, 0]) is [0.73, 0.27]. So an ending is used where
it is proven, by the operator that makes the output or by rows that add up to 1; where outputs lie in [0, 1] and nothing
proves what they are, nobody guesses and the user is asked. Logits come back out of probabilities by

    z = log p                    of a softmax
    z = log p − log(1 − p)       of a sigmoid

with p kept in [1e-7, 1 − 1e-7].
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.sessions.operators import read_self_contained

Ending = Literal["logits", "softmax", "sigmoid"]
ENDINGS: tuple[Ending, ...] = get_args(Ending)
Maker = Literal["softmax", "sigmoid", "log-softmax", "log", ""]

_LEAST = 1e-7
_SUM_TOLERANCE = 1e-4
_CLIPPED = 0.5  # bytes hold the range of p that was calibrated, and noise leaves it
_BYTE_STEP = 1 / 255
_ROUNDING = 0.01  # how far outside [0, 1] probabilities that are stored in bytes may round
_PASSING = frozenset(
    {"Identity", "Flatten", "Reshape", "Squeeze", "Unsqueeze", "Cast", "QuantizeLinear", "DequantizeLinear"}
)
_MAKERS: dict[str, Maker] = {
    "Softmax": "softmax",
    "QLinearSoftmax": "softmax",
    "Sigmoid": "sigmoid",
    "QLinearSigmoid": "sigmoid",
    "LogSoftmax": "log-softmax",
}


def maker_of_output(content: bytes) -> Maker:
    """What makes the first output, behind operators that only pass values on or store them in bytes.

    Empty where it is something else, or where the package ``onnx`` is not installed to look.

    Raises:
        InputError: it is no whole model, or a tensor of it lies in another file.
    """
    try:
        import onnx
    except ImportError:
        return ""
    read_self_contained(content, error=InputError)
    graph: Any = onnx.load_model_from_string(content).graph
    nodes = {name: node for node in graph.node for name in node.output}
    node = _behind(nodes, graph.output[0].name)
    if node is None:
        return ""
    if node.op_type in _MAKERS:
        return _MAKERS[node.op_type]
    before = _behind(nodes, node.input[0]) if node.input else None
    inner = before.op_type if before is not None else ""
    if node.op_type == "Exp" and inner == "LogSoftmax":
        return "softmax"
    if node.op_type == "Log":
        return "log-softmax" if _MAKERS.get(inner) == "softmax" else "log"
    return "log" if node.op_type == "Neg" and inner == "Softplus" else ""  # log σ(z) = −softplus(−z)


def proven_ending(outputs: NDArray[Any], maker: Maker, *, exclusive: bool) -> Ending | None:
    """What ``outputs`` ``[n, outputs]`` on noise are; None where nothing proves it.

    Args:
        outputs: on several inputs.
        maker: see `maker_of_output`.
        exclusive: whether the study's labels exclude each other; two sigmoids may add up to 1 and be either.
    """
    if maker == "log" and not _adds_up(np.exp(outputs), _SUM_TOLERANCE):
        return None
    if not within_unit(outputs):
        return "logits"
    if maker == "sigmoid" and not (exclusive and _adds_up(outputs, _SUM_TOLERANCE)):
        return "sigmoid"
    tolerance = _CLIPPED if maker == "softmax" else _SUM_TOLERANCE
    return "softmax" if outputs.shape[1] > 1 and _adds_up(outputs, tolerance) else None


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


def disproof(ending: Ending, outputs: NDArray[Any]) -> str:
    """Why ``outputs`` ``[n, outputs]`` cannot be what somebody says, as the end of a sentence; empty where they can."""
    if ending == "logits":
        return ""
    if not within_unit(outputs):
        return f"its outputs reach from {outputs.min():.3g} to {outputs.max():.3g} on noise, outside [0, 1]"
    most = float(outputs.sum(1).max())
    if ending == "softmax" and most > 1 + max(0.1, outputs.shape[1] / 2 * _BYTE_STEP):
        return f"its outputs add up to {most:.3g} on noise, and those of a softmax to 1 at most"
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


def _behind(nodes: dict[str, Any], name: str) -> Any:
    """The node that makes the value ``name``, those that only pass it on left out; None at the graph's input."""
    node = nodes.get(name)
    while node is not None and node.op_type in _PASSING:
        node = nodes.get(node.input[0])
    return node


def _adds_up(outputs: NDArray[Any], tolerance: float) -> bool:
    return bool((np.abs(outputs.sum(1) - 1) < tolerance).all())
