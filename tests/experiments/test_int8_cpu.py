"""The comparison of INT8: who stands against whom, how quiet the machine was, and networks of other people."""

from __future__ import annotations

import time

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import int8_cpu_quiet
import int8_cpu_tables as tables
from int8_cpu_agreement import CHARACTERS, agreement
from int8_cpu_network import Network, is_network
from int8_cpu_quiet import FullSpeed, Quiet, watched_machine
from real_cases import token_rows, word_pieces

onnxruntime = pytest.importorskip("onnxruntime")

PIECES = ("[UNK]", "[CLS]", "[SEP]", "read", "##ing", "re", ",", "e")
VOCABULARY = {token: number for number, token in enumerate(PIECES)}


def record(**models):
    """Of one network and cell, from name = (ms, error)."""
    cell = {
        "samples": {name: [ms] * 10 for name, (ms, _) in models.items()},
        "calls": dict.fromkeys(models, 1),
        "failed": {},
        "quiet": {"load_before": 0.1, "steal": 0.0, "others": 0.25, "reference_ms": [1.0, 2.0]},
    }
    errors = {name: error for name, (_, error) in models.items() if error is not None}
    return {"model": "net", "cells": {"1x1": cell}, "errors": {"errors": errors, "failed": {}}}


def named(values):
    return record(**{name.replace("_", "-"): value for name, value in values.items()})


def test_a_peer_meets_ours_of_at_most_its_error():
    entry = named({"ours_openvino": (10.0, 0.02), "ours_openvino-0.08": (8.0, 0.07), "nncf_openvino": (9.0, 0.05)})
    (row,) = [line for line in tables.duels([entry]) if "| nncf-openvino |" in line]
    assert "0.90 [0.90, 0.90]" in row and "openvino 0.0200" in row
    (row,) = [line for line in tables.within_limit([entry]) if "| nncf-openvino |" in line]
    assert "1.12 [1.12, 1.12]" in row and "openvino-0.08 0.0700" in row


def test_a_peer_that_is_more_faithful_than_ours_is_marked():
    entry = named({"ours_openvino": (10.0, 0.02), "nncf_openvino": (20.0, 0.01)})
    (row,) = [line for line in tables.duels([entry]) if "| nncf-openvino |" in line]
    assert "2.00" in row and "more than the peer's" in row


def test_a_peer_beyond_the_limit_is_not_in_the_second_comparison():
    entry = named({"ours_openvino": (10.0, 0.02), "nncf_openvino": (5.0, 0.081)})
    assert not [line for line in tables.within_limit([entry]) if "nncf-openvino" in line]
    assert [line for line in tables.duels([entry]) if "| nncf-openvino |" in line]


def test_quietness_is_shown_for_each_cell():
    (row,) = [line for line in tables.quietness([named({"ours_openvino": (1.0, 0.0)})]) if line.startswith("| net |")]
    assert "25.0%" in row and "1.0, 2.0" in row


def test_own_work_is_not_counted_as_that_of_others():
    with watched_machine() as quiet:
        until = time.process_time() + 0.3
        while time.process_time() < until:
            pass
    assert quiet.reference_ms[0] > 0 and quiet.reference_ms[1] > 0
    assert 0 <= quiet.others <= 1 and 0 <= quiet.steal <= 1


def test_a_turn_on_a_slower_machine_is_put_off_or_taken_again(monkeypatch):
    slow, fast = 3.0, 2.0
    readings = iter([fast] * 30 + [slow, slow, fast, slow] + [fast, fast])  # put off twice, disturbed, then undisturbed
    monkeypatch.setattr(int8_cpu_quiet, "reference_ms", lambda times: next(readings))
    monkeypatch.setattr(int8_cpu_quiet.time, "sleep", lambda seconds: None)
    quiet, turns = Quiet(load_before=0.0), iter("ab")
    assert FullSpeed(quiet).turn(lambda: next(turns)) == "b"
    assert (quiet.repeated, quiet.disturbed) == (1, 0) and next(readings, None) is None


