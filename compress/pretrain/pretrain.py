"""Pre-train a network on images without labels: it learns to fill in what a mask hides."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from medfm_compress.compress.networks.backbone import BackboneCard, save_backbone
from medfm_compress.compress.networks.masking import Masking
from medfm_compress.compress.networks.model import Model, Origin
from medfm_compress.compress.pretrain.images import Images, choose_images
from medfm_compress.compress.pretrain.masking import FIXED, Masks
from medfm_compress.compress.pretrain.method import MaskedTask, make_masked_task
from medfm_compress.compress.training.augment import CycledViews, apply_view, augmentation_for, draw_view, view_seed
from medfm_compress.compress.training.config import TrainingConfig
from medfm_compress.compress.training.dataset import load_images, pixels_of
from medfm_compress.compress.training.device import autocast, best_device, best_precision
from medfm_compress.compress.training.distributed import is_first
from medfm_compress.compress.training.job import Batch, Job, Trained, gather
from medfm_compress.compress.training.loop import train
from medfm_compress.data.fingerprint import study_fingerprint
from medfm_compress.data.study import Study
from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.image_spec import ImageSpec
from medfm_compress.runtime.progress import Progress
from medfm_compress.runtime.strict_json import digest

_BATCH = 64


class Pretrained(NamedTuple):
    """A network, on the CPU in eval mode, and what its folder says of it."""

    network: nn.Module
    card: BackboneCard


def pretrain(
    studies: tuple[Study, ...],
    model: Model,
    config: TrainingConfig,
    out: Path,
    progress: Progress,
    masking: Masking | None = None,
) -> Pretrained:
    """Pre-train ``model`` on all training and unlabelled images, keep the epoch that fills in best, save its backbone.

    Args:
        studies: labels are not read, nor is a test split; the first one's val split, or a tenth of its images, chooses
            the epoch.
        model: start; its module is trained in place, its task is not looked at.
        config: how.
        out: backbone folder; ``out/training`` keeps cache and checkpoint, and an interrupted call goes on there.
        progress: receives one line an epoch.
        masking: what is hidden, and how it is answered.

    Raises:
        StudyError: a study without a training or unlabelled image.
        ModelError: a network that the method does not apply to.
        InputError: a mask that does not fit, no epoch, or a loss that is no longer finite.
    """
    if config.epochs < 1 or config.freeze_backbone:
        raise InputError("pre-training takes at least one epoch, and trains the whole network")
    images = choose_images(studies)
    masked_task = make_masked_task(model.module, model.spec, model.name, masking or Masking(), config.seed)
    fingerprints = [study_fingerprint(study) for study in studies]
    fingerprint = fingerprints[0] if len(fingerprints) == 1 else digest(fingerprints)
    job = _job(images, model, masked_task, config, out / "training", progress, fingerprint)
    checked = sum(len(cases) for _, cases in images.validation)
    progress(f"{masked_task.settled.method} on {len(job.images)} images, {checked} to check them by")
    trained = train(job, config, progress)
    network: nn.Module = trained.network.network  # type: ignore[assignment]
    card = _card(model, config, masked_task.settled, trained, len(job.images), fingerprint)
    return Pretrained(network, save_backbone(network, card, out) if is_first() else card)


def _card(
    model: Model, config: TrainingConfig, masking: Masking, trained: Trained, images: int, fingerprint: str
) -> BackboneCard:
    epochs = len(trained.history)
    step = (
        f"pre-trained {model.name}: {masking.method}, {masking.ratio:.0%} hidden in squares of {masking.patch_px} px, "
        f"{images} images, {epochs} epochs, seed {config.seed}, validation loss {-trained.best:.4f}"
    )
    return BackboneCard(
        name=model.name,
        architecture=model.architecture,
        spec=model.spec,
        masking=masking,
        images=images,
        epochs=epochs,
        seed=config.seed,
        score=trained.best,
        licence=model.licence,
        intended_use=model.intended_use,
        provenance=Origin(study_fingerprint=fingerprint, steps=(*model.provenance.steps, step)),
    )


def _job(
    images: Images,
    model: Model,
    masked_task: MaskedTask,
    config: TrainingConfig,
    folder: Path,
    progress: Progress,
    fingerprint: str,
) -> Job:
    cache = folder / "cache"
    training = load_images(images.training, model.spec, cache, progress)
    val = load_images(images.validation, model.spec, cache, progress)
    identity = {
        "studies": fingerprint,
        "config": config.outcome(),
        "masking": masked_task.settled,
        "architecture": model.architecture,
        "spec": pixels_of(model.spec),
        "start": model.weights_sha256(),
    }
    views = CycledViews(augmentation_for(config.modality), len(training), lambda epoch: view_seed(config.seed, epoch))
    return Job(
        learner=masked_task.learner,
        network=masked_task.learner,  # the decoder is averaged too: without it the average could not be scored
        images=training,
        views=views,
        mean=model.spec.mean,
        std=model.spec.std,
        extras=lambda cases, epoch: {"mask": masked_task.masks.draw(cases, epoch)},
        score=reconstruction_scorer(val, model.spec, masked_task.masks, config),
        score_name="negated val loss",
        checkpoint=folder / "checkpoint.pt",
        fingerprint=digest(identity),
    )


def reconstruction_scorer(
    images: Any, spec: ImageSpec, masks: Masks, config: TrainingConfig
) -> Callable[[nn.Module], float]:
    """Scores a learner by minus its mean loss on ``images`` under views and masks that never change.

    They are augmented as in training: on images as they are, which are sharper, the loss soon rises while the network
    still gets better at what it learns.
    """
    device = best_device(config.device)
    precision = best_precision(config.precision, device)
    mean, std = (torch.tensor(value).reshape(1, -1, 1, 1) for value in (spec.mean, spec.std))
    view = draw_view(augmentation_for(config.modality), len(images), view_seed(config.seed, FIXED))

    def loss_of(learner: nn.Module, cases: Tensor) -> float:
        seen = (apply_view(torch.from_numpy(gather(images, cases.numpy())), view, cases) - mean) / std
        mask = masks.draw(cases, FIXED).to(device)
        seen = seen.to(device).contiguous(memory_format=torch.channels_last)
        return float(learner(Batch(seen, cases, 0, {"mask": mask})))

    def score(learner: nn.Module) -> float:
        nn.Module.eval(learner)
        with torch.inference_mode(), autocast(device, precision):
            parts = torch.split(torch.arange(len(images)), _BATCH)
            return -sum(loss_of(learner, cases) * len(cases) for cases in parts) / len(images)

    return score
