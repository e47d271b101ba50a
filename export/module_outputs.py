"""What a torch module returns beside its logits, by name: the outputs of the graph that is exported.

A module with one output returns the logits. One with several has an attribute ``output_names``, e.g. ``("logits",
"anomaly_map", "nearest")``, and returns a tuple of tensors in that order:

    logits       [n, labels]          as its task has them
    anomaly_map  [n, 1, h, w]         the anomaly score of every place, in the unit of the logit
    nearest      [n, k]               numbers of the most similar training cases, whole, the most similar first
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from medfm_compress.runtime.bundle.manifest import ANOMALY_MAP, NEAREST, Tensor
from medfm_compress.runtime.errors import ModelError
from medfm_compress.runtime.network_inputs import NetworkInputs, arguments_of, rows_of

if TYPE_CHECKING:
    from torch import nn

    from medfm_compress.runtime.image_spec import ImageSpec

LOGITS = "logits"
Role = Literal["anomaly_map", "nearest"]
EXTRA: tuple[Role, ...] = (ANOMALY_MAP, NEAREST)
"""Beside the logits, in the order that a graph has them."""

Rows = dict[str, NDArray[Any]]
"""Output name → float32 ``[n, …]``."""
Outputs = Callable[[NetworkInputs], Rows]
"""Normalised inputs of n cases → what a network says of them."""


def output_names(module: nn.Module) -> tuple[str, ...]:
    """Names of what ``module`` returns, the logits first.

    Raises:
        ModelError: an output of no known name, or another order.
    """
    names = tuple(getattr(module, "output_names", (LOGITS,)))
    if names != (LOGITS, *(name for name in EXTRA if name in names)):
        raise ModelError(f"the model's outputs are {names}; they must be {(LOGITS, *EXTRA)}, or some of them")
    return names


def named(module: nn.Module, answer: Any) -> dict[str, Any]:
    """What ``module`` returned, by name.

    Raises:
        ModelError: it is not as many tensors as the module has names.
    """
    names = output_names(module)
    parts = tuple(answer) if isinstance(answer, tuple) else (answer,)
    if len(parts) != len(names):
        raise ModelError(f"the model returns {len(parts)} outputs and names {len(names)}: {names}")
    return dict(zip(names, parts, strict=True))


def module_outputs(module: nn.Module) -> Outputs:
    """A function from inputs to everything that the module says, one case at a time, float32 on the CPU.

    A copy in eval mode is run; the module keeps its mode, dtype and device.
    """
    import copy

    import torch

    copied = copy.deepcopy(module).float().cpu().eval()

    def outputs(inputs: NetworkInputs) -> Rows:
        with torch.no_grad():
            rows = [named(copied, copied(*map(torch.from_numpy, arguments_of(case)))) for case in rows_of(inputs)]
        return {name: np.concatenate([row[name].numpy() for row in rows]) for name in output_names(copied)}

    return outputs


def extra_tensors(module: nn.Module, spec: ImageSpec) -> tuple[Tensor, ...]:
    """The outputs beside the logits as a manifest has them.

    Raises:
        ModelError: one of them has a shape that its role does not have.
    """
    names = output_names(module)[1:]
    if not names:
        return ()
    answer = module_outputs(module)(np.zeros(spec.shape, np.float32))
    tensors = tuple(Tensor(name=name, role=name, shape=answer[name].shape) for name in EXTRA if name in names)
    for tensor in tensors:
        axes = 4 if tensor.role == ANOMALY_MAP else 2
        if len(tensor.shape) != axes or tensor.shape[0] != 1 or (axes == 4 and tensor.shape[1] != 1):
            raise ModelError(f"the model's {tensor.name} is {tensor.shape}; see export.module_outputs for what it is")
    return tensors
