"""The `ImageSpec` as an ONNX graph: pixels of any size in, the network's input out.

    pixels [height, width, channels]  ──▶  image [1, C, height_px, width_px] float32

Batch 1: images of a batch would have to be of one size. What ``runtime.preprocess`` refuses fails here too, with the
reason as the name of the node that failed.
"""

from __future__ import annotations

import math

import msgspec
import numpy as np

from medfm_compress.export.self_contained.builder import GraphBuilder, Value, as_array
from medfm_compress.export.self_contained.options import PixelKind, ResizeForm
from medfm_compress.export.self_contained.pixel_values import intensities
from medfm_compress.export.self_contained.resampling import RESIZE_OPSET, fit
from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.image_spec import ImageSpec
from medfm_compress.runtime.preprocess import LUMA, MAX_RESIZED_PIXELS

IMAGE = "image"
LEAST_OPSET = 13
IR_VERSION = 9


class GraphForm(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a preprocessing graph is written.

    Attributes:
        pixels: what the host gives.
        resize: which operators resize.
    """

    pixels: PixelKind = "uint8"
    resize: ResizeForm = "resize"


PLAIN = GraphForm()


def preprocessing_model(spec: ImageSpec, form: GraphForm = PLAIN, opset: int = RESIZE_OPSET) -> bytes:
    """The serialized graph: the inputs of ``form.pixels``, one output ``image`` of ``spec.shape``.

    Raises:
        InputError: the opset lacks an operator that the form needs.
    """
    from onnx import checker, helper

    graph = GraphBuilder()
    graph.output(add_preprocessing(graph, spec, form, opset), IMAGE, np.float32, spec.shape)
    model = helper.make_model(
        graph.graph("preprocess"),
        opset_imports=[helper.make_opsetid("", opset)],
        ir_version=IR_VERSION,
        producer_name="medfm-compress",
    )
    checker.check_model(model)
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def add_preprocessing(graph: GraphBuilder, spec: ImageSpec, form: GraphForm, opset: int) -> Value:
    """Add the inputs and the preprocessing to ``graph``; the network's input, float32 ``spec.shape``.

    Raises:
        InputError: the opset lacks an operator that the form needs.
    """
    least = RESIZE_OPSET if form.resize == "resize" and spec.filter != "nearest" else LEAST_OPSET
    if opset < least:
        raise InputError(
            f"the graph is of opset {opset}, and the resize form {form.resize!r} needs {least}; "
            + ("choose the form 'matmul'" if opset >= LEAST_OPSET else "export the network anew")
        )
    image = intensities(graph, form.pixels, spec)
    height, width, channels = (graph.shape(image.planes, axis, axis + 1) for axis in range(3))
    size = _resized_size(graph, height, width, spec)
    refusals = (*image.refusals, *_refusals(graph, (height, width, channels), size, spec))
    for refusal in refusals:  # zeros: the size depends on all of them, and so does all that follows
        size = graph.apply("Add", size, refusal)
    planes = graph.apply("Transpose", image.planes, perm=[2, 0, 1])
    if spec.colour == "grey":
        planes = _luma(graph, planes, channels)
    return _normalised(graph, fit(graph, planes, size, spec, form.resize), spec)


def _refusals(
    graph: GraphBuilder, sides: tuple[Value, Value, Value], size: Value, spec: ImageSpec
) -> tuple[Value, ...]:
    """Of what `runtime.preprocess` and `runtime.read_image` refuse in an array; ``sides`` are int64 ``[1]`` each."""
    height, width, channels = sides
    shorter = graph.apply("Min", height, width)
    small = graph.apply("Less", shorter, graph.constant([spec.min_side_px], np.int64))
    area = graph.apply("ReduceProd", size, keepdims=0)
    elongated = graph.apply("Greater", area, graph.constant(MAX_RESIZED_PIXELS, np.int64))
    one, three = (graph.apply("Equal", channels, graph.constant([count], np.int64)) for count in (1, 3))
    return (
        graph.refuse(small, f"the image's shorter side is below {spec.min_side_px} px"),
        graph.refuse(elongated, "the image is too elongated for this network"),
        graph.refuse(graph.apply("Not", graph.apply("Or", one, three)), "the image has not 1 or 3 channels"),
    )


def _resized_size(graph: GraphBuilder, height: Value, width: Value, spec: ImageSpec) -> Value:
    """int64 ``[2]``: as ``runtime.preprocess``, in its float64 wherever it rounds."""
    target = (math.floor(spec.height_px / spec.crop_fraction), math.floor(spec.width_px / spec.crop_fraction))
    if spec.resize == "stretch":
        return graph.constant(target, np.int64)
    sides = graph.apply("Concat", height, width, axis=0)
    if spec.resize == "shortest" and target[0] == target[1]:
        side = graph.constant([target[0]], np.int64)
        # int(target longer / shorter): 1 for the shorter side itself, whole numbers are exact
        return graph.apply("Div", graph.apply("Mul", sides, side), graph.apply("Min", height, width))
    exact = graph.cast(sides, np.float64)
    ratios = graph.apply("Div", exact, graph.constant(target, np.float64))
    ratio = graph.apply("ReduceMin" if spec.resize == "shortest" else "ReduceMax", ratios, keepdims=0)
    rounded = graph.cast(graph.apply("Round", graph.apply("Div", exact, ratio)), np.int64)
    return graph.apply("Max", rounded, graph.constant([1], np.int64))


def _luma(graph: GraphBuilder, planes: Value, channels: Value) -> Value:
    """One plane ``[1, H, W]`` of one or three: 0.299 R + 0.587 G + 0.114 B, or the one there is."""
    start = graph.apply("Div", channels, graph.constant([2], np.int64))  # 0 of one channel, 1 of three
    weights = graph.constant(np.concatenate([as_array([1.0]), as_array(LUMA)]), np.float32)
    chosen = graph.apply("Slice", weights, start, graph.apply("Add", start, channels), graph.constant([0], np.int64))
    axis = graph.constant([0], np.int64)
    return graph.apply("ReduceSum", graph.apply("Mul", planes, chosen), axis, keepdims=1)


def _normalised(graph: GraphBuilder, planes: Value, spec: ImageSpec) -> Value:
    """Clip, normalise and repeat: ``[1, C, height_px, width_px]``."""
    clipped = graph.apply("Clip", planes, graph.constant(0, np.float32), graph.constant(1, np.float32))
    centred = graph.apply("Sub", clipped, graph.constant(as_array(spec.mean), np.float32))  # one grey plane becomes C
    scaled = graph.apply("Div", centred, graph.constant(as_array(spec.std), np.float32))
    return graph.apply("Reshape", scaled, graph.constant(spec.shape, np.int64))
