"""Which layer a node came from: written by either exporter, kept by export, borrowed by nodes that came later."""

from __future__ import annotations

import onnx
import onnx_ir as ir
import pytest
import torch

from medfm_compress.export.onnx_export import _strip, _torchscript, export_onnx, simplified
from medfm_compress.export.quiet_exporter import quiet_exporter
from medfm_compress.export.source_modules import SOURCE_MODULE, module_of
from medfm_compress.runtime.image_spec import ImageSpec
from medfm_compress.runtime.task import Task

SPEC = ImageSpec(height_px=8, width_px=8, colour="rgb", mean=(0.5,) * 3, std=(0.25,) * 3)


class Pair(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.first = torch.nn.Conv2d(3, 3, 1)
        self.second = torch.nn.Conv2d(3, 3, 1)

    def forward(self, x):
        return self.second(torch.relu(self.first(x)))


class Network(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = torch.nn.Sequential(Pair(), Pair())

    def forward(self, x):
        return self.layers(x).mean((2, 3))


def graph_of(exporter: str) -> ir.Graph:
    if exporter == "dynamo":
        content = export_onnx(Network(), SPEC, Task(kind="multilabel", labels=("a", "b", "c"))).content
        return ir.from_proto(onnx.load_model_from_string(content)).graph
    with quiet_exporter():
        model = simplified(_torchscript(Network().eval(), (torch.zeros(1, 3, 8, 8),), ["image"]))
    _strip(model)
    return ir.from_proto(model).graph


@pytest.mark.parametrize("exporter", ["dynamo", "torchscript"])
def test_every_layer_is_named(exporter):
    modules = [module_of(node) for node in graph_of(exporter) if node.op_type == "Conv"]
    assert modules == ["layers.0.first", "layers.0.second", "layers.1.first", "layers.1.second"]


def test_nothing_but_the_module_stays_of_the_exporter():
    for node in graph_of("dynamo"):
        assert set(node.metadata_props) <= {SOURCE_MODULE}
        assert not any("/" in value for value in node.metadata_props.values())


def test_a_node_without_a_module_takes_its_readers():
    graph = graph_of("dynamo")
    second = [node for node in graph if node.op_type == "Conv"][1]
    between = ir.node("Identity", [second.inputs[0]])
    graph.insert_before(second, [between])
    second.replace_input_with(0, between.outputs[0])
    assert module_of(between) == "layers.0.second"


def test_where_other_tools_dropped_the_module_parameters_tell():
    graph = graph_of("dynamo")
    for node in graph:
        node.metadata_props.clear()
    modules = [module_of(node) for node in graph if node.op_type == "Conv"]
    assert modules == ["layers.0.first", "layers.0.second", "layers.1.first", "layers.1.second"]


def test_a_graph_that_nobody_exported_has_none():
    node = ir.node("Relu", [ir.Value(name="x")])
    assert module_of(node) == ""
