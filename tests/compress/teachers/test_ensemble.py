"""Several teachers as one: the mean of their probabilities, and what must be alike for that."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
import torch

from medfm_compress.compress.distillation.options import Distillation
from medfm_compress.compress.networks.build import build_model
from medfm_compress.compress.networks.model import Model, save_model
from medfm_compress.compress.teachers.ensemble import EnsembleTeacher, mean_of
from medfm_compress.compress.teachers.module_teacher import ModuleTeacher
from medfm_compress.compress.teachers.open import TeacherSource, open_teacher
from medfm_compress.compress.teachers.outputs import TeacherOutputs
from medfm_compress.compress.teachers.teacher import TeacherCard
from medfm_compress.compress.training.config import TrainingConfig
from medfm_compress.runtime.errors import InputError, ModelError
from medfm_compress.runtime.image_spec import ImageSpec
from medfm_compress.runtime.task import Task

TASK = Task(kind="multiclass", labels=("a", "b", "c"))
SPEC = ImageSpec(height_px=8, width_px=8, colour="grey", mean=(0.5,), std=(0.25,))


class Fixed:
    """A teacher that always answers the same."""

    engine = "fixed fp32"

    def __init__(self, name: str, logits: torch.Tensor, task: Task = TASK, spec: ImageSpec = SPEC) -> None:
        self.card = TeacherCard(name=name, identity=f"{name}@1", spec=spec, task=task, family="cnn", features=("map",))
        self._logits = logits

    def answer(self, images: torch.Tensor, expected: tuple[str, ...] = ()) -> TeacherOutputs:
        return TeacherOutputs(self._logits)


def drawn(seed: int) -> torch.Tensor:
    return 3 * torch.randn(7, 3, generator=torch.Generator().manual_seed(seed))


def test_probabilities_are_averaged_each_at_its_own_temperature() -> None:
    cool = Task(kind="multiclass", labels=TASK.labels, temperature=2.0)
    teacher = EnsembleTeacher([Fixed("x", drawn(0)), Fixed("y", drawn(1), cool), Fixed("z", drawn(2))])
    p = [torch.softmax(drawn(0), 1), torch.softmax(drawn(1) / 2, 1), torch.softmax(drawn(2), 1)]
    supplied = torch.softmax(teacher.answer(torch.zeros(7, 1, 8, 8)).logits, 1)
    assert torch.allclose(supplied, torch.stack(p).mean(0), atol=1e-6)
    assert teacher.card.task == TASK  # its temperature is 1 again


def test_independent_findings_are_averaged_one_by_one() -> None:
    task = Task(kind="multilabel", labels=TASK.labels)
    teacher = EnsembleTeacher([Fixed("x", drawn(0), task), Fixed("y", drawn(1), task)])
    supplied = torch.sigmoid(teacher.answer(torch.zeros(7, 1, 8, 8)).logits)
    assert torch.allclose(supplied, (torch.sigmoid(drawn(0)) + torch.sigmoid(drawn(1))) / 2, atol=1e-6)


@pytest.mark.parametrize("exclusive", [True, False])
def test_teachers_that_are_very_sure_stay_finite(exclusive: bool) -> None:
    sure = torch.tensor([[[1000.0, -1000.0, 0.0]], [[1000.0, -1000.0, 0.0]]])
    mean = mean_of(sure, exclusive=exclusive)
    assert torch.isfinite(mean).all()
    assert torch.allclose(mean - mean[:, 2:], sure[0], atol=1e-3)


def test_one_teacher_twice_is_that_teacher() -> None:
    teacher = EnsembleTeacher([Fixed("x", drawn(0)), Fixed("x", drawn(0))])
    supplied = teacher.answer(torch.zeros(7, 1, 8, 8)).logits
    assert torch.allclose(torch.softmax(supplied, 1), torch.softmax(drawn(0), 1), atol=1e-6)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (msgspec.structs.replace(SPEC, height_px=16), "height_px is 8 and 16"),
        (msgspec.structs.replace(SPEC, resize="shortest"), 'resize is "stretch" and "shortest"'),
        (msgspec.structs.replace(SPEC, colour="rgb", mean=(0.5,) * 3, std=(1.0,) * 3), 'colour is "grey" and "rgb"'),
    ],
)
def test_images_that_are_prepared_differently_are_refused(spec: ImageSpec, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        EnsembleTeacher([Fixed("x", drawn(0)), Fixed("y", drawn(1), spec=spec)])


def test_other_means_are_each_teachers_own_affair() -> None:
    other = msgspec.structs.replace(SPEC, mean=(0.1,), std=(0.9,))
    assert EnsembleTeacher([Fixed("x", drawn(0)), Fixed("y", drawn(1), spec=other)]).card.spec == SPEC


def test_other_labels_are_refused() -> None:
    other = Task(kind="multiclass", labels=("a", "c", "b"))
    with pytest.raises(ModelError, match="map both to the study's"):
        EnsembleTeacher([Fixed("x", drawn(0)), Fixed("y", drawn(1), other)])


def test_features_and_logits_that_are_not_finite_are_refused() -> None:
    teacher = EnsembleTeacher([Fixed("x", drawn(0)), Fixed("y", torch.full((7, 3), torch.nan))])
    with pytest.raises(ModelError, match="not finite"):
        teacher.answer(torch.zeros(7, 1, 8, 8))
    with pytest.raises(InputError, match="logits only"):
        teacher.answer(torch.zeros(7, 1, 8, 8), ("map",))
    assert teacher.card.features == () and teacher.card.family == "cnn"


@pytest.fixture(scope="module")
def models() -> tuple[Model, Model]:
    torch.manual_seed(0)
    first = build_model("test_resnet", TASK, size_px=48, colour="grey")
    second = build_model("test_vit", TASK, size_px=48, colour="grey", spec=first.spec)
    return replace(first, licence="CC BY 4.0", intended_use="research"), replace(second, licence="MIT")


def test_model_folders_are_averaged(models: tuple[Model, Model], tmp_path: Path) -> None:
    sources = tuple(
        TeacherSource(source=str(save_model(model, tmp_path / name))) for name, model in zip("xy", models, strict=True)
    )
    config, distillation = TrainingConfig(device="cpu"), Distillation(teacher_precision="fp32")
    teacher = open_teacher(sources, TASK, config, distillation.teacher_precision)
    assert isinstance(teacher, EnsembleTeacher)
    images = torch.rand(2, 1, 48, 48)
    p = [torch.softmax(ModuleTeacher(model).answer(images).logits, 1) for model in models]
    assert torch.allclose(torch.softmax(teacher.answer(images).logits, 1), (p[0] + p[1]) / 2, atol=1e-6)
    card = teacher.card
    assert (card.licence, card.intended_use) == ("CC BY 4.0; MIT", "research; not stated")
    assert (teacher.engine, card.family) == ("pytorch fp32", "")
    assert card.steps[-1] == "mean of the probabilities of test_resnet, test_vit"
    reverse = open_teacher(sources[:1] * 2, TASK, config, distillation.teacher_precision)
    assert reverse.card.identity != card.identity and card.identity.startswith("mean of test_resnet, test_vit@")
