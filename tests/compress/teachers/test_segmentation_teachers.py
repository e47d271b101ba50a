"""Teachers of a segmentation: networks with their weights, ONNX files with maps, and what is no mask."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

pytest.importorskip("segmentation_models_pytorch")

import torch
import yaml
from onnx import TensorProto, helper, numpy_helper
from safetensors.torch import save_file

from medfm_compress.compress.networks.build import build_model
from medfm_compress.compress.networks.model import save_model
from medfm_compress.compress.teachers.module_teacher import ModuleTeacher
from medfm_compress.compress.teachers.onnx_network import network_of_onnx
from medfm_compress.compress.teachers.open import TeacherSource, open_teacher
from medfm_compress.compress.teachers.structure_mapping import refuse_other_kind, structure_map
from medfm_compress.compress.teachers.teacher import Teacher
from medfm_compress.compress.training.config import TrainingConfig
from medfm_compress.runtime.errors import InputError, ModelError
from medfm_compress.runtime.task import Task

STUDY = Task(kind="segmentation", labels=("nucleus", "border"))
ONE = Task(kind="segmentation", labels=("lesion",))
SPEC = {
    "height_px": 32,
    "width_px": 32,
    "colour": "rgb",
    "mean": [0.4, 0.5, 0.6],
    "std": [0.2, 0.25, 0.3],
    "resize": "stretch",
    "filter": "bilinear",
}
ENCODER = "tu-mobilenetv3_small_050"


def opened(source: str, study: Task, folder: Path, said: dict[str, Any] | None = None, **options: Any) -> Teacher:
    spec = folder / "spec.yaml"
    spec.write_text(yaml.safe_dump(SPEC | (said or {})))
    described = TeacherSource(source=source, spec=str(spec), **options)
    teacher = open_teacher((described,), study, TrainingConfig(device="cpu"))
    assert not hasattr(teacher, "header")
    return teacher  # type: ignore[return-value]


def probabilities(logits: torch.Tensor) -> torch.Tensor:
    return torch.softmax(torch.cat([torch.zeros_like(logits[:, :1]), logits], 1), 1)


def test_a_map_of_the_background_becomes_a_logit_of_zero() -> None:
    z = torch.randn(2, 4, 3, 3)
    mapped = structure_map(((2,), (1,)), ("Background", "border", "nucleus", "debris"))(z)
    p = torch.softmax(z, 1)
    expected = torch.stack([p[:, 0] + p[:, 3], p[:, 2], p[:, 1]], 1)
    assert torch.allclose(probabilities(mapped), expected, atol=1e-6)


def test_a_map_that_is_left_out_joins_an_implied_background() -> None:
    z = torch.randn(2, 2, 3, 3)
    mapped = structure_map(((1,),), ("border", "nucleus"))(z)
    p = probabilities(z)
    assert torch.allclose(probabilities(mapped), torch.stack([p[:, 0] + p[:, 1], p[:, 2]], 1), atol=1e-6)
    assert not structure_map(((0,), (1,)), ("a", "b")).changes(2)


def test_a_state_dict_of_the_library_with_a_wider_decoder(tmp_path: Path) -> None:
    arguments = {"decoder_channels": [64, 32, 16, 16, 8]}
    model = build_model(f"smp:unet/{ENCODER}", ONE, size_px=32, colour="rgb", arguments=arguments)
    save_file(model.module.state_dict(), tmp_path / "net.safetensors")
    weights = str(tmp_path / "net.safetensors")
    for said in ({"labels": ["lesion"], "architecture": {"arguments": arguments}}, {"labels": ["lesion"]}):
        teacher = opened(f"smp:unet/{ENCODER}", ONE, tmp_path, said, weights=weights)
        images = torch.rand(3, 3, 32, 32)
        mean, std = (torch.tensor(SPEC[name]).reshape(1, 3, 1, 1) for name in ("mean", "std"))
        with torch.inference_mode():
            assert torch.allclose(teacher.answer(images).logits, model.module((images - mean) / std), atol=1e-5)
    assert "map" in teacher.card.features
    with pytest.raises(ModelError, match=r"does not fit the architecture.*architecture: arguments"):
        opened("smp:unet/tu-mobilenetv3_small_100", ONE, tmp_path, {"labels": ["lesion"]}, weights=weights)
    with pytest.raises(ModelError, match="give its labels in the order of its outputs"):
        opened(f"smp:unet/{ENCODER}", ONE, tmp_path, weights=weights)
    with pytest.raises(ModelError, match=r"2 labels .* give one for each output"):
        opened(f"smp:unet/{ENCODER}", STUDY, tmp_path, {"labels": ["nucleus", "border"]}, weights=weights)
    with pytest.raises(InputError, match="the image spec crops"):
        opened(f"smp:unet/{ENCODER}", ONE, tmp_path, {"labels": ["lesion"], "resize": "shortest"}, weights=weights)


def test_a_network_with_a_map_of_the_background_teaches_features_too(tmp_path: Path) -> None:
    three = Task(kind="segmentation", labels=("background", "border", "nucleus"))
    model = build_model(f"smp:unet/{ENCODER}", three, size_px=32, colour="rgb")
    save_file(model.module.state_dict(), tmp_path / "net.safetensors")
    said = {"labels": list(three.labels)}
    teacher = opened(f"smp:unet/{ENCODER}", STUDY, tmp_path, said, weights=str(tmp_path / "net.safetensors"))
    assert isinstance(teacher, ModuleTeacher)
    images = torch.rand(2, 3, 32, 32)
    plain, with_map = teacher.answer(images), teacher.answer(images, ("map",))
    assert plain.logits.shape == (2, 2, 32, 32)
    assert torch.allclose(plain.logits, with_map.logits, atol=1e-5)
    assert with_map.features["map"].ndim == 4
    assert "background: background" in teacher.card.steps[-1]


def test_networks_of_the_other_kind_are_refused(tmp_path: Path) -> None:
    model = build_model(f"smp:unet/{ENCODER}", ONE, size_px=32, colour="rgb")
    save_model(model, tmp_path / "dense")
    flat = build_model("test_resnet", Task(kind="binary", labels=("a", "b")), size_px=32, colour="rgb")
    save_model(flat, tmp_path / "flat")
    config = TrainingConfig(device="cpu")
    with pytest.raises(ModelError, match="answers for every pixel and the study is binary"):
        open_teacher((TeacherSource(source=str(tmp_path / "dense")),), flat.task, config)
    with pytest.raises(ModelError, match="which is no mask"):
        open_teacher((TeacherSource(source=str(tmp_path / "flat")),), ONE, config)
    with pytest.raises(ModelError, match=r"no label of .* means 'nucleus'"):
        open_teacher(
            (TeacherSource(source=str(tmp_path / "dense")),), Task(kind="segmentation", labels=("nucleus",)), config
        )
    named = TeacherSource(source="monai:unet", weights=str(tmp_path / "dense" / "model.safetensors"))
    with pytest.raises(ModelError, match="how its images are prepared"):
        open_teacher((named,), ONE, config)


@pytest.mark.parametrize("study", [ONE, Task(kind="binary", labels=("a", "b"))], ids=["masks", "labels"])
def test_logits_with_sides_of_one_pixel_are_said_so(study: Task) -> None:
    with pytest.raises(
        ModelError, match=r"net gives \(1, 3, 1, 1\) for one image; a classifier's logits must be \(1, labels\)"
    ):
        refuse_other_kind("net", (3, 1, 1), study, (32, 32))


def write_onnx(
    path: Path, maps: int, ending: str = "", *, stride: int = 1, kind: int = TensorProto.FLOAT, nhwc: bool = False
) -> str:
    """A convolution, ``ending`` after it, and perhaps an ArgMax."""
    weights = np.random.default_rng(1).normal(0, 1, (maps, 3, 3, 3)).astype(np.float32)
    side = 32 // stride
    nodes = []
    if nhwc:
        nodes.append(helper.make_node("Transpose", ["image"], ["turned"], perm=[0, 3, 1, 2]))
    nodes.append(
        helper.make_node("Conv", ["turned" if nhwc else "image", "w"], ["z"], pads=[1, 1, 1, 1], strides=[stride] * 2)
    )
    last = "z"
    if ending:
        attributes = {"axis": 1} if ending in ("Softmax", "ArgMax") else {}
        nodes.append(helper.make_node(ending, [last], ["end"], **attributes))
        last = "end"
    shape: list[int | str] = ["n", 1 if ending == "ArgMax" else maps, side, side]
    if nhwc:
        nodes.append(helper.make_node("Transpose", [last], ["back"], perm=[0, 2, 3, 1]))
        last, shape = "back", ["n", side, side, maps]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 32, 32, 3] if nhwc else ["n", 3, 32, 32])
    output = helper.make_tensor_value_info(last, kind, shape)
    graph = helper.make_graph(nodes, "g", [image], [output], [numpy_helper.from_array(weights, "w")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return str(path)


def convolved(images: torch.Tensor, maps: int) -> torch.Tensor:
    weights = torch.from_numpy(np.random.default_rng(1).normal(0, 1, (maps, 3, 3, 3)).astype(np.float32))
    mean, std = (torch.tensor(SPEC[name]).reshape(1, 3, 1, 1) for name in ("mean", "std"))
    return torch.nn.functional.conv2d((images - mean) / std, weights, padding=1)


@pytest.mark.parametrize("nhwc", [False, True])
def test_onnx_maps_of_a_sigmoid_are_taken_back_to_logits(tmp_path: Path, nhwc: bool) -> None:
    path = write_onnx(tmp_path / "net.onnx", 1, "Sigmoid", nhwc=nhwc)
    teacher = opened(path, ONE, tmp_path, {"labels": ["lesion"]})
    images = torch.rand(9, 3, 32, 32)
    assert torch.allclose(teacher.answer(images).logits.sigmoid(), convolved(images, 1).sigmoid(), atol=1e-5)


def test_onnx_maps_of_a_softmax_lose_their_background(tmp_path: Path) -> None:
    path = write_onnx(tmp_path / "net.onnx", 3, "Softmax")
    teacher = opened(path, STUDY, tmp_path, {"labels": ["background", "nucleus", "border"]})
    images = torch.rand(2, 3, 32, 32)
    assert torch.allclose(probabilities(teacher.answer(images).logits), convolved(images, 3).softmax(1), atol=1e-5)
    with pytest.raises(ModelError, match="none of its labels is 'background'"):
        opened(path, STUDY, tmp_path, {"labels": ["debris", "nucleus", "border"]})


def test_onnx_maps_of_logits(tmp_path: Path) -> None:
    path = write_onnx(tmp_path / "net.onnx", 2)
    teacher = opened(path, STUDY, tmp_path, {"labels": ["nucleus", "border"], "outputs": "logits"})
    images = torch.rand(2, 3, 32, 32)
    assert torch.allclose(teacher.answer(images).logits, convolved(images, 2), atol=1e-5)


def test_an_onnx_file_whose_output_is_not_a_mask_is_refused(tmp_path: Path) -> None:
    labels = {"labels": ["lesion"]}
    with pytest.raises(ModelError, match=r"gives maps of 16×16 for images of 32×32 px, which is no mask"):
        opened(write_onnx(tmp_path / "small.onnx", 1, "Sigmoid", stride=2), ONE, tmp_path, labels)
    with pytest.raises(ModelError, match="without the ArgMax"):
        opened(write_onnx(tmp_path / "map.onnx", 2, "ArgMax", kind=TensorProto.INT64), ONE, tmp_path, labels)
    path = write_onnx(tmp_path / "net.onnx", 1, "Sigmoid")
    with pytest.raises(ModelError, match="answers for every pixel and the study is multilabel"):
        opened(path, Task(kind="multilabel", labels=("lesion",)), tmp_path, labels)
    with pytest.raises(ModelError, match="has 1 outputs, but 2 labels"):
        opened(path, STUDY, tmp_path, {"labels": ["nucleus", "border"]})


@pytest.mark.parametrize("study", [None, STUDY])
@pytest.mark.parametrize("nhwc", [False, True])
def test_an_onnx_file_with_maps_becomes_the_network_of_a_bundle(tmp_path: Path, study: Task | None, nhwc: bool) -> None:
    path = write_onnx(tmp_path / "net.onnx", 4, "Softmax", nhwc=nhwc)
    labels = ["background", "nucleus", "border"] + (["debris"] if study else ["cytoplasm"])
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(SPEC | {"labels": labels}))
    network, card = network_of_onnx(TeacherSource(source=path, spec=str(tmp_path / "spec.yaml")), study)
    assert card.task.labels == ("nucleus", "border") if study else ("nucleus", "border", "cytoplasm")
    session = onnxruntime.InferenceSession(network.content, providers=["CPUExecutionProvider"])
    image = np.random.default_rng(0).normal(0, 1, (1, 3, 32, 32)).astype(np.float32)
    (logits,) = session.run(None, {session.get_inputs()[0].name: image})
    np.testing.assert_allclose(logits, network.reference(image), atol=1e-4)
    assert logits.shape == (1, len(card.task.labels), 32, 32)


def test_the_mapping_in_a_graph_is_that_of_the_teacher(tmp_path: Path) -> None:
    path = write_onnx(tmp_path / "net.onnx", 3, "Sigmoid")
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(SPEC | {"labels": ["debris", "border", "nucleus"]}))
    network, _ = network_of_onnx(TeacherSource(source=path, spec=str(tmp_path / "spec.yaml")), STUDY)
    session = onnxruntime.InferenceSession(network.content, providers=["CPUExecutionProvider"])
    image = np.random.default_rng(0).normal(0, 1, (1, 3, 32, 32)).astype(np.float32)
    (logits,) = session.run(None, {session.get_inputs()[0].name: image})
    np.testing.assert_allclose(logits, network.reference(image), atol=1e-4)
