"""Resize, pad and crop of `runtime.preprocess` as nodes: Pillow's resize of float planes, antialiased.

    centre of output pixel r:     c_r = (r + 1/2) size_in / size_out
    weight of input pixel j:      w_rj = f(|j + 1/2 - c_r| / s) / Σ_j f(…),    s = max(1, size_in / size_out)

with f the triangle or the cubic of a = -0.5, over the pixels j of the image alone. Two forms give the same. One is
ONNX ``Resize`` with ``antialias`` and ``exclude_outside`` (opset 18). The other is two products with matrices ``w``
that the graph builds for the rows and columns that are not cropped away, of operators that every engine has; distances
are whole multiples of ``1 / (2 size_out)`` in them, and so exact for every size.

``nearest`` takes pixel ``floor(c_r)`` with ``c_r`` summed up step by step in float64, as Pillow does: where it lies on
the border of two pixels, the rounding of that sum decides.
"""

from __future__ import annotations

from types import MappingProxyType

import numpy as np

from medfm_compress.export.self_contained.builder import GraphBuilder, Value
from medfm_compress.export.self_contained.options import ResizeForm
from medfm_compress.runtime.image_spec import Filter, ImageSpec

RESIZE_OPSET = 18
_CUBIC = -0.5


def fit(graph: GraphBuilder, planes: Value, size: Value, spec: ImageSpec, form: ResizeForm) -> Value:
    """Resize ``planes`` and cut or pad them about the centre.

    Args:
        graph: that the nodes go to.
        planes: float32 ``[C, H, W]``.
        size: int64 ``[2]``, height and width after the resize.
        spec: gives the filter and the final size.
        form: of the resize; ``nearest`` has one only.

    Returns:
        float32 ``[C, height_px, width_px]``.
    """
    before = (graph.shape(planes, 1, 2), graph.shape(planes, 2, 3))
    after = (_element(graph, size, 0), _element(graph, size, 1))
    if form == "matmul" and spec.filter != "nearest":
        rows = _weights(graph, before[0], after[0], spec.height_px, spec.filter)
        columns = _weights(graph, before[1], after[1], spec.width_px, spec.filter)
        narrowed = graph.apply("MatMul", rows, planes)
        return graph.apply("MatMul", narrowed, graph.apply("Transpose", columns, perm=[1, 0]))
    if spec.filter == "nearest":
        tall = graph.apply("Gather", planes, _nearest(graph, before[0], after[0]), axis=1)
        resized = graph.apply("Gather", tall, _nearest(graph, before[1], after[1]), axis=2)
    else:
        resized = _resize(graph, planes, size, spec.filter)
    return _centre(graph, resized, after, (spec.height_px, spec.width_px))


def _resize(graph: GraphBuilder, planes: Value, size: Value, name: Filter) -> Value:
    axis = graph.constant([0], np.int64)
    sizes = graph.apply("Concat", graph.constant([1], np.int64), graph.shape(planes, 0, 1), size, axis=0)
    resized = graph.apply(
        "Resize",
        graph.apply("Unsqueeze", planes, axis),
        "",
        "",
        sizes,
        mode="cubic" if name == "bicubic" else "linear",
        coordinate_transformation_mode="half_pixel",
        antialias=1,
        exclude_outside=1,
        cubic_coeff_a=_CUBIC,
    )
    return graph.apply("Squeeze", resized, axis)


def _nearest(graph: GraphBuilder, before: Value, after: Value) -> Value:
    """Indices ``[after]`` int64 into a side of ``before`` pixels; both are int64 ``[1]``."""
    scale = graph.apply("Div", graph.cast(before, np.float64), graph.cast(after, np.float64))
    start = graph.apply("Mul", scale, graph.constant([0.5], np.float64))
    one = graph.constant([1], np.int64)
    steps = graph.apply("Expand", scale, graph.apply("Sub", after, one))
    centres = graph.apply("CumSum", graph.apply("Concat", start, steps, axis=0), graph.constant(0, np.int64))
    return graph.apply("Min", graph.cast(centres, np.int64), graph.apply("Sub", before, one))


def _centre(graph: GraphBuilder, planes: Value, sides: tuple[Value, Value], target: tuple[int, int]) -> Value:
    """Pad with 0 and crop; ``sides`` are those of ``planes``, int64 ``[1]`` each."""
    offsets = [_offset(graph, side, length) for side, length in zip(sides, target, strict=True)]
    none = graph.constant([0], np.int64)
    before = [graph.apply("Max", graph.apply("Neg", offset), none) for offset in offsets]
    after = []
    for side, offset, length in zip(sides, offsets, target, strict=True):
        end = graph.apply("Add", offset, graph.constant([length], np.int64))
        after.append(graph.apply("Max", graph.apply("Sub", end, side), none))
    padded = graph.apply("Pad", planes, graph.apply("Concat", none, *before, none, *after, axis=0))
    starts = graph.apply("Concat", *(graph.apply("Max", offset, none) for offset in offsets), axis=0)
    ends = graph.apply("Add", starts, graph.constant(target, np.int64))
    return graph.apply("Slice", padded, starts, ends, graph.constant([1, 2], np.int64))


