r"""2:4 sparsity: of every four consecutive inputs of a weight two stay, the pattern that sparse tensor cores skip.

For a weight ``w`` of one output (and one kernel position), and inputs ``4g … 4g+3`` with ``c`` its score,

    c_j = |w_j|            (Mishra et al. 2021, "Accelerating Sparse Deep Neural Networks")
    c_j = |w_j| * |x_j|_2  (Sun et al. 2024, "Wanda"), where the inputs' norms over training cases are given

the two of largest score stay and the other two become exactly 0. This is the condition of TensorRT's
``BuilderFlag.SPARSE_WEIGHTS`` (Ampere and later; along the inputs of a convolution in one group, for every kernel
position, and along the reduced dimension of a matrix product with constant weights). Inputs must be a multiple of 4.
That makes a layer eligible, not faster: kernels read 16 (FP16) or 32 (INT8) inputs at a time, small layers gain
nothing, and TensorRT times both kinds and takes the faster one. Other engines multiply the zeros like any other number.

The zeros are the whole record: they are saved with the weights, and `sparse_layers` finds them again. Prune structures
first and make sparse afterwards, for cutting channels moves the groups of four. `keep_sparse` keeps the zeros through
recovery training.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from medfm_compress.export.passes.read import parse_onnx
from medfm_compress.runtime.errors import InputError, ModelError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

GROUP, KEPT = 4, 2


@dataclass(frozen=True)
class Dense:
    """A layer that stays as it is, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class Sparsity:
    """What `sparsify` did.

    Attributes:
        layers: names of those that are 2:4 now.
        left: the other linear and convolutional layers.
        zeros: weights of ``layers`` that are zero.
        weights: how many weights all linear and convolutional layers have.
    """

    layers: tuple[str, ...]
    left: tuple[Dense, ...]
    zeros: int
    weights: int


@torch.no_grad()
def sparsify(
    module: nn.Module, *, moments: Mapping[str, torch.Tensor] | None = None, leave: Collection[str] = ()
) -> Sparsity:
    """Make every eligible layer of ``module`` 2:4, in place.

    Args:
        module: its linear layers and convolutions in one group; it has lost accuracy afterwards (`keep_sparse`).
        moments: layer → mean square of each input, float ``[inputs]`` (`importance.input_moments`); weights are then
            judged by magnitude times input norm. A layer without an entry is judged by magnitude.
        leave: names of layers to leave dense, such as the classifier.

    Raises:
        InputError: ``leave`` names something that is no linear or convolutional layer of ``module``.
        ModelError: no layer is eligible.
    """
    layers = dict(_layers(module))
    unknown = sorted(set(leave) - set(layers))
    if unknown:
        raise InputError(f"{unknown[0]!r} is no linear or convolutional layer of this network; name one of its layers")
    reasons = {name: "it was asked to stay dense" if name in leave else _why_not(part) for name, part in layers.items()}
    done = tuple(name for name, reason in reasons.items() if not reason)
    if not done:
        listed = "; ".join(f"{name}: {reason}" for name, reason in list(reasons.items())[:3])
        raise ModelError(f"no layer of this network can be made 2:4 sparse ({listed}); leave sparsity out")
    for name in done:
        weight = layers[name].weight
        weight.masked_fill_(~_kept(weight, (moments or {}).get(name)), 0)
    return Sparsity(
        layers=done,
        left=tuple(Dense(name, reason) for name, reason in reasons.items() if reason),
        zeros=sum(int((layers[name].weight == 0).sum()) for name in done),
        weights=sum(part.weight.numel() for part in layers.values()),
    )


def sparse_layers(module: nn.Module) -> tuple[str, ...]:
    """Names of the layers that are 2:4; one whose weights are all zero is not counted."""
    return tuple(
        name for name, part in _layers(module) if not _why_not(part) and _first_full_group(part.weight) is None
    )


def keep_sparse(module: nn.Module) -> tuple[RemovableHandle, ...]:
    """Hold the zeros of every 2:4 layer through training, until the handles returned are removed.

    The gradient of a weight that is held is 0, so AdamW's moments stay 0, weight decay multiplies 0, and the moving
    average of zeros is 0: the weights stay exactly 0. Register before training starts and, in a run that goes on from a
    checkpoint, before the checkpoint is loaded.

    Raises:
        ModelError: no layer is 2:4.
    """
    names = sparse_layers(module)
    if not names:
        raise ModelError("no layer of this network is 2:4 sparse, so there is nothing to keep; make it sparse first")
    weights = [_layer(module, name).weight for name in names]
    return tuple(weight.register_hook(_holding(~_kept(weight.detach()))) for weight in weights)


