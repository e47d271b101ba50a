"""Whatever teaches can be opened by a fresh process as a session, and answers there as it taught."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper

from medfm_compress.bench.measure.latency import ModelUnderTest, Plan, measure
from medfm_compress.compress.networks.build import build_model
from medfm_compress.compress.networks.model import Model, save_model
from medfm_compress.compress.networks.torch_session import TorchSession
from medfm_compress.compress.teachers.open import TeacherSource, open_teacher
from medfm_compress.compress.teachers.session import open_session
from medfm_compress.compress.training.config import TrainingConfig
from medfm_compress.runtime.errors import ModelError
from medfm_compress.runtime.image_spec import ImageSpec
from medfm_compress.runtime.strict_json import encode
from medfm_compress.runtime.task import Task
from medfm_compress.teacher_baselines import Reference

STUDY = Task(kind="binary", labels=("normal", "finding"))
SPEC = ImageSpec(height_px=8, width_px=8, colour="rgb", mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3))


@pytest.fixture
def folder(tmp_path: Path) -> TeacherSource:
    torch.manual_seed(0)
    model: Model = build_model("test_resnet", STUDY, size_px=40, colour="grey")
    return TeacherSource(source=str(save_model(model, tmp_path / "folder")))


@pytest.fixture
def graph(tmp_path: Path) -> TeacherSource:
    """A linear network that ends in a softmax, so that its outputs are no logits."""
    weights = np.random.default_rng(0).normal(0, 0.3, (3 * 8 * 8, 2)).astype(np.float32)
    nodes = [
        helper.make_node("Flatten", ["image"], ["flat"], axis=1),
        helper.make_node("MatMul", ["flat", "w"], ["x"]),
        helper.make_node("Softmax", ["x"], ["p"]),
    ]
    image = helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, ["n", 3, 8, 8])
    output = helper.make_tensor_value_info("p", onnx.TensorProto.FLOAT, ["n", 2])
    made = helper.make_graph(nodes, "g", [image], [output], [numpy_helper.from_array(weights, "w")])
    onnx.save(helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), tmp_path / "net.onnx")
    (tmp_path / "spec.json").write_bytes(encode(SPEC))
    return TeacherSource(source=str(tmp_path / "net.onnx"), labels=STUDY.labels, spec=str(tmp_path / "spec.json"))


def session_of(*sources: TeacherSource) -> object:
    return open_session([msgspec.to_builtins(source) for source in sources], msgspec.to_builtins(STUDY))


def test_an_onnx_file_answers_in_logits_of_normalised_images(graph: TeacherSource) -> None:
    images = torch.rand(5, 3, 8, 8)
    expected = open_teacher((graph,), STUDY, TrainingConfig(device="cpu")).answer(images).logits
    normalised = (images - torch.tensor(SPEC.mean)[:, None, None]) / torch.tensor(SPEC.std)[:, None, None]
    answered = session_of(graph).run({"image": normalised.numpy()})["logits"]
    np.testing.assert_allclose(answered, expected.numpy(), atol=1e-5)


def test_several_are_averaged(folder: TeacherSource) -> None:
    session = session_of(folder, folder)
    image = np.random.default_rng(0).normal(size=(1, 1, 40, 40)).astype(np.float32)
    alone = session_of(folder).run({"image": image})["logits"]
    together = session.run({"image": image})["logits"]
    np.testing.assert_allclose(np.diff(together), np.diff(alone), atol=1e-5)


def test_a_network_runs_as_itself_without_a_detour(folder: TeacherSource) -> None:
    assert isinstance(session_of(folder), TorchSession)


def test_cached_outputs_know_nothing_of_other_images(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no cached answers"):
        session_of(TeacherSource(source=f"outputs:{tmp_path}"))


def test_a_bench_times_an_onnx_teacher_in_a_fresh_process(
    graph: TeacherSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    relative = msgspec.structs.replace(graph, source="net.onnx", spec="spec.json")
    reference = Reference((relative,), STUDY, threads=1)
    assert reference.model is None, "there is no module to export"
    assert reference.ref.size_bytes == (tmp_path / "net.onnx").stat().st_size
    ref = reference.ref
    model = ModelUnderTest(
        name="teacher", session=ref.session, spec=ref.spec, task=ref.task, size_bytes=ref.size_bytes, files=()
    )
    (measurement,) = measure([model], Plan(rounds=10, turn_ms=1, warm_up_s=0.1))
    assert measurement.session_ms and "onnxruntime" in measurement.target


def test_labels_that_are_mapped_are_mapped_in_the_bench_as_well(folder: TeacherSource) -> None:
    """A permutation leaves the task as it was, and the answers not."""
    swapped = msgspec.structs.replace(folder, mapping={"normal": "finding", "finding": "normal"})
    image = np.random.default_rng(0).normal(size=(1, 1, 40, 40)).astype(np.float32)
    plain, other = (
        Reference((source,), STUDY, threads=1).ref.session.open().run({"image": image})["logits"]
        for source in (folder, swapped)
    )
    np.testing.assert_allclose(np.diff(other), -np.diff(plain), atol=1e-5)


def test_a_model_folder_is_opened_by_the_session_of_model_folders(folder: TeacherSource) -> None:
    reference = Reference((folder,), STUDY, threads=1)
    assert reference.ref.session.opener.endswith("torch_session:open_session")
    assert reference.model is not None and reference.ref.name == "test_resnet"