def _offset(graph: GraphBuilder, side: Value, length: int) -> Value:
    """Where a centred window of ``length`` pixels begins on a side, int64 ``[1]``; negative where it is padded before.

    Half a pixel is rounded to even where it crops, and down before the image where it pads, as torchvision does.
    """
    excess = graph.apply("Sub", side, graph.constant([length], np.int64))
    half = graph.apply("Mul", graph.cast(excess, np.float32), graph.constant([0.5], np.float32))
    cropped = graph.cast(graph.apply("Round", half), np.int64)
    padded = graph.cast(half, np.int64)  # towards 0
    return graph.apply("Where", graph.apply("Less", excess, graph.constant([0], np.int64)), padded, cropped)


def _weights(graph: GraphBuilder, before: Value, after: Value, length: int, name: Filter) -> Value:
    """The matrix ``w`` ``[length, before]`` float32 of a centred window of a side that is resized to ``after`` pixels.

    Rows that lie beside the image, where it is padded, are 0.
    """
    pixels = graph.apply("Range", *(graph.constant(number, np.int64) for number in (0, length, 1)))
    rows = graph.apply("Unsqueeze", graph.apply("Add", pixels, _offset(graph, after, length)), _axis(graph, 1))
    columns = graph.apply("Range", _scalar(graph, 0), graph.apply("Squeeze", before), _scalar(graph, 1))
    difference = graph.apply(
        "Sub",
        graph.apply("Mul", _doubled_centre(graph, columns), after),
        graph.apply("Mul", _doubled_centre(graph, rows), before),
    )
    distance = graph.cast(graph.apply("Abs", difference), np.float32)
    unit = graph.apply("Mul", graph.apply("Max", before, after), graph.constant([2], np.int64))  # 2 size_out s
    raw = _KERNELS[name](graph, graph.apply("Div", distance, graph.cast(unit, np.float32)))
    total = graph.apply("ReduceSum", raw, _axis(graph, 1), keepdims=1)
    is_inside = graph.apply(
        "And",
        graph.apply("GreaterOrEqual", rows, _scalar(graph, 0)),
        graph.apply("Less", rows, after),
    )
    return graph.apply("Where", is_inside, graph.apply("Div", raw, total), graph.constant(0, np.float32))


def _doubled_centre(graph: GraphBuilder, pixels: Value) -> Value:
    """``2 (x + 1/2)`` of int64 indices."""
    return graph.apply("Add", graph.apply("Mul", pixels, _scalar(graph, 2)), _scalar(graph, 1))


def _triangle(graph: GraphBuilder, x: Value) -> Value:
    """``max(0, 1 - x)`` of distances ``x`` >= 0."""
    return graph.apply("Relu", graph.apply("Sub", graph.constant(1, np.float32), x))


def _cubic(graph: GraphBuilder, x: Value) -> Value:
    """Keys' cubic: ``(a + 2) x³ - (a + 3) x² + 1`` below 1, ``a x³ - 5a x² + 8a x - 4a`` below 2, else 0."""
    near = _polynomial(graph, x, (_CUBIC + 2, -(_CUBIC + 3), 0.0, 1.0))
    far = _polynomial(graph, x, (_CUBIC, -5 * _CUBIC, 8 * _CUBIC, -4 * _CUBIC))
    one, two, zero = (graph.constant(number, np.float32) for number in (1, 2, 0))
    outer = graph.apply("Where", graph.apply("Less", x, two), far, zero)
    return graph.apply("Where", graph.apply("Less", x, one), near, outer)


def _polynomial(graph: GraphBuilder, x: Value, coefficients: tuple[float, ...]) -> Value:
    """Horner's rule, highest power first."""
    value = graph.constant(coefficients[0], np.float32)
    for coefficient in coefficients[1:]:
        value = graph.apply("Add", graph.apply("Mul", value, x), graph.constant(coefficient, np.float32))
    return value


_KERNELS = MappingProxyType({"bilinear": _triangle, "bicubic": _cubic})


def _element(graph: GraphBuilder, pair: Value, index: int) -> Value:
    return graph.apply("Gather", pair, graph.constant([index], np.int64), axis=0)


def _axis(graph: GraphBuilder, axis: int) -> Value:
    return graph.constant([axis], np.int64)


def _scalar(graph: GraphBuilder, value: int) -> Value:
    return graph.constant(value, np.int64)
