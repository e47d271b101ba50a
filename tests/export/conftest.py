"""Small graphs to try passes on, and what they compute."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import onnxruntime
import pytest

from medfm_compress.export.passes.read import read_graph


class Graphs:
    """Builds graphs of random constants, reads them, and compares what they compute."""

    def __init__(self):
        self.random = np.random.default_rng(0)

    def normal(self, *shape):
        return self.random.normal(size=shape).astype(np.float32)

    def build(self, signature, nodes, opset=20, **constants):
        """The serialized graph of ``nodes`` in ONNX's text form; each of ``constants`` is an array or ints."""
        text = f'<ir_version: 9, opset_import: ["" : {opset}]> g {signature} {{ {nodes} }}'
        model = onnx.parser.parse_model(text)
        for name, value in constants.items():
            array = np.asarray(value) if not isinstance(value, (list, tuple)) else np.array(value, dtype=np.int64)
            model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
        onnx.checker.check_model(model)
        return model.SerializeToString()

    def read(self, content):
        return read_graph(content)

    def bytes(self, model):
        import onnx_ir as ir

        proto = ir.to_proto(model)
        onnx.checker.check_model(proto)
        return proto.SerializeToString()

    def ops(self, model):
        return [node.op_type for node in model.graph]

    def run(self, content, inputs):
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.intra_op_num_threads = 1
        return onnxruntime.InferenceSession(content, options, ["CPUExecutionProvider"]).run(None, inputs)

    def difference(self, before, model, cases=2):
        """Largest relative difference of the outputs before and after, on random inputs."""
        after = self.bytes(model)
        values = onnx.load_model_from_string(before).graph.input
        worst = 0.0
        for _ in range(cases):
            inputs = {v.name: self.normal(*(d.dim_value for d in v.type.tensor_type.shape.dim)) for v in values}
            for expected, actual in zip(self.run(before, inputs), self.run(after, inputs), strict=True):
                assert expected.shape == actual.shape
                worst = max(worst, float(np.abs(expected - actual).max() / np.abs(expected).max()))
        return worst


@pytest.fixture
def graphs():
    return Graphs()
