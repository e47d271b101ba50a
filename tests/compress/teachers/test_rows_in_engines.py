"""A teacher's rows in other targets: one that cannot run it is left out and named, and the others stay."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny_onnx
import torch

from medfm_compress import teacher_baselines
from medfm_compress.bench.types.target import Target
from medfm_compress.compress.networks.build import build_model
from medfm_compress.compress.networks.model import save_model
from medfm_compress.compress.teachers.source import TeacherSource
from medfm_compress.runtime.errors import BundleRefused, InputError
from medfm_compress.runtime.sessions import openvino
from medfm_compress.runtime.task import Task
from medfm_compress.teacher_baselines import Reference, check_devices, row_name, row_targets, teacher_rows

TASK = Task(kind="binary", labels=("a", "b"))
ONNXRUNTIME, OPENVINO, BF16 = map(Target.parse, ("onnxruntime:cpu", "openvino:cpu", "torch:cpu:bf16"))


@pytest.fixture
def teacher(tmp_path: Path) -> Reference:
    torch.manual_seed(0)
    model = build_model("test_resnet", TASK, size_px=32, colour="grey")
    return Reference([TeacherSource(source=str(save_model(model, tmp_path / "teacher")))], TASK, 1)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which every device can be had."""
    monkeypatch.setattr(teacher_baselines, "unavailable", lambda target: "")


def names(*texts: str, on_gpu: bool = False) -> list[str]:
    return [row_name(target) for target in row_targets(texts, on_gpu=on_gpu)]


def test_an_engine_that_cannot_run_the_teacher_is_left_out(teacher, tmp_path: Path, monkeypatch) -> None:
    rows = teacher_rows(teacher, 1, tmp_path, row_targets((), on_gpu=False))
    assert [row.name for row in rows] == ["teacher in ONNX Runtime", "teacher in OpenVINO"]

    def fail(*given: object, **named: object) -> object:
        raise BundleRefused("the model cannot be loaded: no such operator")

    monkeypatch.setattr(openvino, "open_session", fail)
    lines: list[str] = []
    rows = teacher_rows(teacher, 1, tmp_path, (ONNXRUNTIME, OPENVINO, BF16), lines.append)
    assert [row.name for row in rows] == ["teacher in ONNX Runtime", "teacher in PyTorch, BF16"]
    assert lines[-1] == "no row for the teacher in OpenVINO: the model cannot be loaded: no such operator"


def test_a_fresh_process_opens_each_row_as_it_is_called(teacher, tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    (row,) = teacher_rows(teacher, 1, tmp_path, (BF16,))
    assert torch.get_num_threads() == threads
    info = row.session.open().info
    torch.set_num_threads(threads)
    assert (info.backend, info.precision, info.provider, info.threads) == ("torch", "bf16", "cpu", 1)


def test_a_precision_in_which_it_computes_something_else_has_no_row(teacher, tmp_path: Path) -> None:
    for parameter in teacher.model.module.parameters():
        parameter.data *= 1e6  # beyond what FP16 holds
    lines: list[str] = []
    assert not teacher_rows(teacher, 1, tmp_path, (Target.parse("torch:cpu:fp16"),), lines.append)
    assert lines[0].startswith("no row for the teacher in PyTorch, FP16: ")


def test_several_teachers_are_not_one_network(tmp_path: Path, teacher, monkeypatch) -> None:
    monkeypatch.setattr(teacher, "model", None)
    lines: list[str] = []
    assert not teacher_rows(teacher, 1, tmp_path, (BF16,), lines.append)
    assert lines == [
        "several teachers are timed together, each as it is; they have no row of their own in PyTorch, BF16"
    ]


def test_an_onnx_file_is_timed_in_onnx_runtime_and_said_to_be(tmp_path: Path) -> None:
    path = tiny_onnx.write(tmp_path / "net.onnx")
    labels = ("a", "b", "c")
    source = TeacherSource(source=str(path), spec=str(tmp_path / "net.spec.json"), labels=labels)
    teacher = Reference([source], Task(kind="multiclass", labels=labels), 1)
    lines: list[str] = []
    targets = row_targets((), on_gpu=False)
    assert not teacher_rows(teacher, 1, tmp_path, targets, lines.append)
    assert not teacher_rows(teacher, 1, tmp_path, (ONNXRUNTIME,), lines.append)
    timed = "the teacher is an ONNX file and is timed in ONNX Runtime alone"
    assert lines == [f"{timed}; it has no row in OpenVINO", timed]
    assert teacher.ref.session.open().info.backend == "onnxruntime"


def test_the_targets_say_which_rows_there_are(gpu: None) -> None:
    assert names() == ["teacher in ONNX Runtime", "teacher in OpenVINO"]
    assert names("torch:cpu") == []
    assert names("torch:cpu", "openvino:cpu:int8") == ["teacher in OpenVINO"]  # its ONNX file is FP32
    assert names("torch:cpu:bf16", "torch-compile") == ["teacher in PyTorch, BF16", "teacher in compiled PyTorch"]


def test_what_runs_on_a_gpu_is_held_against_pytorch_there(gpu: None) -> None:
    assert names(on_gpu=True)[-1] == "teacher in PyTorch on CUDA"
    assert names("torch:cuda:fp16", "onnxruntime:tensorrt:fp16", "tensorrt:cuda:int8") == [
        "teacher in PyTorch on CUDA, FP16",
        "teacher in ONNX Runtime on TensorRT",
        "teacher in TensorRT",
        "teacher in PyTorch on CUDA",
    ]


def test_a_device_that_is_named_has_to_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(teacher_baselines, "unavailable", lambda target: "" if target.device == "cpu" else "no GPU")
    check_devices(("torch:cpu", "tensorrt"))  # the second names none
    with pytest.raises(InputError, match="target 'torch:cuda:fp16' cannot be measured here: no GPU; leave it out"):
        check_devices(("torch:cpu", "torch:cuda:fp16"))
    assert names("torch:cpu", on_gpu=True) == []
