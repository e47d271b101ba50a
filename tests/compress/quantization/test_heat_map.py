"""Class activation maps through quantization: kept by every kind of candidate, without a layer of it in float."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from medfm_compress.bench.evaluate.attribution_agreement import rank_correlation
from medfm_compress.compress.quantization.build_candidate import GraphBuilder, portable
from medfm_compress.compress.quantization.calibrate import calibrate
from medfm_compress.compress.quantization.methods import Method
from medfm_compress.export.heat_map import heat_map_output
from medfm_compress.export.ort_format import optimise
from medfm_compress.runtime.sessions import onnxruntime
from medfm_compress.runtime.sessions.operators import read_operators
from medfm_compress.runtime.sessions.table import open_session_from_bytes
from medfm_compress.runtime.task import Task

TASK = Task(kind="binary", labels=("no", "yes"))
SHAPE = (1, 3, 32, 32)
WIDTH = 32


def network() -> bytes:
    """Two convolutions with ReLU6, their mean over all places, a linear classifier."""
    random = np.random.default_rng(0)
    arrays = {
        "w1": random.normal(0, 0.3, (WIDTH, 3, 3, 3)),
        "w2": random.normal(0, 0.08, (WIDTH, WIDTH, 3, 3)),
        "b2": random.normal(size=WIDTH),
        "w3": random.normal(size=(2, WIDTH)),
        "b3": random.normal(size=2),
        "low": np.array(0.0),
        "high": np.array(6.0),
    }
    convolution = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}
    nodes = [
        helper.make_node("Conv", ["image", "w1"], ["c1"], **convolution),
        helper.make_node("Clip", ["c1", "low", "high"], ["a1"]),
        helper.make_node("Conv", ["a1", "w2", "b2"], ["c2"], **convolution),
        helper.make_node("Clip", ["c2", "low", "high"], ["a2"]),
        helper.make_node("GlobalAveragePool", ["a2"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["row"]),
        helper.make_node("Gemm", ["row", "w3", "b3"], ["logits"], transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, SHAPE)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, (1, 2))],
        [numpy_helper.from_array(array.astype(np.float32), name) for name, array in arrays.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    return model.SerializeToString()


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(1).normal(size=(8, *SHAPE)).astype(np.float32)


@pytest.fixture(scope="module")
def builders(images):
    """Of the network with maps, and of the same without."""
    sources = [portable(content) for content in (heat_map_output(network()).content, network())]
    inputs = images[:, 0]
    return [GraphBuilder(s, calibrate(s, iter([inputs]), threads=1), inputs, TASK) for s in sources]


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("method", [Method(), Method(weight_bits=8)], ids=["int8", "weights"])
def test_a_candidate_keeps_them(builders, images, backend, method):
    if backend == "openvino":
        pytest.importorskip("openvino")
    precision = "int8-weights" if method.weight_bits else "int8"
    files = builders[0].build(backend, method)
    session = open_session_from_bytes(backend, list(files), 1, precision)
    assert session.output_names == ("logits", "cam")
    float32 = onnxruntime.from_bytes([heat_map_output(network()).content], 1)
    for image in images:
        own, expected = (s.run({"image": image})["cam"][0] for s in (session, float32))
        assert rank_correlation(own[1] - own[0], expected[1] - expected[0]) > 0.95
    plain = open_session_from_bytes(backend, list(builders[1].build(backend, method)), 1, precision)
    assert plain.output_names == ("logits",)
    same = [s.run({"image": images[0]})["logits"] for s in (session, plain)]
    assert same[0] == pytest.approx(same[1], abs=1e-5)


def test_what_ran_in_integers_still_does(builders):
    kinds = [read_operators(optimise(builder.build("onnxruntime", Method())[0])).kinds for builder in builders]
    integers = [{kind for kind in each if kind.startswith("Q")} for each in kinds]
    assert integers[0] == integers[1] and "QLinearConv" in integers[0]
    assert "Conv" not in kinds[0] and "FusedConv" not in kinds[0]