def verify_sparse(module: nn.Module, names: Collection[str]) -> None:
    """Check that the layers ``names`` are 2:4.

    Raises:
        ModelError: one of them is not, with the first position where it is not.
    """
    layers = dict(_layers(module))
    for name in names:
        if name not in layers:
            raise ModelError(f"{name!r} is no linear or convolutional layer of this network; name one of its layers")
        part = layers[name]
        reason = _shape_reason(part)
        if reason:
            raise ModelError(f"{name} cannot be 2:4 sparse: {reason}")
        place = _first_full_group(part.weight)
        if place is not None:
            output, start, *position = place
            where = f", kernel position {tuple(position)}" if position else ""
            raise ModelError(
                f"{name} is not 2:4 sparse: of inputs {start} to {start + GROUP - 1} of output {output}{where} more "
                f"than {KEPT} are not 0; make it sparse again"
            )


def verify_sparse_onnx(content: bytes, zeros: int = 1) -> tuple[str, ...]:
    """Names of the constant weights in an ONNX file that are 2:4 along the inputs of their Conv, Gemm or MatMul.

    Weights are followed through QuantizeLinear and DequantizeLinear. Exporters rename weights and split them (queries,
    keys, values), so the number of zeros is what can be compared.

    Args:
        content: of the file, weights included.
        zeros: how many these weights must hold together, usually ``Sparsity.zeros``.

    Raises:
        ModelError: they hold fewer.
    """
    graph = parse_onnx(content).graph
    sparse = {name: matrix for name, matrix in _onnx_weights(graph) if _is_sparse(matrix)}
    held = sum(int((matrix == 0).sum()) for matrix in sparse.values())
    if held < zeros:
        raise ModelError(
            f"the 2:4 sparse weights of this ONNX file hold {held} zeros, and at least {zeros} are needed; export the "
            "sparse network again without a step that mixes weights"
        )
    return tuple(sparse)


def _layers(module: nn.Module) -> Iterator[tuple[str, Any]]:
    return ((name, part) for name, part in module.named_modules() if isinstance(part, (nn.Linear, nn.Conv2d)))


def _layer(module: nn.Module, name: str) -> Any:
    return module.get_submodule(name)


def _why_not(part: Any) -> str:
    return _shape_reason(part) or ("" if bool(part.weight.any()) else "its weights are all 0")


def _shape_reason(part: Any) -> str:
    """Why a layer of this shape cannot be 2:4, or an empty string."""
    if isinstance(part, nn.Conv2d) and part.groups > 1:
        return f"it is a convolution in {part.groups} groups"
    inputs = part.weight.shape[1]
    return f"its {inputs} inputs are not a multiple of {GROUP}" if inputs % GROUP else ""


def _in_groups(values: torch.Tensor) -> torch.Tensor:
    """``[…, inputs]`` as ``[…, groups, 4]``."""
    return values.reshape(*values.shape[:-1], -1, GROUP)


def _kept(weight: torch.Tensor, moments: torch.Tensor | None = None) -> torch.Tensor:
    """Which two of every four stay, bool of the weight's shape; of equals the earlier ones."""
    judged = weight.abs().movedim(1, -1)
    if moments is not None:
        judged = judged * moments.sqrt().to(judged)
    order = _in_groups(judged).argsort(dim=-1, descending=True, stable=True)
    mask = torch.zeros(order.shape, dtype=torch.bool, device=weight.device).scatter_(-1, order[..., :KEPT], True)
    return mask.flatten(-2).movedim(-1, 1)


@torch.no_grad()
def _first_full_group(weight: torch.Tensor) -> tuple[int, ...] | None:
    """Output, first input and kernel position of the first group with more than two weights; None where all are 2:4."""
    full = (_in_groups(weight.movedim(1, -1)) != 0).sum(-1) > KEPT
    if not bool(full.any()):
        return None
    output, *position, group = (int(place) for place in full.nonzero()[0])
    return (output, group * GROUP, *position)


def _holding(held: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    def hold(gradient: torch.Tensor) -> torch.Tensor:
        return gradient.masked_fill(held.to(gradient.device), 0)

    return hold


def _onnx_weights(graph: Any) -> Iterator[tuple[str, NDArray[np.generic]]]:
    """Constant weights with the inputs as their last dimension."""
    from onnx import numpy_helper

    constants = {tensor.name: tensor for tensor in graph.initializer}
    sources = {
        node.output[0]: node.input[0] for node in graph.node if node.op_type in {"QuantizeLinear", "DequantizeLinear"}
    }
    for node in graph.node:
        if node.op_type not in {"Conv", "Gemm", "MatMul"}:
            continue
        name = node.input[1]
        while name in sources:
            name = sources[name]
        numbers = {attribute.name: attribute.i for attribute in node.attribute}
        if name in constants and numbers.get("group", 1) == 1:
            array = numpy_helper.to_array(constants[name])
            across = node.op_type == "Conv" or bool(numbers.get("transB", 0))
            if array.ndim > 1:
                yield name, array.swapaxes(1, -1) if across else array.swapaxes(-2, -1)


def _is_sparse(matrix: NDArray[np.generic]) -> bool:
    if matrix.shape[-1] % GROUP:
        return False
    groups = matrix.reshape(-1, GROUP)
    return bool(((groups != 0).sum(-1) <= KEPT).all())
