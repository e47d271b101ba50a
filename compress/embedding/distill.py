"""Distil encoders' features into a small one, at several nested lengths; labels are not read.

The teachers answer once, on views through which the epochs cycle, as in `distillation`; the student sees the very
pixels that they answered on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from medfm_compress.compress.embedding.encoder_teacher import EMBEDDING, FEATURES, PLACES, EncoderTeacher
from medfm_compress.compress.embedding.nested_loss import NestedLoss
from medfm_compress.compress.embedding.options import EmbeddingDistillation
from medfm_compress.compress.networks.encoder import Encoder, EncoderPlan, enlarged, plan_encoder
from medfm_compress.compress.networks.encoder_folder import EncoderCard, StoredEncoder, save_encoder
from medfm_compress.compress.networks.model import Model, Origin, sha256_of
from medfm_compress.compress.teacher_outputs.collect import OutputRequest, collect_outputs
from medfm_compress.compress.teachers.output_cache import OutputCache, ViewPlan
from medfm_compress.compress.training.augment import CycledViews, apply_view, augmentation_for, draw_view, view_seed
from medfm_compress.compress.training.config import TrainingConfig
from medfm_compress.compress.training.dataset import load_images, pixels_of
from medfm_compress.compress.training.device import autocast, best_device, best_precision
from medfm_compress.compress.training.distributed import is_first
from medfm_compress.compress.training.job import Batch, Images, Job, Trained, gather
from medfm_compress.compress.training.loop import train
from medfm_compress.data.fingerprint import study_fingerprint
from medfm_compress.data.normal_labels import without_abnormal
from medfm_compress.data.study import Case, Study
from medfm_compress.runtime.errors import InputError, StudyError
from medfm_compress.runtime.image_spec import ImageSpec
from medfm_compress.runtime.progress import Progress
from medfm_compress.runtime.strict_json import digest

_VALIDATION_VIEW = 1 << 20  # of the views' seeds: none that is trained on
_BATCH = 64

Groups = tuple[tuple[Study, tuple[Case, ...]], ...]


@dataclass(frozen=True)
class Cases:
    """Images to learn from, and the first study's that choose the epoch."""

    training: Groups
    validation: Groups


def choose_cases(studies: tuple[Study, ...]) -> Cases:
    """Train and unlabelled cases of all studies, the first one's val split; of anomaly studies normal cases alone.

    Raises:
        StudyError: a study without an image to learn from, or a first one without any to choose the epoch by.
    """
    training = tuple((study, _usable(study, ("train", "unlabelled"))) for study in studies)
    return Cases(training, ((studies[0], _usable(studies[0], ("val",))),))


def _usable(study: Study, splits: tuple[str, ...]) -> tuple[Case, ...]:
    cases = tuple(case for split in splits for case in without_abnormal(study, split))
    if len(cases) < 2:
        what = "normal image" if study.normal else "image"
        raise StudyError(
            f"{study.root} has {len(cases)} {what}s in {' and '.join(splits)}; at least 2 are needed: cut the splits "
            "with 'study split'"
        )
    return cases


class EmbeddingLearner(nn.Module):
    """An encoder and the loss that it learns by, whose matrices are trained along."""

    def __init__(self, encoder: Encoder, loss: NestedLoss) -> None:
        super().__init__()
        self.encoder, self.loss = encoder, loss

    def forward(self, batch: Batch) -> Tensor:
        """Loss of a batch whose extras hold the teachers' ``embedding`` and ``places``; a scalar."""
        maps = self.encoder.maps(batch.images)
        embedding, places = self.encoder.embedding_of(maps), self.encoder.places_of(maps)
        teacher = batch.extras[PLACES].float()
        grid = (int(places.shape[2]), int(places.shape[3]))
        with torch.autocast(embedding.device.type, enabled=False):
            student = (embedding.float(), places.float())
            loss: Tensor = self.loss(student, (batch.extras[EMBEDDING].float(), enlarged(teacher, grid)))
        return loss


def distill_embedding(
    studies: tuple[Study, ...],
    teacher: EncoderTeacher,
    student: Model,
    config: TrainingConfig,
    out: Path,
    progress: Progress,
    options: EmbeddingDistillation | None = None,
) -> StoredEncoder:
    """Train an encoder of ``student``'s network on the teachers' features, save it.

    Args:
        studies: labels are not read, but for which cases of an anomaly study are normal; test splits never are.
        teacher: what is learned from.
        student: start; its module is trained in place, its task is not looked at.
        config: how.
        out: encoder folder; ``out/training`` keeps answers, caches and the checkpoint: an interrupted call goes on.
        progress: receives one line an epoch.
        options: what is learned.

    Raises:
        StudyError: too few images.
        ModelError: a network without feature maps, or features that are not finite.
        InputError: no epoch, or a loss that is no longer finite.
    """
    options = options or EmbeddingDistillation()
    if config.epochs < 1 or config.freeze_backbone:
        raise InputError("an encoder learns for at least one epoch, and as a whole")
    plan = plan_encoder(student.module, student.architecture, student.spec.shape, (), options.length[-1])
    torch.manual_seed(config.seed)
    learner = EmbeddingLearner(Encoder(student.module, plan), NestedLoss(plan.width, teacher.width, options))
    run = _Run(choose_cases(studies), teacher, student, plan, config, options, out / "training", progress)
    trained = train(run.job(learner), config, progress)
    encoder: Encoder = trained.network.encoder  # type: ignore[assignment]
    card = run.card(trained)
    return StoredEncoder(encoder, save_encoder(encoder, card, out) if is_first() else card)


