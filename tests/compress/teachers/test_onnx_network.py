"""Anybody's ONNX file as the network of a bundle: what is asked for in one go, and what comes out."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import tiny_onnx
from onnx import TensorProto, helper

from medfm_compress.compress.teachers.description import TODO, read_description
from medfm_compress.compress.teachers.onnx_network import OnnxNetwork, network_of_onnx
from medfm_compress.compress.teachers.source import TeacherSource
from medfm_compress.data.strict_yaml import load_yaml
from medfm_compress.runtime.errors import ModelError, UndescribedModel
from medfm_compress.runtime.sessions.table import open_session_from_bytes
from medfm_compress.runtime.task import Task

ABC = Task(kind="multiclass", labels=("a", "b", "c"))
IMAGES = np.random.default_rng(0).normal(size=(6, 3, tiny_onnx.SIDE, tiny_onnx.SIDE)).astype(np.float32)


def source_of(path: str, **said: object) -> TeacherSource:
    spec = Path(path).with_suffix(".spec.json")
    return TeacherSource(source=path, spec=str(spec) if spec.exists() else "", **said)  # type: ignore[arg-type]


def agrees(taken: OnnxNetwork) -> bool:
    """Whether the graph computes what the file does."""
    session = open_session_from_bytes("onnxruntime", [taken.network.content], 1, "fp32")
    logits = np.concatenate([session.run({"image": image[None]})["logits"] for image in IMAGES])
    return bool(np.allclose(logits, taken.network.reference(IMAGES), atol=1e-3))


def test_all_that_is_missing_is_asked_for_at_once(tmp_path: Path) -> None:
    path = tiny_onnx.write(tmp_path / "net.onnx", tiny_onnx.make(ending=("Tanh",)), spec=None)
    with pytest.raises(UndescribedModel) as caught:
        network_of_onnx(TeacherSource(source=path), ABC)
    message = str(caught.value)
    for part in (
        "how its images are prepared",
        "what its 3 output(s) mean",
        "whether it gives logits or probabilities",
    ):
        assert part in message
    text = caught.value.text
    assert "the study's are a, b, c" in text and "'x' float32 [n, 3, 16, 16]" in text and "opset 17" in text
    values = load_yaml(text.encode(), "the file")
    assert (values["height_px"], values["width_px"], values["colour"]) == (16, 16, "rgb")
    assert {key for key, value in values.items() if value == TODO} == {
        *("mean", "std", "resize", "filter", "labels", "outputs"),
    }
    ready = tmp_path / "net.spec.yaml"
    ready.write_text(text)
    with pytest.raises(ModelError, match=f"still says {TODO} at mean, std, resize, filter, labels, outputs"):
        network_of_onnx(TeacherSource(source=path, spec=str(ready)), ABC)
    for key, value in (
        ("mean", "[0.4, 0.5, 0.6]"),
        ("std", "[0.2, 0.25, 0.3]"),
        ("resize", "stretch"),
        ("filter", "bilinear"),
        ("labels", "[c, a, b]"),
        ("outputs", "logits"),
    ):
        text = text.replace(f"\n{key}: {TODO}", f"\n{key}: {value}")
    ready.write_text(text)
    taken = network_of_onnx(TeacherSource(source=path, spec=str(ready)), ABC)
    assert taken.card.task.labels == ABC.labels and agrees(taken)


@pytest.mark.parametrize(
    ("ending", "task"),
    [
        ((), ABC),
        (("Softmax",), ABC),
        (("Softmax", "Identity"), ABC),
        (("LogSoftmax",), ABC),
        (("Sigmoid",), Task(kind="multilabel", labels=("a", "b", "c"))),
    ],
)
@pytest.mark.parametrize("labels", [("a", "b", "c"), ("c", "a", "b")])
def test_logits_of_the_study_come_out(
    ending: tuple[str, ...], task: Task, labels: tuple[str, ...], tmp_path: Path
) -> None:
    path = tiny_onnx.write(tmp_path / "net.onnx", tiny_onnx.make(ending=ending))
    taken = network_of_onnx(source_of(path, labels=labels), task)
    assert taken.card.task == task and agrees(taken)
    z = network_of_onnx(source_of(tiny_onnx.write(tmp_path / "bare.onnx"), labels=labels), task).network
    ours, expected = taken.network.reference(IMAGES), z.reference(IMAGES)
    if task.kind == "multiclass":
        ours, expected = (values - values.mean(1, keepdims=True) for values in (ours, expected))
    np.testing.assert_allclose(ours, expected, atol=1e-3)


def test_one_sigmoid_is_two_labels(tmp_path: Path) -> None:
    binary = Task(kind="binary", labels=("normal", "finding"))
    path = tiny_onnx.write(tmp_path / "net.onnx", tiny_onnx.make(ending=("Sigmoid",), outputs=1))
    for labels in (binary.labels, binary.labels[::-1]):
        taken = network_of_onnx(source_of(path, labels=labels), binary)
        assert agrees(taken)
        assert (taken.network.reference(IMAGES)[:, labels.index("normal")] == 0).all() or labels[0] == "finding"


@pytest.mark.parametrize(
    "form", [{"nhwc": True}, {"batch": 1}, {"batch": 4}, {"sides": ("h", "w")}, {"dtype": TensorProto.FLOAT16}]
)
def test_other_forms_are_taken_over(form: dict[str, object], tmp_path: Path) -> None:
    path = tiny_onnx.write(tmp_path / "net.onnx", tiny_onnx.make(**form))  # type: ignore[arg-type]
    taken = network_of_onnx(source_of(path, labels=ABC.labels), ABC)
    assert agrees(taken)
    assert any("FP16 widened to FP32" in step for step in taken.network.steps) == ("dtype" in form)


@pytest.mark.parametrize(
    ("ending", "outputs", "kind", "labels"),
    [
        (("Softmax",), 2, "binary", ("output-0", "output-1")),
        (("Softmax",), 3, "multiclass", ("output-0", "output-1", "output-2")),
        (("Sigmoid",), 3, "multilabel", ("output-0", "output-1", "output-2")),
        (("Sigmoid",), 1, "binary", ("no output-0", "output-0")),
    ],
)
def test_without_a_study_the_file_decides(
    ending: tuple[str, ...], outputs: int, kind: str, labels: tuple[str, ...], tmp_path: Path
) -> None:
    path = tiny_onnx.write(tmp_path / "net.onnx", tiny_onnx.make(ending=ending, outputs=outputs))
    taken = network_of_onnx(source_of(path), None)
    assert (taken.card.task.kind, taken.card.task.labels) == (kind, labels)
    assert agrees(taken)


def test_without_a_study_logits_do_not_say_whether_labels_exclude_each_other(tmp_path: Path) -> None:
    path = tiny_onnx.write(tmp_path / "net.onnx")
    with pytest.raises(UndescribedModel, match="whether its labels exclude each other") as caught:
        network_of_onnx(source_of(path), None)
    assert f"kind: {TODO}" in caught.value.text
    assert "mean: [0.4,0.5,0.6]" in caught.value.text  # what was said already stands in it
    ready = tmp_path / "ready.yaml"
    ready.write_text(caught.value.text.replace(f"kind: {TODO}", "kind: multilabel"))
    assert network_of_onnx(TeacherSource(source=path, spec=str(ready)), None).card.task.kind == "multilabel"


@pytest.mark.parametrize(
    "noted", ['["x", "y", "z"]', "{0: 'x', 1: 'y', 2: 'z'}", '{"2": "z", "0": "x", "1": "y"}', "x,y, z"]
)
def test_labels_that_the_file_notes_are_taken_without_a_study(noted: str, tmp_path: Path) -> None:
    model = tiny_onnx.make(ending=("Softmax",))
    helper.set_model_props(model, {"names": noted})
    taken = network_of_onnx(source_of(tiny_onnx.write(tmp_path / "net.onnx", model)), None)
    assert taken.card.task.labels == ("x", "y", "z")


@pytest.mark.parametrize("noted", ['["x", "y"]', '["x", "x", "y"]', "{'a': 1}", "[" * 5000, "7"])
def test_labels_that_are_none_are_not_taken(noted: str, tmp_path: Path) -> None:
    model = tiny_onnx.make(ending=("Softmax",))
    helper.set_model_props(model, {"names": noted})
    taken = network_of_onnx(source_of(tiny_onnx.write(tmp_path / "net.onnx", model)), None)
    assert taken.card.task.labels[0] == "output-0"


@pytest.mark.parametrize(
    ("said", "study", "message"),
    [
        ({"labels": ("a", "b")}, ABC, "has 3 outputs, but 2 labels"),
        ({"labels": ("a", "b")}, None, "has 3 outputs, but 2 labels"),
        ({"labels": ("x", "y", "z")}, ABC, "no label of net"),
        ({"labels": ("a", "b", "c"), "mapping": {"a": "b"}}, None, "needs the study"),
        ({"labels": ("a", "b", "c"), "outputs": "sigmoid"}, ABC, "--teacher-outputs sigmoid cannot be so"),
    ],
)
def test_what_contradicts_the_file_is_refused(
    said: dict[str, object], study: Task | None, message: str, tmp_path: Path
) -> None:
    path = tiny_onnx.write(tmp_path / "net.onnx", tiny_onnx.make())
    spec = tmp_path / "net.spec.json"
    if study is None:
        spec.write_text(spec.read_text().rstrip().removesuffix("}") + ',"kind": "multiclass"}')
    with pytest.raises(ModelError, match=message):
        network_of_onnx(source_of(path, **said), study)


def test_options_and_file_must_say_the_same(tmp_path: Path) -> None:
    path = tiny_onnx.write(tmp_path / "net.onnx")
    spec = tmp_path / "net.spec.json"
    spec.write_text(spec.read_text().rstrip().removesuffix("}") + ',"labels": ["a", "b", "c"]}')
    assert read_description(str(spec)).beside.labels == ABC.labels
    assert network_of_onnx(source_of(path), ABC).card.task == ABC
    with pytest.raises(ModelError, match=r"--teacher-labels and --teacher-spec .* say different things"):
        network_of_onnx(source_of(path, labels=("c", "b", "a")), ABC)


def test_a_line_that_is_deleted_is_asked_for_like_one_that_is_not_filled_in(tmp_path: Path) -> None:
    path = tiny_onnx.write(tmp_path / "net.onnx")
    spec = tmp_path / "net.spec.json"
    whole = json.loads(spec.read_text()) | {"kind": "multiclass", "outputs": "logits"}
    for names, allowed in (
        (("resize", "filter"), r"\(resize: stretch, shortest, longest; filter: nearest, bilinear, bicubic\)$"),
        (("filter",), r"\(filter: nearest, bilinear, bicubic\)$"),
        (("mean", "std"), "trained with$"),
        (("height_px",), "trained with$"),
    ):
        spec.write_text(json.dumps({name: value for name, value in whole.items() if name not in names}))
        with pytest.raises(ModelError, match=f"does not say {', '.join(names)}, and a wrong guess.*{allowed}"):
            network_of_onnx(source_of(path), None)


@pytest.mark.parametrize(
    ("mean", "std", "said"),
    [
        ([123.675, 116.28, 103.53], [58.395, 57.12, 57.375], r"mean is \[123.675, 116.28, 103.53\]"),
        ([0.0, 0.0, 0.0], [255.0, 255.0, 255.0], r"std is \[255.0, 255.0, 255.0\]"),
        ([0.4, 0.4, 1.5], [0.2, 0.2, 0.2], "mean is"),
        ([-0.5, 0.4, 0.5], [0.2, 0.2, 0.2], "mean is"),
        ([0.0, 0.0, 0.0], [1.0, 1.0, 1.0], ""),
        ([1.0, 0.5, 0.0], [1 / 255] * 3, ""),
    ],
)
def test_mean_and_std_of_pixels_to_255_are_refused(
    mean: list[float], std: list[float], said: str, tmp_path: Path
) -> None:
    spec = tmp_path / "net.spec.json"
    spec.write_text(json.dumps({"height_px": 16, "width_px": 16, "colour": "rgb", "mean": mean, "std": std}))
    if not said:
        assert read_description(str(spec)).spec.std == tuple(std)
        return
    with pytest.raises(ModelError, match=f"{said}.*; pixels are in .0, 1. here.*divide mean and std by 255"):
        read_description(str(spec))


def test_images_of_another_size_are_refused(tmp_path: Path) -> None:
    path = tiny_onnx.write(tmp_path / "net.onnx", tiny_onnx.make(sides=(32, 32)))
    with pytest.raises(ModelError, match=r"takes images of 3×32×32 .* describes 3×16×16"):
        network_of_onnx(source_of(path, labels=ABC.labels), ABC)


def test_a_network_of_the_whole_batch_is_refused(tmp_path: Path) -> None:
    model = tiny_onnx.make(ending=("Identity",))
    model.graph.node.pop()
    model.graph.node.extend(
        [
            helper.make_node("ReduceMean", ["z0"], ["mean"], axes=[0], keepdims=1),
            helper.make_node("Sub", ["z0", "mean"], ["z1"]),
        ]
    )
    onnx.checker.check_model(model)
    path = tiny_onnx.write(tmp_path / "net.onnx", model)
    with pytest.raises(ModelError, match="depends on the others in its batch"):
        network_of_onnx(source_of(path, labels=ABC.labels), ABC)
