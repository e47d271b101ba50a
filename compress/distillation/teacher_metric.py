"""How good the teacher itself is, told before it teaches; one that is worse than chance has its labels swapped.

    z = (1/2 − A) / sqrt((m + n + 1) / (12 m n))       area A under the ROC curve, m positives, n negatives
    z = (c − a) / sqrt(c (1 − c) / N)                  accuracy a over N cases, c = Σ_j t_j p_j that of chance

with the variances that hold where scores say nothing (Mann, Whitney, Ann. Math. Stat. 18 (1947) 50–60; Cohen, Educ.
Psychol. Meas. 20 (1960) 37–46: t_j and p_j are the shares of label j among the cases and among the answers). Above the
97.5 % quantile of the normal distribution, divided among the findings, it is no accident.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medfm_compress.bench.stats.auroc import auroc
from medfm_compress.compress.distillation.options import Distillation
from medfm_compress.compress.distillation.teacher_dice import TeacherDice, dice_metric, resized
from medfm_compress.compress.distillation.training_cases import TrainingCases, Weighing, gather_training_cases
from medfm_compress.compress.networks.inputs import Inputs, with_columns
from medfm_compress.compress.teachers.output_cache import OutputCache
from medfm_compress.compress.teachers.teacher import Teacher, TeacherCard, batch_of
from medfm_compress.compress.training.augment import draw_view, move_maps
from medfm_compress.compress.training.dataset import Dataset, check_labels, load_dataset
from medfm_compress.compress.training.job import gather
from medfm_compress.compress.training.kinds import training_rules
from medfm_compress.compress.training.validation_score import one_hot
from medfm_compress.data.study import Study
from medfm_compress.runtime.errors import ModelError
from medfm_compress.runtime.progress import Progress
from medfm_compress.runtime.task import Task

_LEVEL = 0.025


class TeacherMetric(NamedTuple):
    """What a teacher's answers are worth.

    Attributes:
        areas: finding → area under its ROC curve, where both classes are there.
        accuracy: of more than two exclusive labels, else None.
        chance: accuracy that chance would give its answers, likewise.
        below: what is worse than chance, in words; empty where nothing is.
    """

    areas: dict[str, float]
    accuracy: float | None
    chance: float | None
    below: tuple[str, ...]

    def __str__(self) -> str:
        mean = f"AUROC {np.mean(list(self.areas.values())):.4f}" if self.areas else "no AUROC (one class is absent)"
        return mean if self.accuracy is None else f"{mean}, accuracy {self.accuracy:.4f} (chance {self.chance:.4f})"


def check_teacher(
    studies: tuple[Study, ...],
    teacher: Teacher | OutputCache,
    out: Path | None,
    progress: Progress,
    distillation: Distillation | None = None,
) -> None:
    """Tell the teacher's own metric before it teaches.

    A teacher is held against the first study's validation cases; cached answers, which know training images alone,
    against those of them that have a label.

    Args:
        studies: as `distill` takes them.
        teacher: likewise.
        out: likewise; prepared images are kept in ``out/training/cache``, or nowhere where it is None.
        progress: is told.
        distillation: says which cases the answers are of.

    Raises:
        ModelError: it is worse than chance.
        StudyError: other labels than the teacher's, no validation cases, or cached answers of other cases.
    """
    study, card = studies[0], teacher.card
    check_labels(study, card.task, card.name)
    if isinstance(teacher, OutputCache):
        _check_cached(studies, teacher, distillation or Distillation(), progress)
        return
    cache = None if out is None else out / "training" / "cache"
    val = load_dataset(study, "val", card.spec, cache, progress, card.told)
    rows = np.array_split(np.arange(len(val.images)), math.ceil(len(val.images) / batch_of(card.task)))
    answers = (teacher.answer(_inputs_of(val, index)).logits for index in rows)
    if val.label_maps is not None:
        drawn = (val.label_maps[index] for index in rows)
        _tell_metric(
            dice_metric(zip(answers, drawn, strict=True), card.task),
            card,
            f"{len(val.images)} validation cases",
            progress,
        )
        return
    logits = torch.cat(list(answers))
    _tell(logits, val.targets, card, f"{len(val.targets)} validation cases", progress)


def _inputs_of(val: Dataset, index: NDArray[np.int64]) -> Inputs:
    """Cases ``index`` of a data set, as a teacher is asked of them."""
    columns = {name: rows[torch.from_numpy(index)] for name, rows in val.columns.items()}
    return with_columns(torch.from_numpy(gather(val.images, index)), columns)


def _check_cached(
    studies: tuple[Study, ...], store: OutputCache, distillation: Distillation, progress: Progress
) -> None:
    cases = gather_training_cases(studies[0], Weighing(1.0), unlabelled=distillation.unlabelled, more=studies[1:])
    store.check(cases.groups)
    labelled = torch.nonzero(cases.has_label)[:, 0]
    if len(labelled) and store.card.task.is_dense:
        metric = dice_metric(_cached_maps(store, cases, labelled, progress), store.card.task)
        _tell_metric(metric, store.card, f"{len(labelled)} training cases", progress)
    elif len(labelled):
        logits, targets = store.lookup(0, labelled, ()).logits, cases.targets[labelled].numpy()
        _tell(logits, targets, store.card, f"{len(labelled)} training cases", progress)


def metric_of(logits: Tensor, targets: NDArray[np.int64], task: Task) -> TeacherMetric:
    """The metric of logits ``[n, labels]`` on targets ``[n, 1]`` or ``[n, labels]``."""
    wide = logits.double()
    scores = (wide.sigmoid() if task.independent else wide.softmax(1)).numpy()
    truth = one_hot(targets, task)
    areas: dict[str, float] = {}
    below: list[str] = []
    quantile = NormalDist().inv_cdf(1 - _LEVEL / len(task.findings))
    for name, column in zip(task.findings, range(-len(task.findings), 0), strict=True):
        known = truth[:, column] >= 0  # a case may say nothing of a finding
        positives = int((truth[known, column] == 1).sum())
        negatives = int(known.sum()) - positives
        if not (positives and negatives):
            continue
        areas[name] = auroc(scores[known, column], truth[known, column])
        spread = math.sqrt((positives + negatives + 1) / (12 * positives * negatives))
        if (0.5 - areas[name]) / spread > quantile:
            below.append(f"AUROC {areas[name]:.3f} for {name!r} (chance is 0.5)")
    if task.independent or len(task.labels) < 3:
        return TeacherMetric(areas, None, None, tuple(below))
    accuracy, chance = _accuracy(scores, truth)
    if chance < 1 and (chance - accuracy) / math.sqrt(chance * (1 - chance) / len(truth)) > quantile:
        below.append(f"accuracy {accuracy:.3f} (chance is {chance:.3f})")
    return TeacherMetric(areas, accuracy, chance, tuple(below))


def _accuracy(scores: NDArray[np.float64], truth: NDArray[np.int64]) -> tuple[float, float]:
    """The accuracy, and that of answers as frequent as these given without looking."""
    answers = np.eye(scores.shape[1])[scores.argmax(1)]
    return float((answers * truth).sum(1).mean()), float((answers.mean(0) * truth.mean(0)).sum())


def _cached_maps(
    store: OutputCache, cases: TrainingCases, labelled: Tensor, progress: Progress
) -> Iterator[tuple[Tensor, NDArray[np.uint8]]]:
    """The first view's maps of logits and, moved likewise, the truth, at the teacher's size."""
    rules = training_rules(store.card.task)
    spec, view = store.card.spec, draw_view(store.plan.augmentation, len(cases.targets), store.plan.seeds[0])
    targets = rules.targets(cases.groups, cases.has_label, store.card.task, spec, None, progress)
    for index in torch.split(labelled, batch_of(store.card.task)):
        truth = move_maps(targets(index), view, index).numpy()
        yield resized(store.lookup(0, index, ()).logits, truth), truth


def _tell(logits: Tensor, targets: NDArray[np.int64], card: TeacherCard, cases: str, progress: Progress) -> None:
    _tell_metric(metric_of(logits, targets, card.task), card, cases, progress)


def _tell_metric(metric: TeacherMetric | TeacherDice, card: TeacherCard, cases: str, progress: Progress) -> None:
    progress(f"teacher: {metric} on {cases}")
    if metric.below:
        what = "maps are likely inverted or in another order" if card.task.is_dense else "labels are likely swapped"
        raise ModelError(
            f"the teacher {card.name} is worse than chance on {cases}: {'; '.join(metric.below)}; its {what}, and it "
            "would teach the opposite: correct the order of --teacher-labels, or say with --map THEIRS=OURS which of "
            "its labels means which of the study's (in a recipe 'labels' and 'mapping')"
        )
