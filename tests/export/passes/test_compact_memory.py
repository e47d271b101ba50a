"""A scorer's memory is stored in few bytes, bit for bit; what is none is left alone."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from medfm_compress.export.passes.compact_memory import as_bytes, compact_memory, scorer_nodes


def half_rows() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(40, 16)).astype(np.float16).astype(np.float32)


def byte_rows() -> np.ndarray:
    rows = np.random.default_rng(1).normal(size=(40, 16)).astype(np.float32)
    scales = (np.abs(rows).max(1, keepdims=True) / 127).astype(np.float32)
    return np.rint(rows / scales).astype(np.float32) * scales


def graph(matrix: np.ndarray, module: str = "scorer") -> onnx.ModelProto:
    """Queries [n, 16] → the rows that have the greatest product with each; the matrix stands there twice."""
    nodes = [
        helper.make_node("MatMul", ["queries", "turned"], ["products"], name="product"),
        helper.make_node("ArgMax", ["products"], ["best"], name="best", axis=1, keepdims=0),
        helper.make_node("Gather", ["rows", "best"], ["nearest"], name="nearest", axis=0),
    ]
    for node in nodes:
        node.metadata_props.add(key="source_module", value=module)
    return helper.make_model(
        helper.make_graph(
            nodes,
            "memory",
            [helper.make_tensor_value_info("queries", TensorProto.FLOAT, [5, 16])],
            [helper.make_tensor_value_info("nearest", TensorProto.FLOAT, [5, 16])],
            [
                numpy_helper.from_array(matrix, "rows"),
                numpy_helper.from_array(np.ascontiguousarray(matrix.T), "turned"),
            ],
        ),
        opset_imports=[helper.make_opsetid("", 20)],
        ir_version=10,
    )


def compacted(matrix: np.ndarray, module: str = "scorer") -> tuple[int, onnx.ModelProto]:
    model = ir.from_proto(graph(matrix, module))
    count = compact_memory(model)
    return count, ir.to_proto(model)


@pytest.mark.parametrize(
    ("matrix", "kinds"),
    [(half_rows(), {TensorProto.FLOAT16: 640}), (byte_rows(), {TensorProto.INT8: 640, TensorProto.FLOAT: 40})],
)
def test_one_copy_in_few_bytes_computes_the_same_bits(matrix: np.ndarray, kinds: dict[int, int]) -> None:
    count, model = compacted(matrix)
    assert count == 1
    assert {i.data_type: int(np.prod(i.dims)) for i in model.graph.initializer} == kinds
    queries = np.random.default_rng(2).normal(size=(5, 16)).astype(np.float32)
    onnx.checker.check_model(model, full_check=True)
    before, after = (
        onnxruntime.InferenceSession(m.SerializeToString(), providers=["CPUExecutionProvider"]).run(
            None, {"queries": queries}
        )[0]
        for m in (graph(matrix), model)
    )
    np.testing.assert_array_equal(before, after)


def test_other_numbers_and_other_modules_stay() -> None:
    random = np.random.default_rng(3).normal(size=(40, 16)).astype(np.float32)
    for matrix, module in ((random, "scorer"), (half_rows(), "encoder.scorer_like"), (half_rows()[:4], "scorer")):
        count, model = compacted(matrix, module)
        assert count == 0
        assert model == ir.to_proto(ir.from_proto(graph(matrix, module)))


def test_bytes_are_found_whatever_the_rounding_of_their_scale() -> None:
    rng = np.random.default_rng(4)
    values = rng.integers(-127, 128, (500, 8)).astype(np.int8)
    values[np.arange(500), rng.integers(0, 8, 500)] = 127
    scales = np.exp(rng.uniform(-20, 5, (500, 1))).astype(np.float32)
    found = as_bytes(values.astype(np.float32) * scales)
    assert found is not None
    np.testing.assert_array_equal(found.values.astype(np.float32) * found.scales, values.astype(np.float32) * scales)
    assert as_bytes(np.zeros((3, 4), np.float32)) is not None


def test_the_scorers_nodes_are_those_of_its_module() -> None:
    model = ir.from_proto(graph(half_rows()))
    assert [node.name for node in scorer_nodes(model)] == ["product", "best", "nearest"]
    assert not scorer_nodes(ir.from_proto(graph(half_rows(), "scorers")))
