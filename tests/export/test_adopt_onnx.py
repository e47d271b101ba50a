"""Anybody's graph in the form that a bundle holds computes what it computed."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
import tiny_onnx
from onnx import TensorProto, helper, numpy_helper

from medfm_compress.export.adopt_onnx import OutputMap, adopt_onnx, widen, without_ending
from medfm_compress.runtime.errors import ModelError

PLAIN = OutputMap()


def run(content: bytes, images: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, {session.get_inputs()[0].name: image[None]})[0] for image in images])


IMAGES = np.random.default_rng(3).normal(size=(5, 3, tiny_onnx.SIDE, tiny_onnx.SIDE)).astype(np.float32)
LOGITS = run(tiny_onnx.make().SerializeToString(), IMAGES)


def adopted(model: onnx.ModelProto, outputs: OutputMap = PLAIN, *, nhwc: bool = False, labels: int = 3) -> bytes:
    layout = "nhwc" if nhwc else "nchw"
    return adopt_onnx(model.SerializeToString(), tiny_onnx.SPEC, layout, outputs, labels).content


@pytest.mark.parametrize(
    "form",
    [
        {},
        {"batch": 1},
        {"batch": 4},
        {"sides": ("h", "w")},
        {"nhwc": True},
        {"nhwc": True, "sides": ("h", "w")},
        {"opset": 9},
        {"opset": 13},
        {"opset": 21},
        {"image": "image"},
        {"image": "logits"},
    ],
)
def test_every_form_of_a_file_gives_the_same_logits(form: dict[str, object]) -> None:
    content = adopted(tiny_onnx.make(**form), nhwc="nhwc" in form)  # type: ignore[arg-type]
    model = onnx.load_model_from_string(content)
    assert [value.name for value in (*model.graph.input, *model.graph.output)] == ["image", "logits"]
    assert not model.metadata_props
    np.testing.assert_allclose(run(content, IMAGES), LOGITS, atol=1e-4)


def test_weights_that_are_inputs_as_well_stay_weights() -> None:
    model = tiny_onnx.make()
    for tensor in model.graph.initializer:
        model.graph.input.append(helper.make_tensor_value_info(tensor.name, TensorProto.FLOAT, tensor.dims))
    np.testing.assert_allclose(run(adopted(model), IMAGES), LOGITS, atol=1e-4)


def test_names_that_a_bundle_has_are_given_away() -> None:
    model = tiny_onnx.make()
    for node in model.graph.node:
        renamed = {"c": "image", "r": "logits", "f": "features"}
        node.input[:] = [renamed.get(name, name) for name in node.input]
        node.output[:] = [renamed.get(name, name) for name in node.output]
    np.testing.assert_allclose(run(adopted(model), IMAGES), LOGITS, atol=1e-4)


@pytest.mark.parametrize("groups", [(), ((2,), (0,), (1,))])
def test_features_come_out_where_they_are_wanted(groups: tuple[tuple[int, ...], ...]) -> None:
    model, outputs = tiny_onnx.make(), OutputMap(groups=groups)
    taken = adopt_onnx(model.SerializeToString(), tiny_onnx.SPEC, "nchw", outputs, 3, features=True)
    session = onnxruntime.InferenceSession(taken.content, providers=["CPUExecutionProvider"])
    assert [(value.name, value.shape) for value in session.get_outputs()] == [("logits", [1, 3]), ("features", [1, 8])]
    expected = LOGITS[:1] if not groups else LOGITS[:1, [2, 0, 1]]
    np.testing.assert_allclose(session.run(["logits"], {"image": IMAGES[:1]})[0], expected, atol=1e-4)


def test_operators_of_onnxruntime_are_taken() -> None:
    model = tiny_onnx.make(ending=("Gelu",))
    model.graph.node[-1].domain = "com.microsoft"
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    expected = run(model.SerializeToString(), IMAGES)
    np.testing.assert_allclose(run(adopted(model), IMAGES), expected, atol=1e-4)


@pytest.mark.parametrize(("ending", "name"), [("softmax", "Softmax"), ("sigmoid", "Sigmoid")])
def test_logits_come_out_of_probabilities(ending: str, name: str) -> None:
    model = tiny_onnx.make(ending=(name,))
    bare = without_ending(model.SerializeToString())
    assert bare is not None
    np.testing.assert_allclose(run(bare, IMAGES), LOGITS, atol=1e-5)
    assert without_ending(tiny_onnx.make(ending=(name, "Identity")).SerializeToString()) is None
    logits = run(adopted(model, OutputMap(ending)), IMAGES)
    if ending == "softmax":
        logits, expected = (values - values.mean(1, keepdims=True) for values in (logits, LOGITS))
    else:
        expected = LOGITS
    np.testing.assert_allclose(logits, expected, atol=1e-3)


def test_outputs_become_the_labels() -> None:
    swapped = run(adopted(tiny_onnx.make(), OutputMap(groups=((2,), (0,), (1,)))), IMAGES)
    np.testing.assert_allclose(swapped, LOGITS[:, [2, 0, 1]], atol=1e-4)
    joined = run(adopted(tiny_onnx.make(), OutputMap(groups=((1,), (0, 2))), labels=2), IMAGES)
    expected = np.stack([LOGITS[:, 1], np.logaddexp(LOGITS[:, 0], LOGITS[:, 2])], 1)
    np.testing.assert_allclose(joined, expected, atol=1e-4)
    one = tiny_onnx.make(outputs=1)
    z = run(one.SerializeToString(), IMAGES)
    pair = run(adopted(one, OutputMap(single=True, groups=((1,), (0,))), labels=2), IMAGES)
    np.testing.assert_allclose(pair, np.concatenate([z, 0 * z], 1), atol=1e-4)


def test_half_precision_is_widened() -> None:
    model = tiny_onnx.make(dtype=TensorProto.FLOAT16)
    wide = widen(model.SerializeToString())
    assert {tensor.data_type for tensor in onnx.load_model_from_string(wide).graph.initializer} == {TensorProto.FLOAT}
    np.testing.assert_allclose(run(wide, IMAGES), LOGITS, atol=0.05)


def test_half_precision_that_is_cut_short_is_refused() -> None:
    model = tiny_onnx.make(dtype=TensorProto.FLOAT16)
    model.graph.initializer[0].ClearField("raw_data")
    model.graph.initializer[0].ClearField("int32_data")
    with pytest.raises(ModelError, match="damaged"):
        widen(model.SerializeToString())


def with_branch(kind: str) -> onnx.ModelProto:
    """The logits, changed by a graph within a node."""
    model = tiny_onnx.make(ending=("Identity",), batch=1)
    model.graph.node.pop()
    value = helper.make_tensor_value_info
    if kind == "If":
        branches = [
            helper.make_graph([helper.make_node(op, ["z0"], [f"{op}_out"])], op, [], [value(f"{op}_out", 1, None)])
            for op in ("Relu", "Neg")
        ]
        model.graph.node.extend(
            [
                helper.make_node("ReduceMax", ["x"], ["m"], keepdims=0),
                helper.make_node("Cast", ["m"], ["yes"], to=TensorProto.BOOL),
                helper.make_node("If", ["yes"], ["z1"], "choice", then_branch=branches[0], else_branch=branches[1]),
            ]
        )
        return model
    body = helper.make_graph(
        [helper.make_node("Identity", ["c_in"], ["c_out"]), helper.make_node("Relu", ["v_in"], ["v_out"])],
        "body",
        [
            value("i", TensorProto.INT64, []),
            value("c_in", TensorProto.BOOL, []),
            value("v_in", TensorProto.FLOAT, None),
        ],
        [value("c_out", TensorProto.BOOL, []), value("v_out", TensorProto.FLOAT, None)],
    )
    model.graph.initializer.append(numpy_helper.from_array(np.array(3, np.int64), "trips"))
    model.graph.node.append(helper.make_node("Loop", ["trips", "", "z0"], ["z1"], "turns", body=body))
    return model


@pytest.mark.parametrize("kind", ["If", "Loop"])
def test_graphs_within_nodes_are_refused(kind: str) -> None:
    with pytest.raises(ModelError, match=rf"operators {kind} '(choice|turns)', which hold graphs of their own"):
        adopted(with_branch(kind))


def test_a_branch_that_is_decided_beforehand_is_taken() -> None:
    model = with_branch("If")
    for node in list(model.graph.node):
        if node.op_type in ("ReduceMax", "Cast"):
            model.graph.node.remove(node)
    model.graph.initializer.append(numpy_helper.from_array(np.array(False), "yes"))
    np.testing.assert_allclose(run(adopted(model), IMAGES), -LOGITS, atol=1e-4)


@pytest.mark.parametrize("opset", [0, 99])
def test_an_opset_that_nobody_reads_is_refused(opset: int) -> None:
    model = tiny_onnx.make()
    model.opset_import[0].version = opset
    with pytest.raises(ModelError, match="export it again with opset_version=20"):
        adopted(model)


def test_a_batch_in_the_graph_itself_is_refused() -> None:
    model = tiny_onnx.make(batch=4)
    model.graph.initializer.append(numpy_helper.from_array(np.array([4, 8], np.int64), "shape"))
    for node in model.graph.node:
        if node.op_type == "Flatten":
            node.CopyFrom(helper.make_node("Reshape", ["g", "shape"], ["f"]))
    with pytest.raises(ModelError, match="export it with batch 1"):
        adopted(model)
