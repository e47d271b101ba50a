"""Which values of two files are the same value of the source network, and which of its layers makes them.

Files from one export share the names of values, whatever was quantized, fused or converted since: those are matched.
Where too few names are shared, the results of products (convolutions, matrix products) are matched by their place, if
there are equally many. A layer's name is that of its parameters (``layer1.0.conv1.weight``), which exporters keep.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal, NamedTuple

from medfm_compress.export.difference.graph import Topology
from medfm_compress.runtime.errors import InputError

Method = Literal["name", "place"]
_FEWEST = 2  # shared names besides those of input and output
_PRODUCTS = ("Conv", "Convolution", "GroupConvolution", "ConvTranspose", "MatMul", "Gemm")
_PARAMETER = re.compile(r"^(.+)\.(?:weight|bias)(?:\b|_)")
_FARTHEST = 12  # operators back to a layer with parameters


class Point(NamedTuple):
    """A value that both files hold: its name, and its own name in each."""

    name: str
    a: str
    b: str


def align(a: Topology, b: Topology) -> tuple[tuple[Point, ...], Method]:
    """Values of both files, in the order of the first, and how they were found.

    Raises:
        InputError: nothing between input and output can be matched.
    """
    ends = [*zip(a.inputs, b.inputs, strict=False), *zip(a.outputs[:1], b.outputs[:1], strict=False)]
    public = {own: name for name, own in a.names.items()}
    known = [Point(public.get(left, left), left, right) for left, right in ends]
    method: Method = "name"
    points = _new(known, _by_name(a, b))
    if len(points) < _FEWEST:
        placed = _new(known, _by_place(a, b))
        points, method = (placed, "place") if len(placed) > len(points) else (points, method)
    if not points:
        raise InputError(
            "the two files share no names of values and have different numbers of products, so that no layer of one "
            "can be matched with one of the other; use variants that were made from one export"
        )
    order = {value: index for index, value in enumerate((*a.inputs, *a.maker))}
    return tuple(sorted([*known, *points], key=lambda point: order[point.a])), method


def _new(known: Sequence[Point], points: Sequence[Point]) -> list[Point]:
    """Those of ``points`` whose values are not in ``known``, neither A's nor B's."""
    taken = {point.a for point in known}, {point.b for point in known}
    return [point for point in points if point.a not in taken[0] and point.b not in taken[1]]


def layer_of(value: str, topology: Topology) -> str:
    """The source network's layer that makes ``value``, or ``behind`` the last one with parameters; may be empty."""
    public = {own: name for name, own in topology.names.items()}
    current = value
    for distance in range(_FARTHEST):
        maker = topology.maker.get(current)
        if maker is None:
            return ""
        node = topology.nodes[maker]
        for name in node.inputs:
            found = _PARAMETER.match(public.get(name, "")) if name not in topology.reached else None
            if found:
                return found[1] if distance == 0 else f"behind {found[1]}"
        current = next((name for name in node.inputs if name in topology.reached), "")
    return ""


def _by_name(a: Topology, b: Topology) -> list[Point]:
    points: dict[tuple[str, str], Point] = {}
    taken_a, taken_b = set[str](), set[str]()
    for name, left in a.names.items():
        right = b.names.get(name)
        if right is None or not (_is_activation(left, a) and _is_activation(right, b)):
            continue
        if left not in taken_a and right not in taken_b:
            points[left, right] = Point(name, left, right)
            taken_a.add(left)
            taken_b.add(right)
    return list(points.values())


def _by_place(a: Topology, b: Topology) -> list[Point]:
    left, right = _products(a), _products(b)
    if len(left) != len(right):
        return []
    return [Point(one, one, other) for one, other in zip(left, right, strict=True)]


def _products(topology: Topology) -> list[str]:
    """Results of the products with constants, their bias added, in the order of the graph."""
    results = []
    for node in topology.nodes:
        constants = [name for name in node.inputs if name and name not in topology.reached]
        if node.operator not in _PRODUCTS or not constants or node.outputs[0] not in topology.reached:
            continue
        result, readers = node.outputs[0], topology.readers.get(node.outputs[0], [])
        following = topology.nodes[readers[0]] if len(readers) == 1 else None
        if following is not None and following.operator == "Add":
            constant = any(name not in topology.reached for name in following.inputs)
            result = following.outputs[0] if constant else result
        results.append(result)
    return results


def _is_activation(value: str, topology: Topology) -> bool:
    return value in topology.reached and value in topology.reals and value not in topology.inside
