"""A further output: class activation maps, for networks whose classifier is linear in the mean of a last feature map.

    z_k = b_k + Σ_c W_kc · (1/n) Σ_p A_cp          A the last feature map, p its n places
    M_kp = Σ_c W_kc · A_cp                         so that  z_k = b_k + mean over p of M_kp

Zhou et al., Learning Deep Features for Discriminative Localization (2016). No gradient is needed, and nothing is
approximated: a map's mean is the logit without its bias. Where a layer norm stands between mean and classifier
(ConvNeXt, a ViT that pools its patches), its own mean m and deviation s of this image make it linear as well:

    M_kp = Σ_c W_kc γ_c (A_cp − m) / s
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from medfm_compress.export.passes.graph import add_constant, attribute, constant, free_name, static_shape
from medfm_compress.export.passes.linear_head import Head, Matrix, head_before, is_row
from medfm_compress.runtime.class_activation import CAM, MAP_OUTPUTS

if TYPE_CHECKING:
    import onnx_ir as ir

_POOLS = ("GlobalAveragePool", "ReduceMean", "AveragePool")


class LastFeatureMap(NamedTuple):
    """Where the maps of a graph come from.

    Attributes:
        name: of the value A; ``[1, C, h, w]``, ``[1, h, w, C]``, ``[1, n, C]`` or ``[n, C]``.
        is_channels_last: whether C is its last axis.
        grid: h and w.
        weights: W, with γ where there is a layer norm, float32 ``[K, C]``.
        normed: name of the row that the layer norm reads; empty without one.
        epsilon: of the layer norm.
    """

    name: str
    is_channels_last: bool
    grid: tuple[int, int]
    weights: Matrix
    normed: str = ""
    epsilon: float = 0.0


def cam_output(model: ir.Model) -> str:
    """Add the output ``cam`` ``[1, K, h, w]`` in place; else why there is none, as a phrase, and nothing is changed."""
    feature_map = find_feature_map(model)
    if isinstance(feature_map, str):
        return feature_map
    add_maps(model, feature_map)
    return ""


def remove_maps(model: ir.Model) -> bool:
    """Take the output of maps and what only it needs away; whether there was one."""
    from onnx_ir.passes.common import RemoveUnusedNodesPass

    outputs = model.graph.outputs
    found = [value for value in outputs if value.name in MAP_OUTPUTS]
    for value in found:
        outputs.remove(value)
    if found:
        RemoveUnusedNodesPass()(model)
    return bool(found)


def find_feature_map(model: ir.Model) -> LastFeatureMap | str:
    """The last feature map and its weights; else why the graph has none, as a phrase."""
    logits = model.graph.outputs[0]
    shape = static_shape(logits)
    if shape is None or len(shape) != 2 or shape[0] != 1:
        return "its output is not one row of logits"
    head: Head | str = Head(logits, np.eye(shape[1], dtype=np.float32))
    while not isinstance(head, str):
        node = head.value.producer()
        if node is not None and node.op_type in _POOLS and node.domain in ("", "ai.onnx"):
            return _pooled(head, node, model)
        head = head_before(head, node)
    return head


def add_maps(model: ir.Model, feature_map: LastFeatureMap) -> None:
    """Add the output ``cam`` to the graph that ``feature_map`` was found in, or to a quantized form of it.

    Of a value that was quantized the numbers behind its Q/DQ are read: a second reader of the float value would keep
    an engine from running the layer before it in integers.
    """
    import onnx_ir as ir

    graph, (classes, channels) = model.graph, feature_map.weights.shape
    places = math.prod(feature_map.grid)
    size = (places, channels) if feature_map.is_channels_last else (channels, places)
    values = map_node(graph, "Reshape", [read_value(graph, feature_map.name), sizes_of(graph, size)], "places")
    if feature_map.is_channels_last:
        values = map_node(graph, "Transpose", [values], "channels_first", {"perm": [1, 0]})
    maps = values
    if not _is_identity(feature_map.weights):
        maps = map_node(
            graph, "MatMul", [add_constant(graph, f"{CAM}_weights", feature_map.weights), values], "products"
        )
    if feature_map.normed:
        maps = _normed(graph, maps, feature_map)
    result = map_node(graph, "Reshape", [maps, sizes_of(graph, (1, classes, *feature_map.grid))], "maps")
    result.name, result.shape = CAM, ir.Shape((1, classes, *feature_map.grid))
    result.type = ir.TensorType(ir.DataType.FLOAT)
    graph.outputs.append(result)


def _pooled(head: Head, node: ir.Node, model: ir.Model) -> LastFeatureMap | str:
    """The map that ``node`` takes the mean of, if of all its places."""
    source, kept = node.inputs[0], static_shape(node.inputs[0])
    if source is None or kept is None or not is_row(node.outputs[0]):
        return "the mean of its last feature map is not over all places"
    channels, axes = head.weights.shape[1], _axes(node, kept)
    if not axes or math.prod(kept) != channels * math.prod(kept[axis] for axis in axes):
        return "the mean of its last feature map is not over all places"
    places = tuple(kept[axis] for axis in axes)
    grid = places if len(places) == 2 else grid_of(places[0], model)
    if grid is None:
        return f"its {places[0]} tokens are no grid of places"
    if math.prod(grid) == 1:
        return "its last feature map is 1 × 1"
    last = max(axes) < len(kept) - 1
    return LastFeatureMap(source.name or "", last, (grid[0], grid[1]), head.weights, head.normed, head.epsilon)


def _axes(node: ir.Node, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Axes that the node takes the mean over, ascending; empty where they are not all places."""
    if node.op_type == "GlobalAveragePool":
        return tuple(range(2, len(shape)))
    if node.op_type == "AveragePool":
        whole = tuple(attribute(node, "kernel_shape", ())) == shape[2:] and not any(attribute(node, "pads", ()))
        return tuple(range(2, len(shape))) if whole else ()
    given = constant(node.inputs[1]) if len(node.inputs) > 1 else attribute(node, "axes", None)
    axes = () if given is None else tuple(sorted(int(axis) % len(shape) for axis in given))
    return axes if axes in ((2, 3), (1, 2), (1,), (0,), (2,)) and len(axes) == (2 if len(shape) == 4 else 1) else ()


