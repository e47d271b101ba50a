"""Stored values of a grey DICOM image to P-values in [0, 1], as nodes: what `runtime.dicom.grey` does after decoding.

Sources: PS3.3 C.11.1 (Modality LUT), C.11.2 (VOI LUT), C.7.5.1.1.2 (pixel padding), C.7.6.3.1.2 (MONOCHROME1).

The host decodes the frame, refuses what it must (`runtime.dicom.checks`, `frame`), and passes attributes as they stand
in the file, all of shape ``[1]``:

    bits_stored int64, is_signed bool (Pixel Representation 1), is_monochrome1 bool
    rescale_slope, rescale_intercept float64: 1 and 0 where absent
    padding_first, padding_last int64: Pixel Padding Value and its Range Limit; 1 and 0 where there is none
    with the window rule "file": window_center, window_width float64 and voi_lut_function int64 (0 LINEAR,
    1 LINEAR_EXACT, 2 SIGMOID); a width of 0 where the file has no window

A file with a Modality LUT, VOI LUT or Presentation LUT Sequence cannot be passed: its tables are no numbers; nor can
one of more than 16 bits. Of several frames and windows the host takes those that the spec's rules name. All is computed
in float64 and rounded to 16 bits as the runtime does, so that the P-values are the same.
"""

from __future__ import annotations

import numpy as np

from medfm_compress.export.self_contained.builder import GraphBuilder, Value
from medfm_compress.runtime.dicom.grey import WHITE
from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.image_spec import DicomRules

MOST_BITS = 16
VOI_FUNCTIONS = ("LINEAR", "LINEAR_EXACT", "SIGMOID")
"""In the order of their numbers in ``voi_lut_function``."""


def presentation_values(graph: GraphBuilder, stored: Value, rules: DicomRules) -> tuple[Value, tuple[Value, ...]]:
    """Planes ``[height, width, 1]`` float32 in [0, 1] of ``stored`` int32, and the refusals.

    As in the runtime, the transforms are computed once for each value that can be stored, and pixels are looked up.
    """
    bits = graph.input("bits_stored", np.int64, (1,))
    low, high = _ends(graph, bits, graph.input("is_signed", np.bool_, (1,)))
    end = graph.apply("Squeeze", graph.apply("Add", high, graph.constant([1], np.int64)))
    codes = graph.apply("Range", graph.apply("Squeeze", low), end, graph.constant(1, np.int64))
    table, refusals = _table(graph, codes, rules)
    pixels = graph.cast(stored, np.int64)
    beyond = graph.apply("Or", graph.apply("Less", pixels, low), graph.apply("Greater", pixels, high))
    fits = graph.refuse(beyond, "a pixel exceeds the bits stored")
    indices = graph.apply("Add", graph.apply("Sub", pixels, low), fits)
    return graph.apply("Gather", table, indices, axis=0), refusals


def _table(graph: GraphBuilder, codes: Value, rules: DicomRules) -> tuple[Value, tuple[Value, ...]]:
    """P-values of ``codes`` ``[n]`` as float32 in [0, 1], and the refusals."""
    slope = graph.input("rescale_slope", np.float64, (1,))
    intercept = graph.input("rescale_intercept", np.float64, (1,))
    modality = graph.apply("Add", graph.apply("Mul", slope, graph.cast(codes, np.float64)), intercept)
    shown, refusals = _shown(graph, modality, rules)
    white = graph.constant([WHITE], np.float64)
    values = graph.apply("Round", graph.apply("Mul", shown, white))
    darkest, brightest = (graph.apply(kind, values, keepdims=0) for kind in ("ReduceMin", "ReduceMax"))
    differ = graph.apply("Less", darkest, brightest)  # NaN does not
    single = graph.refuse(graph.apply("Not", differ), "slope, intercept and window leave a single grey")
    is_inverted = graph.input("is_monochrome1", np.bool_, (1,))
    values = graph.apply("Where", is_inverted, graph.apply("Sub", white, values), values)
    values = graph.apply("Where", _is_padding(graph, codes), graph.constant([0], np.float64), values)
    # float32 before the division, as the runtime divides its 16-bit P-values
    scaled = graph.apply("Div", graph.cast(values, np.float32), graph.constant([WHITE], np.float32))
    return scaled, (single, *refusals)


def _ends(graph: GraphBuilder, bits: Value, is_signed: Value) -> tuple[Value, Value]:
    """The least and greatest value that can be stored, int64 ``[1]``."""
    wrong = graph.refuse(_outside(graph, bits, 1, MOST_BITS), f"bits_stored is not 1 to {MOST_BITS}")
    counts = graph.constant([2**number for number in range(MOST_BITS + 1)], np.int64)
    count = graph.apply("Gather", counts, graph.apply("Add", bits, wrong), axis=0)
    one = graph.constant([1], np.int64)
    half = graph.apply("Div", count, graph.constant([2], np.int64))
    low = graph.apply("Where", is_signed, graph.apply("Neg", half), graph.constant([0], np.int64))
    return low, graph.apply("Sub", graph.apply("Add", low, count), one)


