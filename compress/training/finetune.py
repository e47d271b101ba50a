"""Fine-tune a teacher on a study."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from medfm_compress.compress.losses.names import LabelLoss
from medfm_compress.compress.losses.registry import LabelTerm, label_terms_of, make_label_term
from medfm_compress.compress.networks.heads import is_at_zero
from medfm_compress.compress.networks.model import Model, Origin, save_model
from medfm_compress.compress.training.augment import CycledViews, augmentation_for, view_seed
from medfm_compress.compress.training.config import TrainingConfig
from medfm_compress.compress.training.dataset import (
    check_labels,
    columns_identity,
    labelled_cases,
    load_columns,
    load_dataset,
    load_images,
    pixels_of,
)
from medfm_compress.compress.training.distributed import is_first
from medfm_compress.compress.training.job import Batch, Job, Trained
from medfm_compress.compress.training.kinds import training_rules
from medfm_compress.compress.training.loop import train
from medfm_compress.data.fingerprint import study_fingerprint
from medfm_compress.data.study import Study
from medfm_compress.runtime.progress import Progress
from medfm_compress.runtime.strict_json import digest

_CHANCE = 0.5  # AUROC


def finetune(
    study: Study,
    model: Model,
    config: TrainingConfig,
    out: Path,
    progress: Progress,
    *,
    balanced: bool = True,
    label_loss: LabelLoss | None = None,
) -> Model:
    """Train ``model`` on the study's train split, keep the epoch with the best validation score, save it.

    Args:
        study: needs train and val splits; the test split is never read.
        model: start; its module is trained in place.
        config: how.
        out: model folder; ``out/training`` keeps the cache and the checkpoint, and an interrupted call goes on there.
        progress: receives one line an epoch.
        balanced: weight the loss by inverse class frequency.
        label_loss: see `make_label_term`; None for the default of the task.

    Raises:
        StudyError: labels that differ from the model's, a split without two classes, or values that the model's
            columns do not take.
        InputError: a loss that is no longer finite, or an unknown one.
    """
    check_labels(study, model.task, model.name)
    fingerprint = study_fingerprint(study)
    trained = Trained(model.module, float("nan"), ())
    if config.epochs > 0:
        loss = label_loss or label_terms_of(model.task)[0]
        job = _job(study, model, config, out, progress, (loss, balanced, fingerprint))
        trained = train(job, config, progress)
    _warn(model, config, trained, progress)
    step = _describe(model, config, trained)
    origin = Origin(study_fingerprint=fingerprint, steps=(*model.provenance.steps, step))
    result = replace(model, module=trained.network, provenance=origin)
    if is_first():
        save_model(result, out)
    return result


def _warn(model: Model, config: TrainingConfig, trained: Trained, progress: Progress) -> None:
    """Say what makes the model one that nobody should go on from."""
    if config.epochs == 0 and is_at_zero(model.module):
        progress(
            "note: the weights have no classifier for these labels, and nothing trains the new one, which stays at "
            "zero: the folder serves as an encoder or a start, and is refused by 'export' and as a teacher; give "
            "--epochs to train it"
        )
    if config.epochs > 0 and training_rules(model.task).score == "AUROC" and trained.best <= _CHANCE:
        progress(
            f"warning: the validation AUROC of {trained.best:.3f} is no better than chance: look at the labels, the "
            "images and the learning rate before anything is made of this model"
        )


class LabelLearner(nn.Module):
    """A network that learns from labels alone."""

    def __init__(self, network: nn.Module, term: LabelTerm) -> None:
        super().__init__()
        self.network, self._term = network, term

    def forward(self, batch: Batch) -> Tensor:
        """Mean label loss of a batch whose extras hold ``targets``; a scalar."""
        loss: Tensor = self._term(self.network(batch.inputs).float(), batch.extras["targets"]).mean()
        return loss


def _job(
    study: Study,
    model: Model,
    config: TrainingConfig,
    out: Path,
    progress: Progress,
    labels: tuple[LabelLoss, bool, str],
) -> Job:
    label_loss, balanced, fingerprint = labels
    cache = out / "training" / "cache"
    rules = training_rules(model.task)
    cases = labelled_cases(study, "train")
    images = load_images([(study, cases)], model.spec, cache, progress)
    columns = load_columns([(study, cases)], model.columns)
    val = load_dataset(study, "val", model.spec, cache, progress, model.columns)
    term = make_label_term(label_loss, torch.from_numpy(study.targets(cases)), model.task, balanced=balanced)
    everyone = torch.ones(len(cases), dtype=torch.bool)
    targets = rules.targets([(study, cases)], everyone, model.task, model.spec, cache, progress)
    identity = {
        "study": fingerprint,
        "config": config.outcome(),
        "architecture": model.architecture,
        "spec": pixels_of(model.spec),
        "balanced": balanced,
        "label_loss": label_loss,
        "start": model.weights_sha256(),
    } | columns_identity([(study, cases)], model.columns)
    views = CycledViews(augmentation_for(config.modality), len(cases), lambda epoch: view_seed(config.seed, epoch))
    return Job(
        learner=LabelLearner(model.module, term),
        network=model.module,
        images=images,
        views=views,
        mean=model.spec.mean,
        std=model.spec.std,
        extras=lambda index, epoch: {"targets": targets(index)},
        columns=columns,
        moving=rules.moving,
        score=rules.scorer(val, model.spec, model.task, config),
        score_name=f"val {rules.score}",
        checkpoint=out / "training" / "checkpoint.pt",
        fingerprint=digest(identity),
    )


def _describe(model: Model, config: TrainingConfig, trained: Trained) -> str:
    if config.epochs == 0:
        without = ", with a classifier at zero that nothing trained" if is_at_zero(model.module) else ""
        return f"packaged {model.name} as given{without}"
    return (
        f"fine-tuned {model.name}: {trained.epochs_of(config.epochs)}, seed {config.seed}, "
        f"validation {training_rules(model.task).score} {trained.best:.4f}"
    )
