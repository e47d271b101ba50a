"""What a model file holds, read from its headers alone: operators, and whether all weights are inside.

Weights are stepped over, not searched. This is the one look at a model before an engine sees it: an engine opens what
a tensor names as its external data, wherever on the device that is, and no hash covers what it finds there.

An ONNX file is protobuf (https://protobuf.dev/programming-guides/encoding), with the field numbers of ``onnx.proto3``.
An ORT-format file is flatbuffers (https://flatbuffers.dev/internals), with the slots of ONNX Runtime's ``ort.fbs``.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import NamedTuple

from medfm_compress.runtime.errors import BundleRefused, MedfmError

# Every path of onnx.proto3 from a model to a tensor: message -> number of a field -> message in it.
_INNER: Mapping[str, Mapping[int, str]] = MappingProxyType(
    {
        "model": {7: "graph", 20: "training", 25: "function"},
        "training": {1: "graph", 2: "graph"},
        "function": {7: "node", 11: "attribute"},
        "graph": {1: "node", 5: "tensor", 15: "sparse tensor"},
        "node": {5: "attribute"},
        "attribute": {5: "tensor", 10: "tensor", 6: "graph", 11: "graph", 22: "sparse tensor", 23: "sparse tensor"},
        "sparse tensor": {1: "tensor", 2: "tensor"},
        "tensor": {},
    }
)
_NODE_OPERATOR, _NODE_DOMAIN = 4, 7
_TENSOR_EXTERNAL_DATA, _TENSOR_DATA_LOCATION = 13, 14
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_LONGEST_TAG, _LONGEST_NUMBER = 5, 10  # bytes
_DEEPEST = 100  # messages inside messages; protobuf's own limit
_MOST_FIELDS = 4_000_000  # some seconds of this walk; a ViT-L has 50,000

_COMPILED = "EPContext"  # ONNX Runtime's, in whatever domain: its ep_cache_context may be a path

_ORT_MAGIC = b"ORTM"
_SESSION_MODEL, _MODEL_ORT_GRAPH, _ORT_GRAPH_NODES, _ORT_NODE_DOMAIN, _ORT_NODE_OPERATOR = 1, 7, 2, 2, 5


class Operators(NamedTuple):
    """What `read_operators` found.

    Attributes:
        kinds: operator types, e.g. ``Conv``; an ORT-format file's nested graphs are not looked into.
        domains: their domains, e.g. ``com.microsoft.nchwc``; ``""`` is ONNX's own.
        external: some tensor says that its values are elsewhere, or names where: initializers and attributes, dense and
            sparse, of the graph, nested graphs, functions and training. Never so in the ORT format: its tensors name no
            file, and one without its values inside is refused by ONNX Runtime itself.
    """

    kinds: frozenset[str]
    domains: frozenset[str]
    external: bool


def is_ort_format(model: bytes) -> bool:
    """Whether ``model`` is in ONNX Runtime's own format rather than in ONNX."""
    return model[4:8] == _ORT_MAGIC


def read_self_contained(
    model: bytes, what: str = "the model cannot be loaded", error: type[MedfmError] = BundleRefused
) -> Operators:
    """`read_operators` of a model from outside, before anything else reads it.

    Args:
        model: content of an ONNX or ORT-format file.
        what: how an error begins.
        error: to raise.

    Raises:
        MedfmError: an ``error``: it is no whole model, a tensor's values are not in it, or it is compiled.
    """
    try:
        operators = read_operators(model)
    except ValueError as exc:
        raise error(f"{what}: {exc}") from None
    if operators.external:
        raise error(
            f"{what}: the model keeps weights in another file, which no hash covers and which may be any file of this "
            "machine; export it with its weights inside (onnx.load, then onnx.save with save_as_external_data=False)"
        )
    if _COMPILED in operators.kinds:
        raise error(
            f"{what}: its {_COMPILED} operator holds code that was compiled for one engine, or names a file with it, "
            "which no hash covers; give the model from which it was compiled"
        )
    return operators


def read_operators(model: bytes) -> Operators:
    """Operators of an ONNX or ORT-format file.

    Raises:
        ValueError: it is neither, damaged, or larger than any network (4 million fields, 100 levels).
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
        self._left = _MOST_FIELDS
        waiting = [("model", 0, len(model), 0)]
        while waiting:
            message, start, end, depth = waiting.pop()
            if depth > _DEEPEST:
                raise ValueError(f"messages are nested more than {_DEEPEST} deep")
            waiting += [(kind, first, last, depth + 1) for kind, first, last in self._message(message, start, end)]

    def _message(self, message: str, start: int, end: int) -> Iterator[tuple[str, int, int]]:
        """Note what one message holds itself; give the kind, first byte and end of each message in it."""
        inner, domain = _INNER[message], b""
        for number, wire, first, last in self._fields(start, end):
            if number in inner:
                if wire != _LENGTH:
                    raise ValueError(f"field {number} of a {message} is no message")
                yield inner[number], first, last
            elif message == "node" and number == _NODE_OPERATOR:
                self.kinds.add(_text(self._data[first:last]))
            elif message == "node" and number == _NODE_DOMAIN:
                domain = self._data[first:last]
            elif message == "tensor":
                self.external |= number == _TENSOR_EXTERNAL_DATA or (
                    number == _TENSOR_DATA_LOCATION and any(byte & 0x7F for byte in self._data[first:last])
                )  # location 0 is "here"
        if message == "node":
            self.domains.add(_text(domain))

    def _fields(self, start: int, end: int) -> Iterator[tuple[int, int, int, int]]:
        """Number, wire type, first byte and end of each field's content."""
        while start < end:
            self._left -= 1
            if self._left < 0:
                raise ValueError(f"it has more than {_MOST_FIELDS} fields")
            tag, start = self._varint(start, _LONGEST_TAG)
            number, wire = tag >> 3, tag & 7
            if tag >= 1 << 32 or number == 0:  # engines' readers would cut it to 32 bits, and read another field
                raise ValueError(f"there is no field {number}")
            if wire == _LENGTH:
                size, start = self._varint(start, _LONGEST_NUMBER)
            elif wire == _VARINT:
                size = self._varint(start, _LONGEST_NUMBER)[1] - start
            elif wire in (_FIXED64, _FIXED32):
                size = 8 if wire == _FIXED64 else 4
            else:
                raise ValueError(f"wire type {wire} is not one of ONNX's")
            if start + size > end:
                raise ValueError("a field is cut short")
            yield number, wire, start, start + size
            start += size

    def _varint(self, at: int, longest: int) -> tuple[int, int]:
        """A number of at most ``longest`` bytes, and where the next byte is."""
        value = 0
        for position in range(longest):
            byte = self._data[at + position]
            value |= (byte & 0x7F) << 7 * position
            if byte < 0x80:
                return value, at + position + 1
        raise ValueError(f"a number has more than {longest} bytes")


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
