"""Fine-tuning and distillation: they learn, they resume to the same bits, they touch no test case."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import msgspec
import pytest
import torch

from medfm_compress.compress.distillation.distill import distill
from medfm_compress.compress.distillation.options import Distillation
from medfm_compress.compress.networks.build import build_model
from medfm_compress.compress.networks.model import Model, load_model
from medfm_compress.compress.teachers.module_teacher import ModuleTeacher
from medfm_compress.compress.training.config import PRETRAINED_BACKBONE_RATE, TrainingConfig
from medfm_compress.compress.training.dataset import task_of
from medfm_compress.compress.training.finetune import finetune
from medfm_compress.compress.training.job import Job, Trained
from medfm_compress.data.study import Study
from medfm_compress.runtime.errors import InputError, StudyError
from medfm_compress.runtime.images.pixels import Pixels

FAST = TrainingConfig(epochs=3, batch_size=12, learning_rate=3e-3, ema=0.8, patience=0, precision="fp32")


def start(study: Study, name: str = "resnet10t") -> Model:
    torch.manual_seed(0)
    return build_model(name, task_of(study), size_px=48, colour="grey")


def silent(_: str) -> None:
    pass


class Interrupted(Exception):
    """Stands for a killed process."""


def test_finetuning_learns_and_records_what_it_did(discs: Study, tmp_path: Path) -> None:
    lines: list[str] = []
    config = msgspec.structs.replace(FAST, epochs=6)
    trained = finetune(discs, start(discs), config, tmp_path / "t", lines.append)
    scores = [float(line.split("AUROC ")[1][:6]) for line in lines if line.startswith("epoch")]
    assert max(scores) > 0.7
    assert len(scores) == 6
    loaded = load_model(tmp_path / "t")
    assert loaded.weights_sha256() == trained.weights_sha256()
    assert "6 epochs" in loaded.provenance.steps[-1]


def test_a_model_that_is_no_better_than_chance_is_named(
    discs: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for best, warned in ((0.389, True), (0.5, True), (0.81, False)):

        def train(job: Job, *_: object, best: float = best) -> Trained:
            return Trained(job.network, best, ())

        monkeypatch.setattr("medfm_compress.compress.training.finetune.train", train)
        lines: list[str] = []
        finetune(discs, start(discs), FAST, tmp_path / str(best), lines.append)
        assert any(f"{best:.3f} is no better than chance" in line for line in lines) == warned


def test_an_interrupted_training_ends_with_the_same_bits(discs: Study, tmp_path: Path) -> None:
    whole = finetune(discs, start(discs), FAST, tmp_path / "whole", silent)

    def stop_after_one(line: str) -> None:
        if line.startswith("epoch   1"):
            raise Interrupted

    with pytest.raises(Interrupted):
        finetune(discs, start(discs), FAST, tmp_path / "cut", stop_after_one)
    assert not (tmp_path / "cut" / "model.json").exists()
    lines: list[str] = []
    resumed = finetune(discs, start(discs), FAST, tmp_path / "cut", lines.append)
    assert lines[0].startswith("resuming after epoch 1")
    assert resumed.weights_sha256() == whole.weights_sha256()


def test_a_checkpoint_of_another_job_is_not_used(discs: Study, tmp_path: Path) -> None:
    finetune(discs, start(discs), FAST, tmp_path / "t", silent)
    lines: list[str] = []
    finetune(discs, start(discs), msgspec.structs.replace(FAST, seed=1), tmp_path / "t", lines.append)
    assert not any("resuming" in line for line in lines)


def test_distillation_follows_the_teacher_and_keeps_its_licence(discs: Study, tmp_path: Path) -> None:
    teacher = finetune(discs, start(discs), msgspec.structs.replace(FAST, epochs=4), tmp_path / "t", silent)
    teacher = dataclasses.replace(teacher, licence="CC-BY-4.0")
    student = distill(
        (discs,), ModuleTeacher(teacher), start(discs), FAST, tmp_path / "s", silent, Distillation(views=2)
    )
    assert student.licence == "CC-BY-4.0"
    assert student.provenance.teacher == f"{teacher.name}@{teacher.weights_sha256()}"
    assert any("distilled" in step for step in student.provenance.steps)
    assert any("fine-tuned" in step for step in student.provenance.steps)
    # the teacher is asked once: a second call reads its answers, and resumes to the same weights
    again = distill((discs,), ModuleTeacher(teacher), start(discs), FAST, tmp_path / "s", silent, Distillation(views=2))
    assert again.weights_sha256() == student.weights_sha256()


def test_test_cases_are_never_read(discs: Study, tmp_path: Path) -> None:
    class NoTest:
        def read(self, image: str) -> Pixels:
            assert not image.startswith("test"), "a test image was decoded in training"
            return discs.source.read(image)

        def content_sha256(self, image: str) -> str:
            return discs.source.content_sha256(image)

    guarded = msgspec.structs.replace(discs, source=NoTest())
    single = msgspec.structs.replace(FAST, epochs=1)
    teacher = finetune(guarded, start(discs), single, tmp_path / "t", silent)
    distill((guarded,), ModuleTeacher(teacher), start(discs), single, tmp_path / "s", silent, Distillation(views=1))


def test_a_frozen_backbone_trains_the_classifier_only(discs: Study, tmp_path: Path) -> None:
    model = start(discs)
    before = {k: v.clone() for k, v in model.module.state_dict().items()}
    config = msgspec.structs.replace(FAST, epochs=1, freeze_backbone=True)
    after = finetune(discs, model, config, tmp_path / "t", silent).module.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"fc.weight", "fc.bias"}


def moved(discs: Study, tmp_path: Path, share: float | None) -> dict[str, float]:
    """How far one step of fine-tuning moves the classifier, and the backbone's convolutions, at most."""
    model = start(discs)
    before = {k: v.clone() for k, v in model.module.state_dict().items()}
    many = msgspec.structs.replace(FAST, epochs=1, batch_size=10_000, ema=0.0, weight_decay=0.0, backbone_rate=share)
    after = finetune(discs, model, many, tmp_path / str(share), silent).module.state_dict()
    far = {name: float((before[name] - after[name]).abs().max()) for name in before if name.endswith(".weight")}
    return {"classifier": far["fc.weight"], "backbone": max(value for name, value in far.items() if "conv" in name)}


