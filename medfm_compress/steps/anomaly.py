"""Steps of an anomaly model: the encoder that is distilled, and the scorer that is fitted behind it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from medfm_compress.early_refusals import refuse_misspelt, refuse_to_overwrite
from medfm_compress.runtime.errors import ModelError
from medfm_compress.runtime.progress import Progress
from medfm_compress.runtime.task import Task
from medfm_compress.steps.studies import open_cases, open_more, warn_of_modality

if TYPE_CHECKING:
    from medfm_compress.compress.anomaly.options import AnomalyFit, EncoderSource
    from medfm_compress.compress.networks.encoder_folder import StoredEncoder
    from medfm_compress.compress.networks.model import Model
    from medfm_compress.step_settings import EmbedStep


def embed(
    study: Path,
    normal: tuple[str, ...],
    teachers: tuple[EncoderSource, ...],
    step: EmbedStep,
    progress: Progress,
    out: Path,
    *,
    overwrite: bool = True,
) -> StoredEncoder:
    """Distil the features of ``teachers`` into the network that ``step`` names."""
    refuse_to_overwrite(out, overwrite)
    names = [teacher.encoder for teacher in teachers]
    if out.resolve() in {Path(name).resolve() for name in names}:
        raise ModelError(f"--out {out} is one of the teachers, and would be replaced; name another folder")
    refuse_misspelt(step.student, *names)
    import torch

    from medfm_compress.compress.embedding.distill import choose_cases, distill_embedding
    from medfm_compress.compress.embedding.encoder_teacher import open_teachers
    from medfm_compress.compress.networks.build import build_model

    first = open_cases(study, progress, normal=normal)
    studies = (first, *open_more(first, step.more, progress, normal=normal))
    warn_of_modality(first, step.training.modality, progress)
    cases = choose_cases(studies)
    teacher = open_teachers(teachers, cases.training[0], step.embedding, step.training, out / "training" / "cache")
    spec = teacher.card.spec
    torch.manual_seed(step.training.seed)
    student = build_model(
        step.student,
        Task(kind="binary", labels=("absent", "present")),  # a classifier has to have some; it is left out
        size_px=spec.height_px,
        colour=spec.colour,
        weights=Path(step.weights) if step.weights else None,
        spec=spec,
    )
    return distill_embedding(studies, teacher, student, step.training, out, progress, step.embedding)


def fit_anomaly(
    study: Path,
    normal: tuple[str, ...],
    encoder: EncoderSource,
    options: AnomalyFit,
    progress: Progress,
    out: Path,
    *,
    overwrite: bool = True,
) -> Model:
    """Fit a scorer on the embeddings of the normal cases of a study."""
    refuse_to_overwrite(out, overwrite)
    if Path(encoder.encoder).resolve() == out.resolve():
        raise ModelError(f"--out {out} is the encoder that it is made of, and would replace it; name another folder")
    refuse_misspelt(encoder.encoder)
    from medfm_compress.compress.anomaly.fit import fit_anomaly_model
    from medfm_compress.compress.anomaly.open_encoder import open_encoder

    cases = open_cases(study, progress, normal=normal)
    return fit_anomaly_model(cases, open_encoder(encoder, cases), options, out, progress)
