"""Small words for changing a graph in place: constants, new nodes, and names that survive.

Calibration and Q/DQ go by value name, so a value that replaces another one takes over its name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import onnx_ir as ir

SAME_AS = "same_as"  # metadata of a value: the name of one that holds the same numbers under another shape

Inputs = Sequence["ir.Value | None"]
Attributes = Mapping[str, int | float | str | Sequence[int]]


def constant(value: ir.Value | None) -> NDArray[Any] | None:
    """The numbers of a value known beforehand, or None."""
    return None if value is None or value.const_value is None else value.const_value.numpy()


def static_shape(value: ir.Value | None) -> tuple[int, ...] | None:
    """The shape of a value whose every dimension is known, or None."""
    if value is None or value.shape is None or not value.shape.is_static():
        return None
    return tuple(value.shape.numpy())


def only_user(value: ir.Value) -> ir.Node | None:
    """The node that is alone in reading ``value``; None where several do, or the graph returns it."""
    users = value.consumers()
    return users[0] if len(value.uses()) == 1 and not value.is_graph_output() else None


def reads_alone(node: ir.Node, value: ir.Value) -> bool:
    """Nothing but ``node`` reads ``value``."""
    return only_user(value) is node


def maker(value: ir.Value | None, *op_types: str) -> ir.Node | None:
    """The node that makes ``value`` if it is one of ``op_types`` of the default domain."""
    node = None if value is None else value.producer()
    return node if node is not None and node.domain == "" and node.op_type in op_types else None


def attribute(node: ir.Node, name: str, default: Any) -> Any:
    """The value of an attribute, or ``default`` where the node does not say."""
    value = node.attributes.get(name)
    return default if value is None else value.value


def set_integer(node: ir.Node, name: str, value: int) -> None:
    """Set an integer attribute."""
    import onnx_ir as ir

    node.attributes[name] = ir.AttrInt64(name, value)


def graph_of(node: ir.Node) -> ir.Graph:
    """The graph a node stands in."""
    import onnx_ir as ir

    if not isinstance(node.graph, ir.Graph):
        raise TypeError(f"node {node.name} stands in no graph")
    return node.graph


def add_constant(graph: ir.Graph, name: str, array: NDArray[Any]) -> ir.Value:
    """A new initializer; ``name`` is lengthened where it is taken."""
    import onnx_ir as ir

    name = free_name(name, graph.initializers)
    value = ir.Value(
        name=name,
        shape=ir.Shape(array.shape),
        type=ir.TensorType(ir.DataType.from_numpy(array.dtype)),
        const_value=ir.tensor(np.ascontiguousarray(array) if array.ndim else array, name=name),
    )
    graph.register_initializer(value)
    return value


def add_shape(graph: ir.Graph, sizes: Iterable[int]) -> ir.Value:
    """An int64 initializer of sizes, axes or the like, shared by all that need the same."""
    sizes = tuple(sizes)
    name = "sizes_" + "_".join(map(str, sizes))
    return graph.initializers.get(name) or add_constant(graph, name, np.array(sizes, dtype=np.int64))


def free_name(name: str, taken: Iterable[str]) -> str:
    """``name``, numbered where it is taken."""
    taken, number, free = set(taken), 1, name
    while free in taken:
        number += 1
        free = f"{name}_{number}"
    return free


def insert(before: ir.Node, op_type: str, inputs: Inputs, name: str, attributes: Attributes | None = None) -> ir.Value:
    """A new node of the default domain with one output ``name``, just before ``before``; returns the output."""
    import onnx_ir as ir

    node = ir.node(op_type, inputs, attributes, name=f"node_{name}")
    node.outputs[0].name = name
    graph_of(before).insert_before(before, node)
    return node.outputs[0]


def shaped(value: ir.Value, shape: Sequence[int], like: ir.Value) -> ir.Value:
    """Write down the shape of a new value, and its type, which is that of ``like``."""
    import onnx_ir as ir

    value.shape, value.type = ir.Shape(shape), like.type
    return value


def take_over(old: ir.Value, new: ir.Value) -> None:
    """``new`` is read wherever ``old`` was, under its name; the maker of ``old`` goes if nothing reads it."""
    name, shape, kind = old.name, old.shape, old.type
    node = old.producer()
    old.replace_all_uses_with(new, replace_graph_outputs=True)
    old.name = f"{name}_replaced"
    new.name, new.shape, new.type = name, shape, kind
    if node is not None and not any(output.uses() for output in node.outputs):
        graph_of(node).remove(node, safe=True)


def remove_unused(model: ir.Model) -> None:
    """Drop nodes and initializers that nothing reads."""
    from onnx_ir.passes.common import RemoveUnusedNodesPass

    RemoveUnusedNodesPass()(model)
