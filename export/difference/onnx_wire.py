"""The parts of an ONNX file that are needed to cut it up, read and written without the package ``onnx``.

Protobuf's wire format: a message is a sequence of fields, each a tag (number · 8 + wire type) and its content. What is
not looked into is kept as it is and written back unchanged. The file was checked before (`runtime.sessions.operators`).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple

MODEL_GRAPH = 7
GRAPH_NODE, GRAPH_INITIALIZER, GRAPH_INPUT, GRAPH_OUTPUT = 1, 5, 11, 12
TENSOR_NAME = 8
FLOAT32, FLOAT16 = 1, 10
_NODE_INPUT, _NODE_OUTPUT, _NODE_NAME, _NODE_OPERATOR, _NODE_ATTRIBUTE, _NODE_DOMAIN = 1, 2, 3, 4, 5, 7
_VALUE_NAME, _VALUE_TYPE = 1, 2
_ATTRIBUTE_NAME, _FLOAT, _INT, _STRING, _TENSOR, _GRAPH, _FLOATS, _INTS, _GRAPHS = 1, 2, 3, 4, 5, 6, 7, 8, 11
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5


class Field(NamedTuple):
    """One field of a message: its number, its content (the bytes, or the number of a varint) and all of its bytes."""

    number: int
    content: bytes
    value: int
    raw: bytes


class WireNode(NamedTuple):
    """An operator of the graph.

    Attributes:
        operator: e.g. ``Conv``.
        name: empty where it has none.
        inputs: names of values; an empty one is left out.
        outputs: likewise.
        attributes: name → the attribute's bytes.
        nested: whether it holds graphs of its own, whose reads are not looked into.
        rest: the node's other fields, as they are.
    """

    operator: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, bytes]
    nested: bool
    rest: bytes


def fields(message: bytes) -> Iterator[Field]:
    """The fields of ``message``, in order."""
    at = 0
    while at < len(message):
        start = at
        tag, at = _read_varint(message, at)
        wire, value = tag & 7, 0
        if wire == _LENGTH:
            size, at = _read_varint(message, at)
            content = message[at : at + size]
            at += size
        elif wire == _VARINT:
            value, at = _read_varint(message, at)
            content = b""
        else:
            size = {_FIXED64: 8, _FIXED32: 4}[wire]
            content = message[at : at + size]
            at += size
        yield Field(tag >> 3, content, value, message[start:at])


def message_field(number: int, content: bytes) -> bytes:
    """A field that holds a message or a text."""
    return _varint(number << 3 | _LENGTH) + _varint(len(content)) + content


def read_node(raw: bytes) -> WireNode:
    """A ``NodeProto``."""
    texts: dict[int, list[str]] = {_NODE_INPUT: [], _NODE_OUTPUT: [], _NODE_NAME: [], _NODE_OPERATOR: []}
    attributes: dict[str, bytes] = {}
    nested, rest = False, b""
    for field in fields(raw):
        if field.number in texts:
            texts[field.number].append(field.content.decode())
        elif field.number == _NODE_ATTRIBUTE:
            inner = list(fields(field.content))
            name = next((part.content.decode() for part in inner if part.number == _ATTRIBUTE_NAME), "")
            attributes[name] = field.content
            nested |= any(part.number in (_GRAPH, _GRAPHS) for part in inner)
        else:
            rest += field.raw
    return WireNode(
        operator="".join(texts[_NODE_OPERATOR][-1:]),
        name="".join(texts[_NODE_NAME][-1:]),
        inputs=tuple(texts[_NODE_INPUT]),
        outputs=tuple(texts[_NODE_OUTPUT]),
        attributes=attributes,
        nested=nested,
        rest=rest,
    )


def write_node(node: WireNode) -> bytes:
    """A ``NodeProto`` as a field of a graph."""
    parts = [message_field(_NODE_INPUT, name.encode()) for name in node.inputs]
    parts += [message_field(_NODE_OUTPUT, name.encode()) for name in node.outputs]
    parts += [message_field(_NODE_NAME, node.name.encode()), message_field(_NODE_OPERATOR, node.operator.encode())]
    parts += [message_field(_NODE_ATTRIBUTE, raw) for raw in node.attributes.values()]
    return message_field(GRAPH_NODE, b"".join(parts) + node.rest)


def name_of(value_or_tensor: bytes, number: int = _VALUE_NAME) -> str:
    """Name in a ``ValueInfoProto``, or in a ``TensorProto`` with ``TENSOR_NAME``."""
    return next((field.content.decode() for field in fields(value_or_tensor) if field.number == number), "")


def renamed(tensor: bytes, name: str) -> bytes:
    """A ``TensorProto`` under another name."""
    kept = b"".join(field.raw for field in fields(tensor) if field.number != TENSOR_NAME)
    return kept + message_field(TENSOR_NAME, name.encode())


def output_of(name: str) -> bytes:
    """The field of a graph that makes ``name`` an output; the engine finds its type."""
    return message_field(GRAPH_OUTPUT, message_field(_VALUE_NAME, name.encode()))


def input_of(name: str, shape: Sequence[int], kind: int = FLOAT32) -> bytes:
    """The field of a graph that makes ``name`` an input of a fixed ``shape`` and of ONNX's type ``kind``."""
    sides = b"".join(message_field(1, _varint(1 << 3) + _varint(side)) for side in shape)
    tensor = _varint(1 << 3) + _varint(kind) + message_field(2, sides)
    value = message_field(_VALUE_NAME, name.encode()) + message_field(_VALUE_TYPE, message_field(1, tensor))
    return message_field(GRAPH_INPUT, value)


def describe_attribute(raw: bytes) -> str:
    """The value of an ``AttributeProto`` for people; a tensor or graph by the word."""
    numbers: list[str] = []
    for field in fields(raw):
        if field.number == _STRING:
            return field.content.decode("utf-8", "replace")
        if field.number in (_TENSOR, _GRAPH, _GRAPHS):
            return "a tensor" if field.number == _TENSOR else "a graph"
        if field.number == _INT or (field.number == _INTS and not field.content):
            numbers.append(str(field.value - (1 << 64) if field.value >= 1 << 63 else field.value))
        elif field.number == _INTS:
            numbers += _packed_integers(field.content)
        elif field.number in (_FLOAT, _FLOATS):
            count = len(field.content) // 4
            numbers += [f"{value:.6g}" for value in struct.unpack(f"<{count}f", field.content)]
    return ", ".join(numbers)


def _packed_integers(content: bytes) -> Iterator[str]:
    at = 0
    while at < len(content):
        value, at = _read_varint(content, at)
        yield str(value - (1 << 64) if value >= 1 << 63 else value)


def _read_varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])
