"""The operators of a model file, against onnx's own parser; hostile files end in one kind of error."""

from __future__ import annotations

import numpy as np
import pytest

from medfm_compress.runtime.sessions.onnxruntime import holds_integers, import_onnxruntime
from medfm_compress.runtime.sessions.operators import is_ort_format, read_operators

onnx = pytest.importorskip("onnx")


def optimised(model, path, kind):
    ort = import_onnxruntime()
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.optimized_model_filepath = str(path)
    options.add_session_config_entry("session.save_model_format", kind)
    ort.InferenceSession(model, options)
    return path.read_bytes()


def test_an_onnx_file_is_read_like_onnx_reads_it(tiny, tmp_path):
    for model in (tiny.network(), tiny.quantized_network(), optimised(tiny.network(), tmp_path / "m.onnx", "ONNX")):
        nodes = onnx.load_from_string(model).graph.node
        actual = read_operators(model)
        assert actual.kinds == {node.op_type for node in nodes} and actual.domains == {node.domain for node in nodes}
        assert not actual.external and not is_ort_format(model)


def test_an_ort_file_holds_what_the_optimised_onnx_file_holds(tiny, tmp_path):
    for number, model in enumerate((tiny.network(), tiny.quantized_network())):
        ort = optimised(model, tmp_path / f"{number}.ort", "ORT")
        peer = read_operators(optimised(model, tmp_path / f"{number}.onnx", "ONNX"))
        assert is_ort_format(ort)
        assert (read_operators(ort).kinds, read_operators(ort).domains) == (peer.kinds, peer.domains)
        assert holds_integers(ort) == holds_integers(model) == bool(number)


def test_weights_that_spell_an_operator_are_not_one(tiny):
    model = onnx.load_from_string(tiny.network())
    word = b"\x22\x10DequantizeLinear" + b"\x0a\x08location\x12"
    raw = np.frombuffer(word.ljust(32, b"\0"), np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(raw, "unused"))
    actual = read_operators(model.SerializeToString())
    assert "DequantizeLinear" not in actual.kinds and not actual.external


def test_nested_graphs_and_functions_are_looked_into():
    helper = onnx.helper
    inner = helper.make_graph([helper.make_node("QLinearConv", ["x"], ["y"])], "then", [], [])
    outer = helper.make_graph([helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=inner)], "g", [], [])
    function = helper.make_function("local", "F", ["x"], ["y"], [helper.make_node("Relu", ["x"], ["y"])], [])
    model = helper.make_model(outer, functions=[function])
    assert read_operators(model.SerializeToString()).kinds == {"If", "QLinearConv", "Relu"}


def test_damage_is_a_value_error(tiny, tmp_path):
    ort = optimised(tiny.network(), tmp_path / "m.ort", "ORT")
    random = np.random.default_rng(0)
    for whole in (tiny.network(), ort):
        for _ in range(300):
            damaged = bytearray(whole[: random.integers(1, len(whole))])
            damaged[random.integers(len(damaged))] = random.integers(256)
            try:
                read_operators(bytes(damaged))
            except ValueError:
                continue
    assert not holds_integers(b"garbage\xff\xff\xff")
    for hostile in (b"\x3a", b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", b"\x0b", b"\0\0\0\0ORTM"):
        with pytest.raises(ValueError, match="not a whole ONNX or ORT-format model"):
            read_operators(hostile)