def test_a_machine_that_never_gets_faster_again_is_timed_as_it_is(monkeypatch):
    readings = iter([2.0] * 30)
    monkeypatch.setattr(int8_cpu_quiet, "reference_ms", lambda times: next(readings, 3.0))
    monkeypatch.setattr(int8_cpu_quiet.time, "sleep", lambda seconds: None)
    quiet = Quiet(load_before=0.0)
    full_speed = FullSpeed(quiet, patience_s=1.0)
    assert [full_speed.turn(lambda: "late") for _ in range(3)] == ["late"] * 3
    assert quiet.disturbed == 3 and quiet.repeated == 0 and 1 <= quiet.waited_s < 1.2


def test_a_cell_that_begins_on_a_slower_machine_knows_it_in_the_end(monkeypatch):
    readings = iter([3.0] * 32 + [2.0] * 2)
    monkeypatch.setattr(int8_cpu_quiet, "reference_ms", lambda times: next(readings))
    quiet = Quiet(load_before=0.0)
    full_speed = FullSpeed(quiet)
    full_speed.turn(lambda: "slow")
    assert quiet.disturbed == 0
    full_speed.turn(lambda: "fast")
    assert quiet.disturbed == 1


def test_the_longest_piece_of_a_word_comes_first():
    assert word_pieces("Reading, réad x", VOCABULARY) == [3, 4, 6, 3, 0]


def test_rows_of_tokens_are_full_and_the_sides_differ():
    letters = {token: number for number, token in enumerate(["[UNK]", "[CLS]", "[SEP]"])}
    letters |= {prefix + chr(c): 3 + c + 200 * bool(prefix) for c in range(97, 123) for prefix in ("", "##")}
    rows = {side: token_rows(side, 2, 64, letters) for side in ("calibration", "validation")}
    for row in rows.values():
        assert row.shape == (2, 64) and set(row[:, 0]) == {1} and set(row[:, -1]) == {2}
    assert not np.array_equal(rows["calibration"], rows["validation"])


def test_the_squashing_operator_is_cut_off_and_the_input_fixed():
    real = pytest.importorskip("real_weights")
    weight = numpy_helper.from_array(np.ones((2, 3, 1, 1), np.float32), "w")
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"]), helper.make_node("Sigmoid", ["y"], ["z"])]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", None, "h", "w"]) for name in ("x", "z")]
    model = helper.make_model(
        helper.make_graph(nodes, "g", ends[:1], ends[1:], [weight]), opset_imports=[helper.make_opsetid("", 11)]
    )
    real.fix_ends(model, "Sigmoid", (1, 3, 8, 8))
    model = onnx.shape_inference.infer_shapes(model)
    onnx.checker.check_model(model)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    assert session.run(None, {"image": np.full((1, 3, 8, 8), 2, np.float32)})[0].tolist() == [[6.0] * 128]
    with pytest.raises(RuntimeError, match="ends with Reshape, not with Softmax"):
        real.fix_ends(model, "Softmax", (1, 3, 8, 8))


def test_a_network_says_of_which_shape_its_input_is(tmp_path):
    network = Network(name="n", kind="multilabel", shape=(1, 128, 384), outputs=9, module="", weights="a package")
    assert network.spec.shape == (1, 1, 128, 384) and network.task.kind == "multilabel"
    assert not is_network(tmp_path)
    (tmp_path / "about.json").touch()
    assert is_network(tmp_path)


def test_answers_are_compared_in_the_networks_own_terms():
    fp32 = np.array([[1.0, 2.0, -3.0], [4.0, 0.0, -1.0]], np.float32)
    near = np.array([[1.0, 0.5, -3.0], [4.0, 0.0, -0.5]], np.float32)
    assert agreement("top1", near, fp32) == 0.5
    assert agreement("cosine", 2 * fp32, fp32) == pytest.approx(1)
    assert agreement("mask", near, fp32) == pytest.approx(4 / 5)
    blank, letter = np.eye(CHARACTERS, dtype=np.float32)[[0, 7]]
    rows = np.stack([np.concatenate([blank, letter]), np.concatenate([letter, letter])])
    assert agreement("places", rows[::-1], rows) == pytest.approx(2 / 3)
