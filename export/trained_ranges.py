"""Ranges that a network was trained with: from the names of its layers to the names of the graph's values, and back.

Exporter and passes rename, split and scale layers, so a layer of the graph is recognised by its weights: each row (an
output channel) must be a row of the module's layer times some factor. A factor a row changes no INT8 weight, only its
scale; a factor an input channel does, and such a layer is not recognised. What enters a recognised layer has the range
that was trained. It holds as well before operators that only move numbers, where a placement may put the pair.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from medfm_compress.export.passes.graph import maker
from medfm_compress.export.passes.layers import layer_of
from medfm_compress.export.passes.read import parse_onnx

if TYPE_CHECKING:
    import onnx_ir as ir
    from torch import nn

KEY = "medfm_trained_ranges"
Ranges = Mapping[str, tuple[float, float]]

_MOVES_NUMBERS = ("MaxPool", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Identity")
_TOLERANCE = 1e-4  # of a row whose largest entry is 1
Rows = NDArray[np.float32]


class Attached(NamedTuple):
    """An ONNX file that carries ranges.

    Attributes:
        content: the serialized model.
        layers: how many weighted layers the graph has.
        missing: names of those nodes whose input has no trained range.
    """

    content: bytes
    layers: int
    missing: tuple[str, ...]

    @property
    def line(self) -> str:
        """For the provenance."""
        rest = f"; without one: {', '.join(self.missing)}" if self.missing else ""
        return f"trained INT8 ranges for the inputs of {self.layers - len(self.missing)} of {self.layers} layers{rest}"


def attach_ranges(onnx: bytes, module: nn.Module, ranges: Ranges) -> Attached:
    """Write into the file's metadata which of its values have which trained range.

    Args:
        onnx: what `export_onnx` made of ``module``.
        module: with the weights that were exported.
        ranges: name of a layer in the module → range of its input.
    """
    import onnx_ir as ir

    proto = parse_onnx(onnx)
    graph = ir.from_proto(proto).graph
    known = {name: _normalised(_module_rows(module, name)) for name in ranges}
    united: dict[str, tuple[float, float]] = {}
    missing, count = [], 0
    for node, rows in _weighted(graph):
        count += 1
        name = _recognise(rows, known)
        if name is None:
            missing.append(node.name or "")
            continue
        for value in _origins(node.inputs[0]):
            low, high = united.get(value, ranges[name])
            united[value] = (min(low, ranges[name][0]), max(high, ranges[name][1]))
    entry = proto.metadata_props.add()
    entry.key, entry.value = KEY, json.dumps(united, sort_keys=True)
    return Attached(proto.SerializeToString(deterministic=True), count, tuple(missing))


def take_ranges(model: ir.Model) -> dict[str, tuple[float, float]]:
    """Remove the ranges from a graph's metadata; value name → range, empty where it has none."""
    text = model.metadata_props.pop(KEY, "")
    return {name: (float(low), float(high)) for name, (low, high) in json.loads(text or "{}").items()}


def _weighted(graph: ir.Graph) -> Iterator[tuple[ir.Node, Rows]]:
    for node in graph:
        layer = layer_of(node)
        if layer is not None:
            rows = np.moveaxis(layer.weight, layer.out_axis, 0)
            yield node, _normalised(rows.reshape(len(rows), -1))


def _module_rows(module: nn.Module, name: str) -> Rows:
    weight: Any = module.get_submodule(name).weight
    rows: Rows = weight.detach().float().cpu().numpy()
    return rows.reshape(len(rows), -1)


def _normalised(rows: Rows) -> Rows:
    """Each row divided by its largest entry, so that a factor of the row is no difference."""
    largest = np.take_along_axis(rows, np.abs(rows).argmax(axis=1)[:, None], axis=1)
    return np.divide(rows, largest, out=np.zeros_like(rows), where=largest != 0)


def _recognise(rows: Rows, known: Mapping[str, Rows]) -> str | None:
    """The layer that has exactly these rows, else one that has them among others; None where there is none."""
    wide = {name: theirs for name, theirs in known.items() if theirs.shape[1] == rows.shape[1] > 1}
    for name, theirs in wide.items():
        if theirs.shape == rows.shape and np.allclose(theirs, rows, atol=_TOLERANCE):
            return name
    return next((name for name, theirs in wide.items() if _among(rows, theirs)), None)


def _among(rows: Rows, theirs: Rows) -> bool:
    """Whether every row is one of theirs; a projection tells which one it can be."""
    if len(theirs) < len(rows):
        return False
    direction = np.random.default_rng(0).standard_normal(rows.shape[1])
    mine, others = rows @ direction, theirs @ direction
    order = np.argsort(others)
    after = np.searchsorted(others[order], mine).clip(1, len(order) - 1) if len(order) > 1 else np.zeros(len(rows), int)
    nearer = np.abs(others[order][after - 1] - mine) < np.abs(others[order][after] - mine)
    nearest = order[np.where(nearer, after - 1, after)]
    return bool(np.allclose(theirs[nearest], rows, atol=_TOLERANCE))


def _origins(value: ir.Value | None) -> Iterator[str]:
    """A value and those before it that hold the same numbers, or from which MaxPool picks them."""
    while value is not None and value.name:
        yield value.name
        node = maker(value, *_MOVES_NUMBERS)
        value = None if node is None else node.inputs[0]
