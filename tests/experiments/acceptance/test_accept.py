"""What TensorRT-RTX takes and refuses, and whom it blames: the node, and the layer of the source module."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
import torch
from msgspec.structs import replace

import acceptance.accept as acceptance
from acceptance.accept import Accepted, Refused, accept
from medfm_compress.compress.quantization import placement_onnxruntime, placement_tensorrt
from medfm_compress.compress.quantization.build_candidate import serialise
from medfm_compress.compress.quantization.calibrate import calibrate
from medfm_compress.compress.quantization.qdq import write_qdq
from medfm_compress.compress.quantization.range_estimators import estimate_ranges
from medfm_compress.export.onnx_export import export_onnx
from medfm_compress.export.passes.read import read_graph
from medfm_compress.runtime.image_spec import ImageSpec
from medfm_compress.runtime.task import Task

SPEC = ImageSpec(height_px=16, width_px=16, colour="rgb", mean=(0.5,) * 3, std=(0.25,) * 3)


class Block(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.mix = torch.nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x):
        return torch.relu(self.mix(x)) + x


class Network(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = torch.nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.blocks = torch.nn.Sequential(Block(), Block())
        self.head = torch.nn.Linear(8, 2)

    def forward(self, x):
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


@pytest.fixture(scope="module")
def fp32():
    torch.manual_seed(0)
    return export_onnx(Network(), SPEC, Task(kind="multilabel", labels=("a", "b"))).content


def graph(folder: Path, text: str) -> Path:
    path = folder / "graph.onnx"
    onnx.save_model(onnx.parser.parse_model(f'<ir_version: 9, opset_import: ["" : 20]> {text}'), path)
    return path


def test_a_network_is_accepted(fp32, tmp_path):
    path = tmp_path / "fp32.onnx"
    path.write_bytes(fp32)
    outcome = accept(path)
    assert isinstance(outcome, Accepted), outcome
    assert outcome.engine_bytes > 1000


def test_a_free_batch_gets_a_profile(tmp_path):
    path = graph(tmp_path, "g (float[batch, 3, 8, 8] image) => (float[batch, 3, 8, 8] logits) { logits = Relu(image) }")
    assert isinstance(accept(path, batches=(1, 2, 8)), Accepted)
    backwards = accept(path, batches=(8, 2, 1))
    assert isinstance(backwards, Refused)
    assert "profile" in backwards.sentence


def test_unsigned_pairs_are_refused_by_node_and_module(fp32, tmp_path):
    model = read_graph(fp32)
    statistics = calibrate(fp32, [np.random.default_rng(0).normal(size=(2, 3, 16, 16)).astype(np.float32)])
    placement = replace(placement_onnxruntime.place(model), biases=False)
    path = tmp_path / "u8.onnx"
    path.write_bytes(serialise(write_qdq(model, placement, estimate_ranges(statistics, "minmax"))))
    outcome = accept(path)
    assert isinstance(outcome, Refused)
    assert "zero point" in outcome.sentence
    assert outcome.operator in ("QuantizeLinear", "DequantizeLinear")
    assert outcome.module == "stem"
    assert outcome.node in [node.name for node in onnx.load_model(path).graph.node]


def test_biases_in_bytes_are_refused(fp32, tmp_path):
    model = read_graph(fp32)
    statistics = calibrate(fp32, [np.random.default_rng(0).normal(size=(2, 3, 16, 16)).astype(np.float32)])
    placement = replace(placement_tensorrt.place(model), biases=True)
    path = tmp_path / "biases.onnx"
    path.write_bytes(serialise(write_qdq(model, placement, estimate_ranges(statistics, "minmax", symmetric=True))))
    outcome = accept(path)
    assert isinstance(outcome, Refused)
    assert "Int32" in outcome.sentence
    assert outcome.operator == "DequantizeLinear"


def test_symmetric_pairs_are_accepted(fp32, tmp_path):
    model = read_graph(fp32)
    statistics = calibrate(fp32, [np.random.default_rng(0).normal(size=(2, 3, 16, 16)).astype(np.float32)])
    ranges = estimate_ranges(statistics, "minmax", symmetric=True)
    path = tmp_path / "s8.onnx"
    path.write_bytes(serialise(write_qdq(model, placement_tensorrt.place(model), ranges)))
    assert isinstance(accept(path), Accepted)


def test_an_operator_that_tensorrt_lacks_is_named_with_its_layer(fp32, tmp_path):
    proto = onnx.load_model_from_string(fp32)
    node = next(node for node in proto.graph.node if any("blocks.1" in entry.value for entry in node.metadata_props))
    node.op_type, node.domain = "Whatever", "org.example"
    proto.opset_import.append(onnx.helper.make_opsetid("org.example", 1))
    path = tmp_path / "odd.onnx"
    onnx.save_model(proto, path)
    outcome = accept(path)
    assert isinstance(outcome, Refused)
    assert (outcome.node, outcome.operator) == (node.name, "Whatever")
    assert outcome.module.startswith("blocks.1")


def test_two_types_in_one_sum_are_refused_because_the_network_is_strongly_typed(tmp_path):
    text = """g (float[1, 3, 8, 8] image) => (float[1, 3, 8, 8] logits)
    { half = Cast <to = 10> (image) [mixed] both = Add(image, half) logits = Relu(both) }"""
    outcome = accept(graph(tmp_path, text))
    assert isinstance(outcome, Refused)
    assert outcome.node == "mixed"
    assert "same input types" in outcome.sentence


def test_a_constant_must_stand_directly_before_its_pair(tmp_path):
    text = """g (float[1, 4] image) => (float[1, 4] logits)
    <int8[4, 4] w = {1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16}, float s = {0.1}, int8 z = {0}> {
      q = QuantizeLinear(image, s, z) d = DequantizeLinear(q, s, z)
      [between] t = Transpose<perm = [1, 0]>(w) [pair] v = DequantizeLinear(t, s, z) logits = MatMul(d, v) }"""
    outcome = accept(graph(tmp_path, text))
    assert isinstance(outcome, Refused)
    assert "Quantized constant (w)" in outcome.sentence
    assert outcome.node == "between"


def test_a_library_that_crashes_is_a_refusal(tmp_path, monkeypatch):
    crash = tmp_path / "crash.py"
    crash.write_text("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    monkeypatch.setattr(acceptance, "_BUILD", crash)
    assert accept(tmp_path / "any.onnx").sentence == "TensorRT ended with SIGSEGV"


def test_an_endless_build_is_a_refusal(tmp_path, monkeypatch):
    endless = tmp_path / "endless.py"
    endless.write_text("import time; time.sleep(60)")
    monkeypatch.setattr(acceptance, "_BUILD", endless)
    assert "within" in accept(tmp_path / "any.onnx", seconds=0.5).sentence


def test_what_is_no_onnx_is_refused(tmp_path):
    (tmp_path / "text.onnx").write_text("this is no network")
    assert isinstance(accept(tmp_path / "text.onnx"), Refused)


def test_the_package_is_not_touched(fp32, tmp_path):
    path = tmp_path / "fp32.onnx"
    path.write_bytes(fp32)
    folders = {file.parent for file in acceptance.libraries()}
    before = {folder: sorted(folder.iterdir()) for folder in folders}
    accept(path)
    assert {folder: sorted(folder.iterdir()) for folder in folders} == before


def test_the_product_does_not_know_the_package():
    program = "import importlib.metadata as m; r = m.requires('medfm-compress'); print([x for x in r if 'rtx' in x])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert all("extra ==" in line for line in done.stdout.split(", ") if "rtx" in line)