def _shown(graph: GraphBuilder, modality: Value, rules: DicomRules) -> tuple[Value, tuple[Value, ...]]:
    """Values in [0, 1] before polarity, float64, and the refusals."""
    if rules.window == "fixed":
        centre, width = (graph.constant([number], np.float64) for number in (rules.window_center, rules.window_width))
        return _linear(graph, modality, centre, width), ()
    full = _full_range(graph, modality)
    if rules.window == "full_range":
        return full, ()
    if rules.window != "file":
        raise InputError(f"window rule {rules.window!r} has no graph; use file, full_range or fixed")
    centre = graph.input("window_center", np.float64, (1,))
    width = graph.input("window_width", np.float64, (1,))
    function = graph.input("voi_lut_function", np.int64, (1,))
    none, one = (graph.constant([number], np.float64) for number in (0, 1))
    is_linear = graph.apply("Equal", function, graph.constant([0], np.int64))
    has_window = graph.apply("Not", graph.apply("Equal", width, none))
    narrow = graph.apply("And", graph.apply("And", is_linear, has_window), graph.apply("Less", width, one))
    wrong = graph.apply("Or", narrow, graph.apply("Not", graph.apply("GreaterOrEqual", width, none)))
    is_wide = graph.refuse(wrong, "window_width is below 0, or below 1 with LINEAR")
    refusals = (is_wide, graph.refuse(_outside(graph, function, 0, 2), "voi_lut_function is not 0, 1 or 2"))
    # A formula without a window must not divide by 0; the zero of the refusal has it come before what follows.
    width = graph.apply("Add", graph.apply("Where", has_window, width, one), graph.cast(is_wide, np.float64))
    shown = _chosen(graph, function, [formula(graph, modality, centre, width) for formula in _FORMULAS])
    return graph.apply("Where", has_window, shown, full), refusals


def _full_range(graph: GraphBuilder, modality: Value) -> Value:
    """From the least to the greatest value that the modality transform can give."""
    low, high = (graph.apply(kind, modality, keepdims=0) for kind in ("ReduceMin", "ReduceMax"))
    return graph.apply("Div", graph.apply("Sub", modality, low), graph.apply("Sub", high, low))


def _linear(graph: GraphBuilder, x: Value, centre: Value, width: Value) -> Value:
    """C.11.2.1.2.1; a step where the width is 1."""
    half, one = (graph.constant([number], np.float64) for number in (0.5, 1))
    edge = graph.apply("Sub", centre, half)
    is_step = graph.apply("Equal", width, one)
    divisor = graph.apply("Where", is_step, one, graph.apply("Sub", width, one))
    ramp = graph.apply("Add", graph.apply("Div", graph.apply("Sub", x, edge), divisor), half)
    step = graph.cast(graph.apply("Greater", x, edge), np.float64)
    return graph.apply("Where", is_step, step, _unit(graph, ramp))


def _linear_exact(graph: GraphBuilder, x: Value, centre: Value, width: Value) -> Value:
    """C.11.2.1.3.2."""
    return _unit(
        graph,
        graph.apply("Add", graph.apply("Div", graph.apply("Sub", x, centre), width), graph.constant([0.5], np.float64)),
    )


def _sigmoid(graph: GraphBuilder, x: Value, centre: Value, width: Value) -> Value:
    """C.11.2.1.3.1; the exponent is kept where ``exp`` does not overflow."""
    scaled = graph.apply(
        "Div", graph.apply("Mul", graph.constant([-4], np.float64), graph.apply("Sub", x, centre)), width
    )
    exponent = graph.apply("Clip", scaled, graph.constant(-700, np.float64), graph.constant(700, np.float64))
    one = graph.constant([1], np.float64)
    return graph.apply("Div", one, graph.apply("Add", one, graph.apply("Exp", exponent)))


_FORMULAS = (_linear, _linear_exact, _sigmoid)


def _chosen(graph: GraphBuilder, index: Value, values: list[Value]) -> Value:
    chosen = values[0]
    for number, value in enumerate(values[1:], 1):
        chosen = graph.apply("Where", graph.apply("Equal", index, graph.constant([number], np.int64)), value, chosen)
    return chosen


def _is_padding(graph: GraphBuilder, codes: Value) -> Value:
    first, last = (graph.input(name, np.int64, (1,)) for name in ("padding_first", "padding_last"))
    from_first = graph.apply("GreaterOrEqual", codes, first)
    return graph.apply("And", from_first, graph.apply("LessOrEqual", codes, last))


def _outside(graph: GraphBuilder, value: Value, low: int, high: int) -> Value:
    below = graph.apply("Less", value, graph.constant([low], np.int64))
    return graph.apply("Or", below, graph.apply("Greater", value, graph.constant([high], np.int64)))


def _unit(graph: GraphBuilder, values: Value) -> Value:
    return graph.apply("Clip", values, graph.constant(0, np.float64), graph.constant(1, np.float64))