def test_the_backbone_learns_at_its_share_of_the_rate(discs: Study, tmp_path: Path) -> None:
    """AdamW's first step moves a weight by the learning rate, whatever its gradient."""
    whole, tenth = moved(discs, tmp_path, None), moved(discs, tmp_path, 0.1)
    assert whole["backbone"] == pytest.approx(whole["classifier"], rel=0.02)
    assert tenth["classifier"] == pytest.approx(whole["classifier"], rel=0.02)
    assert tenth["backbone"] == pytest.approx(0.1 * whole["backbone"], rel=0.02)


def test_the_rate_of_a_backbone_is_the_starts_unless_it_is_given() -> None:
    assert TrainingConfig().starting(pretrained=True).backbone_rate == PRETRAINED_BACKBONE_RATE < 1
    assert TrainingConfig().starting(pretrained=False).backbone_rate == 1
    given = TrainingConfig(backbone_rate=0.7)
    assert given.starting(pretrained=True) == given.starting(pretrained=False) == given


def test_zero_epochs_package_the_weights_as_they_are(discs: Study, tmp_path: Path) -> None:
    model = start(discs)
    digest = model.weights_sha256()
    assert (
        finetune(discs, model, msgspec.structs.replace(FAST, epochs=0), tmp_path / "t", silent).weights_sha256()
        == digest
    )


def test_a_split_of_one_class_is_refused(discs: Study, tmp_path: Path) -> None:
    cases = tuple(case for case in discs.cases if case.split != "val" or case.target == (0,))
    lopsided = msgspec.structs.replace(discs, cases=cases)
    with pytest.raises(StudyError, match="two classes are needed"):
        finetune(lopsided, start(discs), FAST, tmp_path / "t", silent)


@pytest.mark.parametrize("change", [{"epochs": -1}, {"batch_size": 0}, {"learning_rate": 0}, {"ema": 1.5}])
def test_values_out_of_range_are_refused(change: dict[str, float]) -> None:
    with pytest.raises(InputError, match=next(iter(change))):
        TrainingConfig(**change)  # type: ignore[arg-type]
