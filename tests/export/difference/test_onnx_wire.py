"""ONNX's wire format, against the package onnx."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import GraphProto, TensorProto, ValueInfoProto, helper, numpy_helper

from medfm_compress.export.difference import onnx_wire as wire


def node(**attributes):
    return helper.make_node("Pad", ["x", "", "pads"], ["y", "z"], "pad", domain="somewhere", **attributes)


def test_a_node_comes_back_as_it_was():
    original = node(mode="edge", axes=[1, -300], scale=0.25)
    read = wire.read_node(original.SerializeToString())
    assert (read.operator, read.name, read.inputs, read.outputs) == ("Pad", "pad", ("x", "", "pads"), ("y", "z"))
    graph = GraphProto.FromString(wire.write_node(read))
    assert graph.node[0] == original
    assert not read.nested


def test_a_node_that_holds_a_graph_is_noticed():
    inner = helper.make_graph([], "inner", [], [])
    assert wire.read_node(node(body=inner).SerializeToString()).nested


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (3, "3"),
        (-1, "-1"),
        (0.5, "0.5"),
        ("half_pixel", "half_pixel"),
        ([1, -300, 7], "1, -300, 7"),
        ([0.5, 2.0], "0.5, 2"),
        (numpy_helper.from_array(np.zeros(2, np.float32)), "a tensor"),
        (helper.make_graph([], "inner", [], []), "a graph"),
    ],
)
def test_attributes_are_described(value, shown):
    assert wire.describe_attribute(helper.make_attribute("a", value).SerializeToString()) == shown


def test_packed_integers_are_read_too():
    packed = bytes([8 << 3 | 2, 2, 5, 7])  # field 8 of an AttributeProto, length 2
    assert wire.describe_attribute(packed) == "5, 7"


def test_inputs_and_outputs_are_those_of_onnx():
    graph = GraphProto.FromString(wire.input_of("x", (1, 300), wire.FLOAT16) + wire.output_of("y"))
    assert graph.input[0] == helper.make_tensor_value_info("x", TensorProto.FLOAT16, [1, 300])
    assert graph.output[0] == ValueInfoProto(name="y")


def test_a_tensor_is_renamed_and_nothing_else():
    tensor = numpy_helper.from_array(np.arange(6, dtype=np.float32).reshape(2, 3), "old")
    renamed = TensorProto.FromString(wire.renamed(tensor.SerializeToString(), "new"))
    assert renamed.name == "new"
    assert np.array_equal(numpy_helper.to_array(renamed), numpy_helper.to_array(tensor))
    assert wire.name_of(renamed.SerializeToString(), wire.TENSOR_NAME) == "new"


def test_every_kind_of_field_is_passed_over():
    message = bytes([1 << 3 | 1, *range(8), 2 << 3 | 5, *range(4), 3 << 3, 0x96, 0x01]) + wire.message_field(4, b"x")
    assert [(field.number, field.value, len(field.raw)) for field in wire.fields(message)] == [
        (1, 0, 9), (2, 0, 5), (3, 150, 3), (4, 0, 3),
    ]  # fmt: skip