def grid_of(places: int, model: ir.Model) -> tuple[int, int] | None:
    """Rows and columns of tokens that have the image's aspect."""
    image = static_shape(model.graph.inputs[0])
    if image is None or len(image) != 4:
        return None
    rows = round(math.sqrt(places * image[2] / image[3]))
    columns = places // max(rows, 1)
    return (rows, columns) if rows * columns == places and rows * image[3] == columns * image[2] else None


def _normed(graph: ir.Graph, maps: ir.Value, feature_map: LastFeatureMap) -> ir.Value:
    """(maps − w̄ m) / s, with m and s of the row that the layer norm reads, ``w̄`` the sums of W over channels."""
    weights = feature_map.weights
    channels = weights.shape[1]
    mean_of = add_constant(graph, f"{CAM}_mean", np.full((channels, 1), 1 / channels, np.float32))
    sums = add_constant(graph, f"{CAM}_sums", weights.sum(axis=1, keepdims=True).astype(np.float32))
    epsilon = add_constant(graph, f"{CAM}_epsilon", np.array([[feature_map.epsilon]], np.float32))
    row = map_node(graph, "Reshape", [read_value(graph, feature_map.normed), sizes_of(graph, (1, channels))], "row")
    mean = map_node(graph, "MatMul", [row, mean_of], "row_mean")
    centred = map_node(graph, "Sub", [row, mean], "row_centred")
    square = map_node(graph, "Mul", [centred, centred], "row_square")
    variance = map_node(graph, "MatMul", [square, mean_of], "row_variance")
    deviation = map_node(graph, "Sqrt", [map_node(graph, "Add", [variance, epsilon], "row_floor")], "row_deviation")
    shift = map_node(graph, "Mul", [sums, mean], "shift")
    return map_node(graph, "Div", [map_node(graph, "Sub", [maps, shift], "shifted"), deviation], "scaled")


def read_value(graph: ir.Graph, name: str) -> ir.Value:
    """The value of that name as float32, behind its Q/DQ where it has one."""
    import onnx_ir as ir

    values = {value.name: value for node in graph for value in node.outputs}
    value = values.get(f"{name}_dequantized") or values[name]
    if value.dtype in (None, ir.DataType.FLOAT):
        return value
    return map_node(graph, "Cast", [value], f"{name}_float", {"to": int(ir.DataType.FLOAT)})


def map_node(
    graph: ir.Graph, kind: str, inputs: list[ir.Value], name: str, attributes: dict[str, int | list[int]] | None = None
) -> ir.Value:
    """A new last node of the graph, of float32."""
    import onnx_ir as ir

    free = free_name(f"{CAM}_{name}", [node.name or "" for node in graph])
    node = ir.node(kind, inputs, attributes, name=free)
    node.outputs[0].name = free
    node.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    graph.append(node)
    return node.outputs[0]


def sizes_of(graph: ir.Graph, sizes: tuple[int, ...]) -> ir.Value:
    """An initializer of a shape."""
    return add_constant(graph, f"{CAM}_shape", np.array(sizes, np.int64))


def _is_identity(weights: Matrix) -> bool:
    return weights.shape[0] == weights.shape[1] and np.array_equal(weights, np.eye(len(weights), dtype=np.float32))
