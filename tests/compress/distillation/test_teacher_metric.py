"""The teacher's own metric is told before it teaches, and one that is worse than chance does not teach."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from medfm_compress.compress.distillation.distill import distill
from medfm_compress.compress.distillation.options import Distillation
from medfm_compress.compress.distillation.teacher_metric import check_teacher, metric_of
from medfm_compress.compress.networks.build import build_model
from medfm_compress.compress.teachers.output_cache import OutputCache
from medfm_compress.compress.teachers.outputs import TeacherOutputs
from medfm_compress.compress.teachers.teacher import TeacherCard
from medfm_compress.compress.training.config import TrainingConfig
from medfm_compress.compress.training.dataset import task_of
from medfm_compress.data.study import Study
from medfm_compress.runtime.errors import ModelError
from medfm_compress.runtime.image_spec import ImageSpec
from medfm_compress.runtime.task import Task

ONCE = TrainingConfig(epochs=1, batch_size=12, precision="fp32")
SPEC = ImageSpec(height_px=48, width_px=48, colour="grey", mean=(0.5,), std=(0.25,))


class Brightness:
    """Takes images with bright places for the second label, or where ``sign`` is −1 for the first."""

    engine = "pytorch fp32"

    def __init__(self, study: Study, sign: int) -> None:
        self.sign = sign
        self.card = TeacherCard(name="brightness", identity=f"brightness@{sign}", spec=SPEC, task=task_of(study))

    def answer(self, images: Tensor, features: tuple[str, ...] = ()) -> TeacherOutputs:
        blurred = torch.nn.functional.avg_pool2d(images, 7, 1)
        score = (blurred.amax((1, 2, 3)) - 0.5) * 20 * self.sign
        return TeacherOutputs(torch.stack([-score, score], 1))


def taught(study: Study, teacher: Brightness | OutputCache, out: Path) -> list[str]:
    torch.manual_seed(0)
    student = build_model("test_resnet", task_of(study), size_px=48, colour="grey")
    lines: list[str] = []
    check_teacher((study,), teacher, out, lines.append)
    distill((study,), teacher, student, ONCE, out, lines.append, Distillation(views=1))
    return lines


def test_the_teachers_auroc_is_told_before_the_first_epoch(discs: Study, tmp_path: Path) -> None:
    lines = taught(discs, Brightness(discs, 1), tmp_path / "s")
    told = [number for number, line in enumerate(lines) if line.startswith("teacher: AUROC")]
    first = next(number for number, line in enumerate(lines) if line.startswith("epoch"))
    assert told, lines
    assert told[0] < first and lines[told[0]].endswith("on 24 validation cases")


def test_swapped_labels_do_not_teach(discs: Study, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"worse than chance on 24 validation cases: AUROC 0.* --map"):
        taught(discs, Brightness(discs, -1), tmp_path / "s")
    assert not (tmp_path / "s" / "model.json").exists()


def test_cached_answers_are_held_against_training_labels(discs: Study, tmp_path: Path) -> None:
    taught(discs, Brightness(discs, 1), tmp_path / "s")
    store = OutputCache.open(tmp_path / "s" / "training" / "teacher-outputs")
    assert any("on 48 training cases" in line for line in taught(discs, store, tmp_path / "again"))
    for path in store.folder.glob("logits-*.npy"):
        np.save(path, -np.load(path))
    with pytest.raises(ModelError, match="worse than chance on 48 training cases"):
        taught(discs, OutputCache.open(store.folder), tmp_path / "opposite")


def test_three_labels_in_another_order_are_found() -> None:
    task = Task(kind="multiclass", labels=("a", "b", "c"))
    targets = np.arange(30)[:, None] % 3
    right = 4 * torch.eye(3)[targets[:, 0]] + torch.rand(30, 3, generator=torch.Generator().manual_seed(0))
    assert not metric_of(right, targets, task).below
    assert metric_of(right[:, [1, 2, 0]], targets, task).accuracy == 0
    assert any(text.startswith("accuracy") for text in metric_of(right[:, [1, 2, 0]], targets, task).below)
    assert metric_of(right[:, [0, 2, 1]], targets, task).below


def test_one_opposite_finding_of_several_is_named() -> None:
    task = Task(kind="multilabel", labels=("a", "b", "c"))
    random = np.random.default_rng(0)
    targets = random.integers(0, 2, (40, 3))
    logits = torch.from_numpy((2.0 * targets - 1) * [3, -3, 3] + random.normal(0, 1, (40, 3)))
    (below,) = metric_of(logits, targets, task).below
    assert "'b'" in below


@pytest.mark.parametrize("seed", range(20))
def test_a_teacher_that_knows_nothing_is_no_opposite_one(seed: int) -> None:
    """By chance alone few cases say little, and a constant answer says nothing."""
    task = Task(kind="binary", labels=("a", "b"))
    targets = np.array([[0], [1], [0], [1]])
    random = torch.randn(4, 2, generator=torch.Generator().manual_seed(seed))
    assert not metric_of(random, targets, task).below
    three = Task(kind="multiclass", labels=("a", "b", "c"))
    always = torch.tensor([[1.0, 0.0, 0.0]]).repeat(30, 1)
    assert not metric_of(always, np.arange(30)[:, None] % 3, three).below
    assert metric_of(torch.zeros(2, 2), np.array([[1], [1]]), task).areas == {}