@dataclass(frozen=True)
class _Run:
    """Everything that decides what the encoder becomes."""

    cases: Cases
    teacher: EncoderTeacher
    student: Model
    plan: EncoderPlan
    config: TrainingConfig
    options: EmbeddingDistillation
    folder: Path
    progress: Progress

    def job(self, learner: EmbeddingLearner) -> Job:
        """What the training loop needs."""
        config, spec, cache = self.config, self.student.spec, self.folder / "cache"
        seeds = tuple(view_seed(self.options.views_seed, number) for number in range(self.options.views))
        store = self._answers(self.cases.training, seeds, "teacher-outputs")
        val = self._answers(self.cases.validation, (self._validation_seed,), "teacher-outputs-val")
        images = load_images(self.cases.training, spec, cache, self.progress)
        identity = {
            "answers": [store.fingerprint, val.fingerprint],
            "config": config.outcome(),
            "options": self.options,
            "architecture": self.plan,
            "spec": pixels_of(spec),
            "start": sha256_of(learner),
        }
        return Job(
            learner=learner,
            network=learner,  # the loss' matrices are averaged too: without them the average could not be scored
            images=images,
            views=CycledViews(augmentation_for(config.modality), len(images), lambda epoch: seeds[epoch % len(seeds)]),
            mean=spec.mean,
            std=spec.std,
            extras=lambda cases, epoch: looked_up(store, epoch % len(seeds), cases),
            score=self._scorer(load_images(self.cases.validation, spec, cache, self.progress), val),
            score_name="negated val loss",
            checkpoint=self.folder / "checkpoint.pt",
            fingerprint=digest(identity),
        )

    @property
    def _validation_seed(self) -> int:
        return view_seed(self.options.views_seed, _VALIDATION_VIEW)

    def _answers(self, groups: Groups, seeds: tuple[int, ...], name: str) -> OutputCache:
        request = OutputRequest(
            images=load_images(groups, self.teacher.card.spec, self.folder / "cache", self.progress),
            groups=groups,
            plan=ViewPlan(augmentation=augmentation_for(self.config.modality), seeds=seeds),
            features=FEATURES,
        )
        return collect_outputs(self.teacher, request, self.folder / name, self.progress)

    def _scorer(self, images: Images, store: OutputCache) -> _Scorer:
        return _Scorer(images, store, self.student.spec, self.config, self._validation_seed)

    def card(self, trained: Trained) -> EncoderCard:
        """What the folder says of it."""
        images = sum(len(cases) for _, cases in self.cases.training)
        lengths = ", ".join(map(str, self.options.length))
        step = (
            f"embedding of {self.student.name} distilled from {self.teacher.card.name}: lengths {lengths}, {images} "
            f"images, {len(trained.history)} epochs, directions {self.options.direction:g}, relations "
            f"{self.options.relations:g}, seed {self.config.seed}, validation loss {-trained.best:.4f}"
        )
        studies = [study_fingerprint(study) for study, _ in self.cases.training]
        teacher = self.teacher.card
        return EncoderCard(
            name=self.student.name,
            plan=self.plan,
            spec=self.student.spec,
            lengths=self.options.length,
            licence=teacher.licence,
            intended_use=teacher.intended_use,
            provenance=Origin(
                teacher=teacher.identity,
                study_fingerprint=studies[0] if len(studies) == 1 else digest(studies),
                steps=(*teacher.steps, *self.student.provenance.steps, step),
            ),
        )


def looked_up(store: OutputCache, view: int, cases: Tensor) -> Mapping[str, Tensor]:
    """The teachers' features of cases ``[b]`` on one view."""
    return store.lookup(view, cases, FEATURES).features


@dataclass(frozen=True)
class _Scorer:
    """Minus the mean loss of a learner on validation images, under one view that never changes."""

    images: Images
    store: OutputCache
    spec: ImageSpec
    config: TrainingConfig
    seed: int

    def __call__(self, learner: nn.Module) -> float:
        device = best_device(self.config.device)
        precision = best_precision(self.config.precision, device)
        view = draw_view(augmentation_for(self.config.modality), len(self.images), self.seed)
        mean, std = (torch.tensor(value).reshape(1, -1, 1, 1) for value in (self.spec.mean, self.spec.std))
        nn.Module.eval(learner)
        total = 0.0
        with torch.inference_mode(), autocast(device, precision):
            for cases in torch.split(torch.arange(len(self.images)), _BATCH):
                seen = (apply_view(torch.from_numpy(gather(self.images, cases.numpy())), view, cases) - mean) / std
                extras = {name: value.to(device) for name, value in looked_up(self.store, 0, cases).items()}
                seen = seen.to(device).contiguous(memory_format=torch.channels_last)
                total += float(learner(Batch(seen, cases, 0, extras))) * len(cases)
        return -total / len(self.images)
