"""Embeddings are distilled: it learns, goes on where it was killed, reads normal images alone, and can be fitted."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
import torch

from medfm_compress import steps
from medfm_compress.cli.named_teachers import NamedTeachers, encoder_sources
from medfm_compress.compress.anomaly.fit import fit_anomaly_model
from medfm_compress.compress.anomaly.open_encoder import open_encoder
from medfm_compress.compress.anomaly.options import AnomalyFit, EncoderSource
from medfm_compress.compress.embedding.distill import choose_cases
from medfm_compress.compress.embedding.options import EmbeddingDistillation
from medfm_compress.compress.networks.build import build_model
from medfm_compress.compress.networks.encoder_folder import WEIGHTS, load_encoder
from medfm_compress.compress.networks.model import save_model, sha256_of
from medfm_compress.compress.teachers.output_cache import OutputCache
from medfm_compress.compress.training.config import TrainingConfig
from medfm_compress.data.open import open_study
from medfm_compress.runtime.errors import InputError, ModelError, StudyError
from medfm_compress.runtime.task import Task
from medfm_compress.step_settings import EmbedStep

STEP = EmbedStep(
    student="test_resnet",
    training=TrainingConfig(
        epochs=3, batch_size=8, learning_rate=3e-3, ema=0.7, patience=0, precision="fp32", device="cpu"
    ),
    embedding=EmbeddingDistillation(length=(4, 8), views=2, teacher_length=16),
)


def source_of(folder: Path) -> EncoderSource:
    """The encoder in ``folder``."""
    return EncoderSource(encoder=str(folder))


class Interrupted(Exception):
    """Stands for a killed process."""


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network with random weights, whose features are as good to learn as any."""
    torch.manual_seed(1)
    model = build_model("resnet10t", Task(kind="binary", labels=("no", "yes")), size_px=64, colour="grey")
    return save_model(model, tmp_path_factory.mktemp("teacher"))


@pytest.fixture(scope="module")
def encoder(anomaly_folder: Path, teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    folder, lines = tmp_path_factory.mktemp("encoder") / "out", list[str]()
    steps.embed(anomaly_folder, ("normal",), (source_of(teacher),), STEP, lambda line: lines.append(str(line)), folder)
    return folder, lines


def test_it_learns_and_its_folder_says_how(encoder: tuple[Path, list[str]]) -> None:
    folder, lines = encoder
    losses = [float(line.split("loss ")[1].split()[0]) for line in lines if line.startswith("epoch")]
    assert len(losses) == 3
    assert losses[-1] < 0.9 * losses[0]
    stored = load_encoder(folder)
    assert (stored.card.lengths, stored.card.plan.width) == ((4, 8), 8)
    assert "24 images" in stored.card.provenance.steps[-1], "two of train are not normal"
    assert stored.card.provenance.teacher.startswith("resnet10t@")
    with torch.inference_mode():
        images = torch.zeros(2, 1, 64, 64)
        assert stored.encoder.embedding(images).shape == (2, 8)
        assert stored.encoder.places(images).shape == (2, 8, 8, 8)


def test_a_run_that_was_killed_ends_with_the_same_weights(
    encoder: tuple[Path, list[str]], anomaly_folder: Path, teacher: Path, tmp_path: Path
) -> None:
    def killing(line: object) -> None:
        if str(line).startswith("epoch   2"):
            raise Interrupted

    with pytest.raises(Interrupted):
        steps.embed(anomaly_folder, ("normal",), (source_of(teacher),), STEP, killing, tmp_path / "out")
    lines: list[str] = []
    teachers = (source_of(teacher),)
    again = steps.embed(
        anomaly_folder, ("normal",), teachers, STEP, lambda line: lines.append(str(line)), tmp_path / "out"
    )
    assert any(line.startswith("resuming after epoch 2") for line in lines)
    assert sha256_of(again.encoder) == sha256_of(load_encoder(encoder[0]).encoder)


def test_several_teachers_are_learned_together(
    anomaly_folder: Path, teacher: Path, encoder: tuple[Path, list[str]], tmp_path: Path
) -> None:
    step = msgspec.structs.replace(STEP, training=msgspec.structs.replace(STEP.training, epochs=1))
    stored = steps.embed(
        anomaly_folder, (), (source_of(teacher), source_of(encoder[0])), step, lambda _: None, tmp_path
    )
    assert stored.card.provenance.teacher.count("@") == 2
    answers = OutputCache.open(tmp_path / "training" / "teacher-outputs")
    assert answers.header.features == {"embedding": (16 + 8,), "places": (16 + 8, 8, 8)}
    assert answers.header.cases == 26, "without normal labels every image of train is learned from"


def test_each_length_can_be_fitted(encoder: tuple[Path, list[str]], anomaly_folder: Path, tmp_path: Path) -> None:
    study = open_study(anomaly_folder, normal=("normal",))
    lines: list[str] = []
    for length in (0, 4, 6):
        opened = open_encoder(EncoderSource(encoder=str(encoder[0])), study)
        out = tmp_path / str(length)
        model = fit_anomaly_model(study, opened, AnomalyFit(length=length), out, lambda line: lines.append(str(line)))
        assert model.module.encoder.width == (length or 8)  # type: ignore[union-attr]
    assert sum("learned the lengths 4, 8, not 6" in line for line in lines) == 1


def test_what_cannot_be_learned_is_said(anomaly_folder: Path, teacher: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"1 teacher\(s\) are timm names and 0 --teacher-weights"):
        encoder_sources(("resnet18",), NamedTeachers())
    with pytest.raises(ModelError, match="is one of the teachers"):
        steps.embed(anomaly_folder, (), (source_of(teacher),), STEP, print, teacher)
    study = open_study(anomaly_folder, normal=("normal",))
    empty = msgspec.structs.replace(study, cases=tuple(c for c in study.cases if c.split == "train"))
    with pytest.raises(StudyError, match="0 normal images in val"):
        choose_cases((empty,))
    none = msgspec.structs.replace(STEP, training=msgspec.structs.replace(STEP.training, epochs=0))
    with pytest.raises(InputError, match="at least one epoch"):
        steps.embed(anomaly_folder, (), (source_of(teacher),), none, lambda _: None, tmp_path / "b")


def test_a_damaged_encoder_folder_is_refused(encoder: tuple[Path, list[str]], tmp_path: Path) -> None:
    for name in ("encoder.json", WEIGHTS):
        (tmp_path / name).write_bytes((encoder[0] / name).read_bytes())
    (tmp_path / WEIGHTS).write_bytes((tmp_path / WEIGHTS).read_bytes()[:-1])
    with pytest.raises(ModelError, match="is not the file that"):
        load_encoder(tmp_path)
    with pytest.raises(ModelError, match="is no encoder folder"):
        load_encoder(tmp_path / "none")
