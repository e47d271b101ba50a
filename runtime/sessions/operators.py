"""Which operators a model file holds, read from its headers alone: weights are stepped over, not searched.

An ONNX file is protobuf (https://protobuf.dev/programming-guides/encoding), with the field numbers of ``onnx.proto3``.
An ORT-format file is flatbuffers (https://flatbuffers.dev/internals), with the slots of ONNX Runtime's ``ort.fbs``.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

_MODEL_GRAPH, _MODEL_FUNCTION = 7, 25
_GRAPH_NODE, _GRAPH_INITIALIZER, _FUNCTION_NODE = 1, 5, 7
_NODE_OPERATOR, _NODE_ATTRIBUTE, _NODE_DOMAIN = 4, 5, 7
_ATTRIBUTE_TENSOR, _ATTRIBUTE_GRAPH = (5, 10), (6, 11)
_TENSOR_EXTERNAL_DATA = 13
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_DEEPEST = 32  # graphs inside graphs, in a hostile file

_ORT_MAGIC = b"ORTM"
_SESSION_MODEL, _MODEL_ORT_GRAPH, _ORT_GRAPH_NODES, _ORT_NODE_DOMAIN, _ORT_NODE_OPERATOR = 1, 7, 2, 2, 5


class Operators(NamedTuple):
    """What `read_operators` found.

    Attributes:
        kinds: operator types, e.g. ``Conv``; an ORT-format file's nested graphs are not looked into.
        domains: their domains, e.g. ``com.microsoft.nchwc``; ``""`` is ONNX's own.
        external: some weights are in another file (never so in the ORT format, which ONNX Runtime itself refuses then).
    """

    kinds: frozenset[str]
    domains: frozenset[str]
    external: bool


def is_ort_format(model: bytes) -> bool:
    """Whether ``model`` is in ONNX Runtime's own format rather than in ONNX."""
    return model[4:8] == _ORT_MAGIC


def read_operators(model: bytes) -> Operators:
    """Operators of an ONNX or ORT-format file.

    Raises:
        ValueError: it is neither, or damaged.
    """
    try:
        walk = _OrtWalk(model) if is_ort_format(model) else _OnnxWalk(model)
    except (ValueError, IndexError, struct.error) as exc:
        raise ValueError(f"not a whole ONNX or ORT-format model: {exc}") from None
    return Operators(frozenset(walk.kinds), frozenset(walk.domains), walk.external)


class _OnnxWalk:
    def __init__(self, model: bytes) -> None:
        self.kinds: set[str] = set()
        self.domains: set[str] = set()
        self.external = False
        self._data = model
        for number, start, end in self._fields(0, len(model)):
            if number == _MODEL_GRAPH:
                self._graph(start, end, 0)
            elif number == _MODEL_FUNCTION:
                for inner, first, last in self._fields(start, end):
                    if inner == _FUNCTION_NODE:
                        self._node(first, last, 0)

    def _graph(self, start: int, end: int, depth: int) -> None:
        if depth > _DEEPEST:
            raise ValueError(f"graphs are nested more than {_DEEPEST} deep")
        for number, first, last in self._fields(start, end):
            if number == _GRAPH_NODE:
                self._node(first, last, depth)
            elif number == _GRAPH_INITIALIZER:
                self._tensor(first, last)

    def _node(self, start: int, end: int, depth: int) -> None:
        domain = b""
        for number, first, last in self._fields(start, end):
            if number == _NODE_OPERATOR:
                self.kinds.add(_text(self._data[first:last]))
            elif number == _NODE_DOMAIN:
                domain = self._data[first:last]
            elif number == _NODE_ATTRIBUTE:
                self._attribute(first, last, depth)
        self.domains.add(_text(domain))

    def _attribute(self, start: int, end: int, depth: int) -> None:
        for number, first, last in self._fields(start, end):
            if number in _ATTRIBUTE_TENSOR:
                self._tensor(first, last)
            elif number in _ATTRIBUTE_GRAPH:
                self._graph(first, last, depth + 1)

    def _tensor(self, start: int, end: int) -> None:
        self.external |= any(number == _TENSOR_EXTERNAL_DATA for number, _, _ in self._fields(start, end))

    def _fields(self, start: int, end: int) -> Iterator[tuple[int, int, int]]:
        """Number, first byte and end of each field's content; a number's own value is not needed here."""
        while start < end:
            tag, start = self._varint(start)
            number, wire = tag >> 3, tag & 7
            if wire == _LENGTH:
                size, start = self._varint(start)
            elif wire == _VARINT:
                size = self._varint(start)[1] - start
            elif wire in (_FIXED64, _FIXED32):
                size = 8 if wire == _FIXED64 else 4
            else:
                raise ValueError(f"wire type {wire} is not one of ONNX's")
            if start + size > end:
                raise ValueError("a field is cut short")
            yield number, start, start + size
            start += size

    def _varint(self, at: int) -> tuple[int, int]:
        value = shift = 0
        while True:
            byte = self._data[at]
            value |= (byte & 0x7F) << shift
            at, shift = at + 1, shift + 7
            if byte < 0x80:
                return value, at
            if shift > 63:
                raise ValueError("a number has more than 64 bits")


class _OrtWalk:
    external = False

    def __init__(self, model: bytes) -> None:
        self.kinds: set[str] = set()
        self.domains: set[str] = set()
        self._data = model
        nodes = self._child(
            self._child(self._child(self._follow(0), _SESSION_MODEL), _MODEL_ORT_GRAPH), _ORT_GRAPH_NODES
        )
        for index in range(self._number("<I", nodes)):
            node = self._follow(nodes + 4 + 4 * index)
            self.kinds.add(self._string(node, _ORT_NODE_OPERATOR))
            self.domains.add(self._string(node, _ORT_NODE_DOMAIN))

    def _child(self, table: int, slot: int) -> int:
        at = self._slot(table, slot)
        if not at:
            raise ValueError(f"slot {slot} is missing")
        return self._follow(at)

    def _slot(self, table: int, slot: int) -> int:
        """Where the field in ``slot`` of the table is; 0 where it has none."""
        entries = table - self._number("<i", table)
        if entries < 0 or 4 + 2 * slot >= self._number("<H", entries):
            return 0
        offset = self._number("<H", entries + 4 + 2 * slot)
        return table + offset if offset else 0

    def _string(self, table: int, slot: int) -> str:
        at = self._slot(table, slot)
        if not at:
            return ""
        start = self._follow(at)
        return _text(self._data[start + 4 : start + 4 + self._number("<I", start)])

    def _follow(self, at: int) -> int:
        return at + self._number("<I", at)

    def _number(self, form: str, at: int) -> int:
        return int(struct.unpack_from(form, self._data, at)[0])


def _text(name: bytes) -> str:
    return name[:200].decode("utf-8", errors="replace")
