"""What a report says otherwise of a network that answers for every pixel than of one that answers for an image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from medfm_compress.bench.types.metric import Metric
from medfm_compress.runtime.task import Task, TaskKind, by_kind


class Words(NamedTuple):
    """Sentences, and parts of them, that depend on the kind of task.

    Attributes:
        alike: why equal figures do not make equal models.
        perturbed: what a report without perturbed images does not know.
        scores: heading of the scatter plots.
        mark: what a mark in them is.
        lines: what their dashed lines are.
        score: what is listed of teacher and bundle.
        harm: what a variant does in ``{}``, a number of cases, that the teacher has right.
        missed: which of these a finding was missed in.
        flips_file: what ``flips.csv`` holds.
        gallery_file: what ``gallery.html`` holds.
        reading: term → what it means, of the metrics that such a report shows.
    """

    alike: str
    perturbed: str
    scores: str
    mark: str
    lines: str
    score: str
    harm: str
    missed: str
    flips_file: str
    gallery_file: str
    reading: Mapping[str, str]


_RANKED: Mapping[Metric, str] = {
    "auroc": "The probability that a case with the finding scores higher than one without it; 0.5 is chance.",
    "sensitivity": "Of the cases with the finding, the share that is called.",
    "specificity": "Of the cases without the finding, the share that is not called.",
}
_OF_IMAGES = Words(
    alike="Two models with the same AUROC may still decide differently on single patients.",
    perturbed="noise, another exposure or a slight rotation",
    scores="Teacher’s and bundle’s probabilities, case by case",
    mark="Each mark is a case.",
    lines="Dashed lines are the two thresholds: upper left and lower right of their crossing, the models decide "
    "differently.",
    score="probability of the finding (of the true label, where labels exclude each other)",
    harm="decides {} wrongly that the teacher decides rightly",
    missed="a finding that the teacher called and this variant misses",
    flips_file="every decision that changed, with the real image names, for an audit",
    gallery_file="pictures of those cases as the network saw them",
    reading={
        "AUROC": _RANKED["auroc"],
        "AUPRC": "Average precision over all thresholds; it depends on how common the finding is among these cases.",
        "Sensitivity": _RANKED["sensitivity"],
        "Specificity": _RANKED["specificity"],
        "PPV": "Of the called cases, the share that has the finding; it depends on how common the finding is.",
        "NPV": "Of the cases that are not called, the share that does not have the finding; likewise.",
        "F1 score": "The harmonic mean of PPV and sensitivity.",
        "Balanced accuracy": "The mean of sensitivity and specificity.",
        "Accuracy": "The share of cases that is decided correctly.",
        "Brier score": "The mean squared error of the probability; 0 is perfect.",
        "Log loss": "The mean of −ln of the probability given to the truth; confident errors weigh most.",
        "ECE": "Expected calibration error: mean gap between probability and share, by bins; too large on few cases.",
    },
)
_OF_MASKS = Words(
    alike="Two models with the same mean Dice may still lose different structures in single images.",
    perturbed="noise, another exposure or blur",
    scores="Most probable pixel of teacher and bundle, case by case",
    mark="Each mark is a case, at the probability of its most probable pixel.",
    lines="Dashed lines are at 0.5: upper left and lower right of their crossing, one model draws the structure and "
    "the other does not.",
    score="probability of the most probable pixel of the structure",
    harm="loses or invents a structure in {} that the teacher draws rightly",
    missed="one that the teacher drew and this variant does not draw at all",
    flips_file="every structure lost, invented or regained, with the real image names, for an audit",
    gallery_file="outlines of truth, teacher and bundle over the images, the worst case first",
    reading={
        "Dice": "Twice the pixels that drawing and truth share, over the sum of both; 1 is the same mask.",
        "IoU": "The pixels that both share over those that either has.",
        "Surface Dice": "The share of both outlines that lies within the tolerance of the other.",
        "HD95": "The distance that 95% of either outline keep to the other.",
        "Lesion sensitivity": "Of the true regions of an image, the share that a drawn one overlaps enough.",
        "Sensitivity, small lesions": "Likewise of small regions.",
        "False positives per image": "Drawn regions that overlap no true one enough.",
        "AUROC": f"Of whether an image shows the structure, by its most probable pixel. {_RANKED['auroc']}",
        "Sensitivity": f"Likewise of whether it is drawn anywhere. {_RANKED['sensitivity']}",
        "Specificity": _RANKED["specificity"],
    },
)
_WORDS: Mapping[TaskKind, Words] = by_kind(_OF_IMAGES, _OF_MASKS)


def words_of(task: Task) -> Words:
    """What a report on ``task`` says."""
    return _WORDS[task.kind]
