"""Encoders as a `Teacher`: their features are one below the other, and kept as other teachers' outputs are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from medfm_compress.compress.anomaly.open_encoder import OpenedEncoder, open_encoder
from medfm_compress.compress.anomaly.options import EncoderSource
from medfm_compress.compress.anomaly.principal import project_on_principal_components
from medfm_compress.compress.embedding.options import EmbeddingDistillation
from medfm_compress.compress.networks.encoder import enlarged, shortened
from medfm_compress.compress.networks.inputs import Inputs, images_in
from medfm_compress.compress.networks.model import sha256_of
from medfm_compress.compress.teachers.outputs import TeacherOutputs
from medfm_compress.compress.teachers.teacher import TeacherCard
from medfm_compress.compress.training.config import TrainingConfig
from medfm_compress.compress.training.dataset import load_images
from medfm_compress.compress.training.device import autocast, best_device, best_precision
from medfm_compress.compress.training.job import Images
from medfm_compress.data.study import Case, Study
from medfm_compress.runtime.errors import ModelError
from medfm_compress.runtime.image_spec import ImageSpec
from medfm_compress.runtime.progress import no_progress
from medfm_compress.runtime.task import Task

_SAMPLE = 500  # images that principal components are of
EMBEDDING, PLACES = "embedding", "places"
FEATURES = (EMBEDDING, PLACES)
_NO_TASK = Task(kind="multilabel", labels=("norm",))
"""An encoder has no labels; where other teachers have logits stands the norm of its embedding."""


class EncoderTeacher:
    """Encoders that answer on the same images; their features are in units of their own spread."""

    def __init__(self, encoders: Sequence[OpenedEncoder], device: str, precision: str) -> None:
        first = encoders[0]
        self.encoders, self.device, self.precision = tuple(encoders), device, precision
        self.engine = f"pytorch {precision}"
        self.card = TeacherCard(
            name=" + ".join(one.name for one in encoders),
            identity=" + ".join(f"{one.name}@{sha256_of(one.encoder)}" for one in encoders),
            spec=first.spec,
            task=_NO_TASK,
            licence="; ".join(dict.fromkeys(one.licence for one in encoders if one.licence)),
            intended_use="; ".join(dict.fromkeys(one.intended_use for one in encoders if one.intended_use)),
            steps=tuple(step for one in encoders for step in one.provenance.steps),
            family="",
            features=FEATURES,
        )
        for one in encoders:
            one.encoder.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    @property
    def width(self) -> int:
        """Numbers of all their embeddings together."""
        return sum(one.plan.width for one in self.encoders)

    def answer(self, inputs: Inputs, features: tuple[str, ...] = ()) -> TeacherOutputs:
        """See `Teacher`; ``embedding`` ``[n, width]`` and ``places`` ``[n, width, h, w]`` on the first one's grid."""
        embeddings, places = zip(*(self._of(one, images_in(inputs)) for one in self.encoders), strict=True)
        grid = tuple(places[0].shape[2:])
        every = {
            EMBEDDING: torch.cat(embeddings, dim=1),
            PLACES: torch.cat([enlarged(part, (grid[0], grid[1])) for part in places], dim=1),
        }
        norm = every[EMBEDDING].norm(dim=1, keepdim=True)
        if not torch.isfinite(norm).all():
            raise ModelError(f"the teacher {self.card.name} gives features that are not finite; check its weights")
        return TeacherOutputs(norm, {name: every[name] for name in features})

    def _of(self, one: OpenedEncoder, images: Tensor) -> tuple[Tensor, Tensor]:
        mean, std = (torch.tensor(value).reshape(1, -1, 1, 1) for value in (one.spec.mean, one.spec.std))
        seen = ((images - mean) / std).to(self.device).contiguous(memory_format=torch.channels_last)
        with torch.inference_mode(), autocast(self.device, self.precision):
            maps = one.encoder.maps(seen)
            return one.encoder.embedding_of(maps).float().cpu(), one.encoder.places_of(maps).float().cpu()


def open_teachers(
    sources: Sequence[EncoderSource],
    cases: tuple[Study, tuple[Case, ...]],
    options: EmbeddingDistillation,
    config: TrainingConfig,
    cache: Path | None,
) -> EncoderTeacher:
    """The teachers that ``sources`` name, ready to answer.

    Args:
        sources: at least one.
        cases: of one study; those without a projection get one of principal components at some of its images.
        options: how many numbers are learned from.
        config: names the device.
        cache: folder of prepared images.

    Raises:
        ModelError: there is no such encoder, or two that do not see the same pixels.
    """
    if not sources:
        raise ModelError("no teacher is given; give a model folder, an encoder folder, or a timm name with its weights")
    study, some = cases[0], cases[1][:: max(1, len(cases[1]) // _SAMPLE)]
    encoders = [open_encoder(source, study) for source in sources]
    check_alike(encoders)
    images = load_images([(study, some)], encoders[0].spec, cache, no_progress)
    projected = [with_principal_components(one, images, options.teacher_length, options.views_seed) for one in encoders]
    device = best_device(config.device)
    return EncoderTeacher(projected, device, best_precision(config.precision, device))


def check_alike(encoders: Sequence[OpenedEncoder]) -> None:
    """Raises ModelError where encoders do not see the same pixels."""

    def pixels(spec: ImageSpec) -> tuple[object, ...]:
        return spec.shape, spec.resize, spec.crop_fraction, spec.colour

    first = encoders[0]
    for one in encoders[1:]:
        if pixels(one.spec) != pixels(first.spec):
            raise ModelError(
                f"{first.name} sees images {first.spec.resize} to {first.spec.shape[2]} px and {one.name} "
                f"{one.spec.resize} to {one.spec.shape[2]} px; give teachers that see images alike, --image-size sets "
                "the size of those that are named"
            )


def with_principal_components(opened: OpenedEncoder, images: Images, most: int, seed: int) -> OpenedEncoder:
    """The encoder with a projection, of at most ``most`` numbers; one that is distilled has its own."""
    if opened.is_distilled:
        return opened
    encoder, plan = shortened(opened.encoder, opened.plan, min(most, opened.plan.width))
    project_on_principal_components(encoder, images, opened.spec, seed)
    return replace(opened, encoder=encoder, plan=plan)
