"""One FP32 graph in every precision that TensorRT builds, with the types in the graph, as strong typing wants it.

    fp32        as it is
    fp16, bf16  every tensor typed, FP32 at both ends and in the nodes that are kept
    int8        symmetric S8 Q/DQ on the inputs of every product, weights a channel, all else FP32
    fp8         FP8 E4M3 Q/DQ in the same places, all else FP32
    …-fp16      all else FP16, the pairs' scales too

Which nodes to keep in FP32 is measured (`float32_islands`). TensorRT 11 has no other way to say a precision than this;
TensorRT-RTX neither. 8.6 knows no FP16 scales: there FP16 beside INT8 is a flag of the builder.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from medfm_compress.compress.quantization import placement_tensorrt
from medfm_compress.compress.quantization.activation_statistics import Statistics
from medfm_compress.compress.quantization.qdq import write_qdq
from medfm_compress.compress.quantization.range_estimators import estimate_ranges
from medfm_compress.export.passes.expand_activations import expand_activations
from medfm_compress.export.passes.half_precision import Half, HalfPrecision, to_half
from medfm_compress.runtime.errors import InputError

if TYPE_CHECKING:
    import onnx_ir as ir


class Mix(NamedTuple):
    """What products read, and what everything else computes in; empty: FP32."""

    products: str
    rest: Half | None


PRECISIONS: Mapping[str, Mix] = MappingProxyType(
    {
        "fp32": Mix("", None),
        "fp16": Mix("", "fp16"),
        "bf16": Mix("", "bf16"),
        "int8": Mix("int8", None),
        "int8-fp16": Mix("int8", "fp16"),
        "fp8": Mix("fp8", None),
        "fp8-fp16": Mix("fp8", "fp16"),
    }
)


class TensorRTGraph(msgspec.Struct, frozen=True, kw_only=True):
    """A graph for TensorRT and what was done to it.

    Attributes:
        model: the graph.
        precision: a key of `PRECISIONS`.
        pairs: number of activations that are quantized.
        half: what the half-precision pass did, None where it did not run.
    """

    model: ir.Model
    precision: str
    pairs: int
    half: HalfPrecision | None


def write_precision(
    model: ir.Model,
    precision: str,
    statistics: Statistics | None = None,
    *,
    keep: Collection[str] = (),
    estimator: str = "minmax",
    attention: bool = False,
) -> TensorRTGraph:
    """``model`` in ``precision``; ``model`` is left as it is.

    Args:
        model: FP32, with shapes and types (`read_graph`), opset 19 or newer for ``fp8`` and ``…-fp16``.
        precision: a key of `PRECISIONS`.
        statistics: of the activations (`calibrate`), for ``int8…`` and ``fp8…``.
        keep: names of nodes that stay in FP32; a layer among them is not quantized either.
        estimator: of the ranges.
        attention: quantize products of two activations too (QKᵀ and PV).

    Raises:
        InputError: an unknown precision, no statistics where they are needed, names that no node has, an older opset.
    """
    if precision not in PRECISIONS:
        raise InputError(f"no precision {precision!r} of TensorRT; there are {', '.join(PRECISIONS)}")
    mix, pairs, changed = PRECISIONS[precision], 0, model
    if mix.products:
        if statistics is None:
            raise InputError(
                f"{precision} needs the ranges of activations: calibrate the graph and give its statistics"
            )
        placement = placement_tensorrt.place(model, keep, attention=attention, fp8=mix.products == "fp8")
        changed = write_qdq(model, placement, estimate_ranges(statistics, estimator, symmetric=True))
        pairs = len(placement.activations)
    half = None
    if mix.rest == "bf16":
        changed = changed.clone()
        expand_activations(changed, keep)
    if mix.rest is not None:
        changed, half = to_half(changed, mix.rest, keep)
    return TensorRTGraph(model=changed, precision=precision, pairs=pairs, half=half)
