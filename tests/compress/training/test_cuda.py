"""Training on a GPU: it learns as on a CPU, in every precision, and what it leaves runs anywhere."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from medfm_compress.compress.distillation.distill import distill
from medfm_compress.compress.distillation.options import Distillation
from medfm_compress.compress.networks.build import build_model
from medfm_compress.compress.networks.model import load_model, save_model
from medfm_compress.compress.networks.torch_session import open_session
from medfm_compress.compress.teachers.module_teacher import ModuleTeacher
from medfm_compress.compress.training.config import TrainingConfig
from medfm_compress.compress.training.dataset import task_of
from medfm_compress.compress.training.finetune import finetune
from medfm_compress.data.study import Study

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


def config(device: str, precision: str = "fp32", **changes: object) -> TrainingConfig:
    return TrainingConfig(
        epochs=2, batch_size=12, learning_rate=1e-3, ema=0.5, device=device, precision=precision, modality="none",
        patience=0, **changes,
    )  # fmt: skip


def losses(study: Study, settings: TrainingConfig, out: Path) -> list[float]:
    """Mean loss of each epoch of a small network."""
    torch.manual_seed(0)
    model = build_model("test_resnet", task_of(study), size_px=48, colour="grey")
    lines: list[str] = []
    finetune(study, model, settings, out, lines.append)
    return [float(line.split("loss")[1].split()[0]) for line in lines if line.startswith("epoch")]


def test_the_first_epoch_is_the_cpu_s(discs: Study, tmp_path: Path) -> None:
    there, here = (losses(discs, config(device), tmp_path / device) for device in ("cuda", "cpu"))
    assert there[0] == pytest.approx(here[0], rel=0.02)


@pytest.mark.parametrize(("precision", "compiled"), [("bf16", False), ("fp32", True), ("bf16", True)])
def test_every_precision_learns(discs: Study, tmp_path: Path, precision: str, compiled: bool) -> None:
    actual = losses(discs, config("cuda", precision, compile=compiled), tmp_path / "out")
    assert actual[1] < actual[0] * 1.1


def test_a_student_of_a_gpu_runs_on_a_cpu(discs: Study, tmp_path: Path) -> None:
    torch.manual_seed(0)
    teacher, student = (build_model("test_resnet", task_of(discs), size_px=48, colour="grey") for _ in range(2))
    settings = config("cuda")
    distill((discs,), ModuleTeacher(teacher, "cuda"), student, settings, tmp_path / "s", print, Distillation(views=1))
    image = torch.rand(1, 1, 48, 48)
    with torch.inference_mode():
        assert torch.isfinite(load_model(tmp_path / "s").module(image)).all()


def test_both_devices_answer_alike(discs: Study, tmp_path: Path) -> None:
    torch.manual_seed(0)
    folder = save_model(build_model("test_resnet", task_of(discs), size_px=48, colour="grey"), tmp_path / "m")
    image = torch.rand(1, 1, 48, 48).numpy()
    answers = [open_session(str(folder), device=device).run({"image": image})["logits"] for device in ("cuda", "cpu")]
    assert answers[0] == pytest.approx(answers[1], abs=1e-3)
