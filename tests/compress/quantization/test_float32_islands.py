"""FP16 on a CPU rounds as FP16 does, and the islands that are found are those that matter."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from medfm_compress.compress.quantization.float16_emulation import Emulation, emulated, run
from medfm_compress.compress.quantization.float32_islands import find_islands
from medfm_compress.export.passes.half_precision import float_nodes, to_half
from medfm_compress.export.passes.read import read_graph
from medfm_compress.runtime.errors import InputError

RANDOM = np.random.default_rng(0)
CASES = RANDOM.normal(size=(6, 16)).astype(np.float32)


def network(nodes: str, **constants) -> ir.Model:
    text = f'<ir_version: 9, opset_import: ["" : 20]> g (float[1, 16] image) => (float[1, 4] logits) {{ {nodes} }}'
    model = onnx.parser.parse_model(text)
    for name, value in constants.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(value, np.float32), name))
    return read_graph(model.SerializeToString())


@pytest.fixture(scope="module")
def plain():
    """Nothing in it is difficult."""
    nodes = "[in] a = MatMul(image, w) [act] b = Relu(a) [norm] c = Softmax(b) [out] logits = MatMul(c, v)"
    return network(nodes, w=RANDOM.normal(size=(16, 16)), v=RANDOM.normal(size=(16, 4)))


def difficult() -> ir.Model:
    """x² and its mean leave FP16; what comes before and after does not."""
    text = """<ir_version: 9, opset_import: ["" : 20]> g (float[1, 16] image) => (float[1, 4] logits)
    <int64[1] axes = {-1}> { [in] a = MatMul(image, w) [square] b = Mul(a, a)
    [mean] c = ReduceMean<keepdims = 1>(b, axes) [root] d = Sqrt(c) [divided] e = Div(a, d)
    [act] f = Relu(e) [out] logits = MatMul(f, v) }"""
    model = onnx.parser.parse_model(text)
    random = np.random.default_rng(1)
    arrays = {"w": 300 * random.normal(size=(16, 16)), "v": random.normal(size=(16, 4))}
    for key, value in arrays.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(value.astype(np.float32), key))
    return read_graph(model.SerializeToString())


def in_numpy(image: np.ndarray, model: ir.Model) -> np.ndarray:
    """The plain network with NumPy's own FP16 between its nodes."""
    half, single = np.float16, np.float32
    weights = {k: model.graph.initializers[k].const_value.numpy().astype(half).astype(single) for k in ("w", "v")}
    a = (image.astype(half).astype(single) @ weights["w"]).astype(half).astype(single)
    b = np.maximum(a, 0)
    e = np.exp(b - b.max(-1, keepdims=True))
    c = (e / e.sum(-1, keepdims=True)).astype(half).astype(single)
    return (c @ weights["v"]).astype(half).astype(single)


def test_it_rounds_as_fp16_does(plain):
    emulation = Emulation(plain, CASES)
    assert emulation.nodes == ("in", "act", "norm", "out")
    expected = np.concatenate([in_numpy(case[None], plain) for case in CASES])
    actual = emulation.logits(emulation.nodes)
    assert np.abs(actual - expected).max() <= 2 * np.spacing(np.abs(expected).max().astype(np.float16))
    assert (actual == actual.astype(np.float16)).all()
    exact = emulation.logits(())
    assert not (exact == exact.astype(np.float16)).all()


@pytest.mark.parametrize("keep", [(), ("norm",), ("in", "out"), ("act", "norm", "out")])
def test_switches_and_the_written_graph_agree(plain, keep):
    emulation = Emulation(plain, CASES)
    written, _ = to_half(plain, "fp16", keep)
    half = [name for name in emulation.nodes if name not in keep]
    assert np.allclose(emulation.logits(half), run(emulated(written), CASES), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("keep", [(), ("act",), ("out",)])
def test_a_value_that_the_graph_gives_out_and_reads_on_is_rounded_once_for_each(keep):
    """As the features of a classifier, which the last layer reads."""
    nodes = "[in] a = MatMul(image, w) [act] b = Relu(a) [out] logits = MatMul(b, v)"
    model = network(nodes, w=RANDOM.normal(size=(16, 16)), v=RANDOM.normal(size=(16, 4)))
    features = next(value for node in model.graph for value in node.outputs if value.name == "b")
    features.name = "features"
    model.graph.outputs.append(features)
    emulation, (written, _) = Emulation(model, CASES), to_half(model, "fp16", keep)
    plain = emulated(written)
    assert [output.name for output in plain.graph.outputs] == ["logits", "features"]
    half = [name for name in emulation.nodes if name not in keep]
    assert np.allclose(emulation.logits(half), run(plain, CASES), rtol=1e-4, atol=1e-6)
    names = [node.name for node in plain.graph]
    assert len(set(names)) == len(names)


def test_what_fits_has_no_island(plain):
    islands = find_islands(plain, CASES, limit=0.01)
    assert (islands.keep, islands.runs, islands.holds) == ((), 2, True)
    assert islands.error == islands.all_half > 0


def test_what_overflows_is_kept_and_only_that():
    model = difficult()
    islands = find_islands(model, CASES, limit=0.01)
    assert islands.all_half > 1  # an infinite root divides everything to 0
    assert islands.holds
    assert set(islands.keep) == {"square", "mean", "root"}
    assert islands.overflowing == ("square", "mean", "root")  # the root reads what overflows
    written, record = to_half(model, "fp16", islands.keep)
    assert record.kept == islands.keep
    assert np.isfinite(run(emulated(written), CASES)).all()


def test_a_tighter_limit_keeps_more(plain):
    loose = find_islands(plain, CASES, limit=1e-3)
    tight = find_islands(plain, CASES, limit=1e-5)
    assert set(loose.keep) < set(tight.keep)
    assert tight.holds


def test_everything_kept_always_holds(plain):
    islands = find_islands(plain, CASES, limit=1e-12)
    assert set(islands.keep) == {node.name for node in float_nodes(plain.graph)}
    assert islands.error == 0


def test_few_runs_keep_whole_groups():
    model = difficult()
    islands = find_islands(model, CASES, limit=0.01, runs=1)
    assert islands.holds
    assert {"square", "mean"} <= set(islands.keep)


def test_control_flow_is_refused():
    model = network("[in] a = MatMul(image, w) logits = Relu(a)", w=RANDOM.normal(size=(16, 4)))
    model.graph[0].op_type = "Loop"
    with pytest.raises(InputError, match="Loop 'in'"):
        find_islands(model, CASES)


@pytest.mark.parametrize(("limit", "cases"), [(0, CASES), (0.1, CASES[:0])])
def test_nothing_to_measure_is_refused(plain, limit, cases):
    with pytest.raises(InputError, match="limit"):
        find_islands(plain, cases, limit=limit)
