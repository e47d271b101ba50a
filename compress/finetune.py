"""Fine-tune a teacher on a study."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from medfm_compress.compress.augment import augmentation_for
from medfm_compress.compress.examples import check_labels, load_examples, pixels_of
from medfm_compress.compress.losses_old import class_weights, label_loss
from medfm_compress.compress.model import Model, Origin, save_model
from medfm_compress.compress.old_training import Job, Progress, Trained, TrainingConfig, train, view_of
from medfm_compress.data.fingerprint import study_fingerprint
from medfm_compress.data.study import Study
from medfm_compress.runtime.codec import digest


def finetune(
    study: Study, model: Model, config: TrainingConfig, out: Path, progress: Progress, *, balanced: bool = True
) -> Model:
    """Train ``model`` on the study's train split, keep the epoch with the best validation AUROC, save it.

    Args:
        study: needs train and val splits; the test split is never read.
        model: start; its module is trained in place.
        config: how.
        out: model folder; ``out/training`` keeps the cache and the checkpoint, and an interrupted call goes on there.
        progress: receives one line an epoch.
        balanced: weight the loss by inverse class frequency.

    Raises:
        StudyError: labels that differ from the model's, or a split without two classes.
        InputError: a loss that is no longer finite.
    """
    check_labels(study, model.task, model.name)
    fingerprint = study_fingerprint(study)
    trained = Trained(model.module, float("nan"), ())
    if config.epochs > 0:
        trained = train(_job(study, model, config, out, progress, balanced, fingerprint), config, progress)
    step = _describe(model, config, trained)
    origin = Origin(study_fingerprint=fingerprint, steps=(*model.provenance.steps, step))
    result = replace(model, module=trained.module, provenance=origin)
    save_model(result, out)
    return result


def _job(
    study: Study,
    model: Model,
    config: TrainingConfig,
    out: Path,
    progress: Progress,
    balanced: bool,
    fingerprint: str,
) -> Job:
    cache = out / "training" / "cache"
    training = load_examples(study, "train", model.spec, cache, progress)
    targets = torch.from_numpy(training.targets)
    weights = class_weights(targets, model.task, balanced=balanced)

    def loss(logits: Tensor, index: Tensor, epoch: int) -> Tensor:
        return label_loss(logits, targets[index].to(logits.device), weights.to(logits.device), model.task)

    spec = pixels_of(model.spec)
    identity = {"study": fingerprint, "config": config, "architecture": model.architecture, "spec": spec}
    return Job(
        module=model.module,
        spec=model.spec,
        task=model.task,
        train=training,
        val=load_examples(study, "val", model.spec, cache, progress),
        loss=loss,
        view=view_of(augmentation_for(config.modality), len(training.images), config.seed),
        checkpoint=out / "training" / "checkpoint.pt",
        fingerprint=digest(identity | {"balanced": balanced, "start": model.weights_sha256()}),
    )


def _describe(model: Model, config: TrainingConfig, trained: Trained) -> str:
    if config.epochs == 0:
        return f"packaged {model.name} as given"
    return (
        f"fine-tuned {model.name}: {len(trained.history)} epochs, seed {config.seed}, "
        f"validation AUROC {trained.best_auroc:.4f}"
    )
