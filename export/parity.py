"""Parity: does an exported network compute what the module computes? Checked at each border, on synthetic cases.

The measure is the relative logit error of `goldens`; the limit depends on the arithmetic alone and stands here only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from medfm_compress.export.module_outputs import LOGITS, module_outputs
from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.golden_cases import make_golden_inputs, relative_logit_error, run_goldens
from medfm_compress.runtime.network_inputs import NetworkInputs

if TYPE_CHECKING:
    from torch import nn

    from medfm_compress.runtime.columns import Column
    from medfm_compress.runtime.image_spec import ImageSpec
    from medfm_compress.runtime.sessions.protocol import Session
    from medfm_compress.runtime.task import Task

PARITY_CASES = 8

# Largest relative logit error by precision. float32: other summation orders, seen below 1e-4 over the supported
# families. bf16 has 8 bits of mantissa, fp16 11. int8: how far another CPU's rounding may move stored golden logits.
TOLERANCES = MappingProxyType({"fp32": 1e-3, "bf16": 5e-2, "fp16": 1e-2, "int8": 1e-1, "int8-bf16": 1e-1})
TOLERANCES = MappingProxyType(TOLERANCES | {"int8-fp16": 1e-1, "fp8": 1e-1, "fp8-fp16": 1e-1})
# Weights alone in 8 or 4 bits: the arithmetic is float32, in other orders.
TOLERANCES = MappingProxyType(TOLERANCES | {"int8-weights": 1e-2, "int4-weights": 1e-2})

Logits = Callable[[NetworkInputs], NDArray[Any]]


class Parity(msgspec.Struct, frozen=True, kw_only=True):
    """How far a candidate is from its reference.

    Attributes:
        candidate: what was compared, e.g. ``onnxruntime fp32``.
        cases: synthetic inputs compared.
        max_abs_difference: over all logits.
        relative_logit_error: over all cases, see `goldens`.
        tolerance: largest allowed relative logit error.
    """

    candidate: str
    cases: int
    max_abs_difference: float
    relative_logit_error: float
    tolerance: float

    def __str__(self) -> str:
        return (
            f"{self.candidate} matches the module on {self.cases} synthetic cases: "
            f"relative logit error below {self.tolerance:g}"
        )


def check_parity(
    reference: Logits,
    candidate: Session,
    spec: ImageSpec,
    task: Task,
    count: int = PARITY_CASES,
    columns: Sequence[Column] = (),
) -> Parity:
    """Compare ``candidate`` with ``reference`` on ``count`` synthetic inputs.

    Args:
        reference: normalised inputs ``[n, C, H, W]`` float32, and columns if there are any → logits ``[n, labels]``.
        candidate: an opened session; its declared precision sets the tolerance.
        spec: gives the inputs.
        task: says what of the logits matters.
        count: synthetic cases, 1 to 64.
        columns: that the network takes beside the image.

    Raises:
        InputError: the relative logit error is above the tolerance, or a logit is not finite.
    """
    inputs = make_golden_inputs(spec, columns, count, seed=1)  # not the bundle's own goldens (seed 0)
    expected, logits = np.asarray(reference(inputs), dtype=np.float64), run_goldens(candidate, inputs)
    name = f"{candidate.info.backend} {candidate.info.precision}"
    if expected.shape != logits.shape:
        raise InputError(
            f"{name} gives logits of shape {logits.shape}, the module {expected.shape}; nothing was written"
        )
    parity = Parity(
        candidate=name,
        cases=count,
        max_abs_difference=float(np.abs(logits - expected).max()),
        relative_logit_error=relative_logit_error(logits, expected, task),
        tolerance=TOLERANCES[candidate.info.precision],
    )
    if not parity.relative_logit_error <= parity.tolerance:
        raise InputError(
            f"{name} does not compute what the module computes: relative logit error "
            f"{parity.relative_logit_error:.3g}, allowed is {parity.tolerance:g}; nothing was written"
        )
    return parity


def module_logits(module: nn.Module) -> Logits:
    """A function from inputs of n cases to the module's logits, one case at a time, float32 on the CPU.

    A copy in eval mode is run; the module keeps its mode, dtype and device.
    """
    outputs = module_outputs(module)
    return lambda inputs: outputs(inputs)[LOGITS]
