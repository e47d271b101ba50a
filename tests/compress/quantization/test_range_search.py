"""Ranges by the logits: the proposal that serves the network is taken, whatever the tensor's own error says."""

from __future__ import annotations

import time

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

from medfm_compress.compress.quantization.placement_onnxruntime import place
from medfm_compress.compress.quantization.qdq import write_qdq
from medfm_compress.compress.quantization.range_search import search_ranges
from medfm_compress.runtime.golden_cases import relative_logit_error
from medfm_compress.runtime.sessions.onnxruntime import from_bytes

# Behind the ReLU the first channel is loud; in one network it is all that counts, in the other nothing reads it.
TEXT = """
<ir_version: 10, opset_import: ["" : 20]>
net (float[1, 4, 6, 6] image) => (float[1, 3] logits)
<float[4, 4, 1, 1] w0, float[4, 4, 1, 1] w1, int64[2] flat = {1, -1}, float[3, 4] head>
{
  c0 = Conv (image, w0)
  r0 = Relu (c0)
  c1 = Conv (r0, w1)
  pooled = GlobalAveragePool (c1)
  features = Reshape (pooled, flat)
  logits = Gemm <transB = 1> (features, head)
}
"""
NARROW, WIDE = 1.0, 30.0
ENDS = {"image": (0.0, 1.0), "c1": (-40.0, 40.0), "pooled": (-40.0, 40.0), "features": (-40.0, 40.0)}


def _network(*, loud_is_read: bool) -> ir.Model:
    random = np.random.default_rng(0)
    weights = {"w0": np.eye(4)[:, :, None, None] * [[[[WIDE]]], [[[1.0]]], [[[1.0]]], [[[1.0]]]]}
    weights["w1"] = random.standard_normal((4, 4, 1, 1))
    weights["w1"][:, 1 if loud_is_read else 0] = 0
    weights["head"] = random.standard_normal((3, 4))
    proto = onnx.parser.parse_model(TEXT)
    for name, values in weights.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(values.astype(np.float32), name))
    del proto.graph.value_info[:]
    for node in proto.graph.node:
        node.name = str(node.output[0])
    return ir.from_proto(onnx.shape_inference.infer_shapes(proto))


def _images(seed: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).uniform(0, 1, (12, 4, 6, 6)).astype(np.float32)


def _logits(model: ir.Model, precision: str = "fp32") -> NDArray[np.float32]:
    session, images = from_bytes([ir.to_proto(model).SerializeToString()], 1, precision), _images(2)
    return np.concatenate([session.run({"image": images[i : i + 1]})["logits"] for i in range(len(images))])


@pytest.mark.parametrize("loud_is_read", [True, False])
def test_the_range_that_serves_the_logits_is_taken_from_either_side(loud_is_read):
    model = _network(loud_is_read=loud_is_read)
    narrow, wide = ({**ENDS, "r0": (0.0, end)} for end in (NARROW, WIDE))
    reference, placement = _logits(model), place(model, reduced=True)
    for first, second in ((narrow, wide), (wide, narrow)):
        chosen = search_ranges(model, placement, [first, second], _images(1))
        assert chosen["r0"] == (0.0, WIDE if loud_is_read else NARROW)
        errors = [
            relative_logit_error(_logits(write_qdq(model, placement, ranges), "int8"), reference)
            for ranges in (narrow, wide, chosen)
        ]
        assert errors[2] == min(errors)


def test_without_time_the_first_proposal_stands():
    model = _network(loud_is_read=True)
    narrow, wide = ({**ENDS, "r0": (0.0, end)} for end in (NARROW, WIDE))
    chosen = search_ranges(model, place(model), [narrow, wide], _images(1), deadline=time.monotonic() - 1)
    assert chosen == narrow
