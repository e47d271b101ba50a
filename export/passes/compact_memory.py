r"""The memory of a scorer in few bytes: what folding made three float32 constants becomes the numbers that are stored.

The exporter computes ahead whatever follows from constants alone, so that a memory of float16 or of int8 with a scale a
row becomes a float32 matrix, once as it is gathered from and once transposed for each product. Here every matrix that a
scorer reads is given back, bit for bit,

    m = float32(h)                    h float16, where every number is one
    m_j = float32(q_j) · s_j          q int8, s_j float32 of row j, where it is their product

and a transposed copy becomes a Transpose. Engines compute these ahead when they open the file. What is neither stays.
Only nodes of the module `SCORER` are looked at: their names are also those that no quantizer may touch.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from medfm_compress.export.passes.graph import add_constant, constant, graph_of, insert, shaped, static_shape
from medfm_compress.export.source_modules import named_module

if TYPE_CHECKING:
    import onnx_ir as ir

SCORER = "scorer"
"""The module of a network that compares an embedding with stored ones."""
_LEAST = 256  # numbers of a matrix, below which nothing is gained
_STEPS = (0, 1, -1, 2, -2)  # of float32 around the greatest number / 127, in which a row's scale lies
_TO_FLOAT = 1  # TensorProto.FLOAT

Matrix = NDArray[np.float32]


class Bytes(NamedTuple):
    """int8 ``[rows, width]`` and float32 scales ``[rows, 1]``."""

    values: NDArray[np.int8]
    scales: Matrix


def scorer_nodes(model: ir.Model) -> tuple[ir.Node, ...]:
    """The nodes of a network's scorer, in their order; none where it has no scorer."""
    return tuple(node for node in model.graph if _is_of_scorer(named_module(node)))


def compact_memory(model: ir.Model) -> int:
    """Store the scorer's matrices in place as they were given; how many."""
    from onnx_ir.passes.common import RemoveUnusedNodesPass

    nodes, done = scorer_nodes(model), 0
    if not nodes:
        return 0
    first = model.graph[0]
    for value, copies in _memories(nodes):
        matrix = constant(value)
        stored = None if matrix is None else _stored(first, value, matrix)
        if stored is None:
            continue
        done += 1
        value.replace_all_uses_with(stored)
        for copy in copies:
            copy.replace_all_uses_with(_transposed(first, stored, copy))
    RemoveUnusedNodesPass()(model)
    return done


def _is_of_scorer(module: str) -> bool:
    return module == SCORER or module.startswith(f"{SCORER}.")


def _memories(nodes: tuple[ir.Node, ...]) -> Iterator[tuple[ir.Value, list[ir.Value]]]:
    """Each matrix that is gathered from, with the constants that are its transposition."""
    matrices: dict[str, ir.Value] = {}
    for node in nodes:
        for value in node.inputs:
            known = constant(value)
            if value is not None and known is not None and known.dtype == np.float32 and known.ndim == 2:
                matrices.setdefault(value.name or "", value)
    gathered = {node.inputs[0].name for node in nodes if node.op_type.startswith("Gather") and node.inputs[0]}
    for name, value in matrices.items():
        matrix = constant(value)
        if name not in gathered or matrix is None or matrix.size < _LEAST:
            continue
        others = [other for key, other in matrices.items() if key not in gathered]
        yield value, [other for other in others if np.array_equal(constant(other), matrix.T)]  # type: ignore[arg-type]


def _stored(first: ir.Node, value: ir.Value, matrix: Matrix) -> ir.Value | None:
    """The matrix as new nodes before ``first`` compute it; None where it is neither of the two kinds."""
    graph, name = graph_of(first), value.name or "memory"
    half = matrix.astype(np.float16)
    if np.array_equal(half.astype(np.float32), matrix):
        constants = [add_constant(graph, f"{name}_float16", half)]
    elif (found := as_bytes(matrix)) is not None:
        constants = [
            add_constant(graph, f"{name}_int8", found.values),
            add_constant(graph, f"{name}_scales", found.scales),
        ]
    else:
        return None
    wide = shaped(insert(first, "Cast", constants[:1], f"{name}_float", {"to": _TO_FLOAT}), matrix.shape, value)
    if len(constants) == 1:
        return wide
    return shaped(insert(first, "Mul", [wide, constants[1]], f"{name}_rows"), matrix.shape, value)


def _transposed(first: ir.Node, stored: ir.Value, copy: ir.Value) -> ir.Value:
    made = insert(first, "Transpose", [stored], f"{copy.name}_transposed", {"perm": [1, 0]})
    return shaped(made, static_shape(copy) or (), copy)


def as_bytes(matrix: Matrix) -> Bytes | None:
    """int8 and scales whose product is ``matrix`` to the last bit; None where there are none."""
    greatest = np.abs(matrix).max(axis=1, keepdims=True)
    start = (greatest / np.float32(127)).astype(np.float32)
    scales, values = np.ones_like(start), np.zeros(matrix.shape, np.int8)
    left = (greatest > 0)[:, 0]
    for step in _STEPS:
        trial = (start.view(np.int32) + np.int32(step)).view(np.float32)
        safe = np.where(trial > 0, trial, np.float32(1))
        rounded = np.clip(np.rint(matrix / safe), -127, 127).astype(np.int8)
        exact = left & (rounded.astype(np.float32) * safe == matrix).all(axis=1)
        scales[exact], values[exact] = safe[exact], rounded[exact]
        left &= ~exact
    return None if left.any() else Bytes(values, scales)
