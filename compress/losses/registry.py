"""Every label term and every distillation term by the name that recipes and the command line give it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

from torch import Tensor

from medfm_compress.compress.losses.attention import AttentionTransfer
from medfm_compress.compress.losses.base import Term
from medfm_compress.compress.losses.boundary import Boundary
from medfm_compress.compress.losses.boundary_kl import BoundaryKl
from medfm_compress.compress.losses.channel_wise import ChannelWise
from medfm_compress.compress.losses.class_weights import effective_number, inverse_frequency, no_weights
from medfm_compress.compress.losses.cross_entropy import CrossEntropy
from medfm_compress.compress.losses.decoupled import Decoupled
from medfm_compress.compress.losses.dice_ce import DiceCrossEntropy
from medfm_compress.compress.losses.dist import Correlation
from medfm_compress.compress.losses.feature import Hint
from medfm_compress.compress.losses.focal import Focal
from medfm_compress.compress.losses.focal_tversky import FocalTversky
from medfm_compress.compress.losses.kl import SoftLabels
from medfm_compress.compress.losses.names import LabelLoss
from medfm_compress.compress.losses.pixel_cross_entropy import PixelCrossEntropy
from medfm_compress.compress.losses.pixel_kl import PixelKl
from medfm_compress.compress.losses.relational import Relations
from medfm_compress.compress.losses.sigmoid import SigmoidLabels
from medfm_compress.compress.losses.token_hard import HardToken
from medfm_compress.compress.losses.token_soft import SoftToken
from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.task import Task

LabelTerm = Callable[[Tensor, Tensor], Tensor]
"""(logits ``[b, labels]``, targets ``[b, 1]`` or ``[b, labels]``) → loss of each case ``[b]``.

Of a segmentation: (logits ``[b, structures, h, w]``, label maps ``[b, h, w]``).
"""

LABEL_TERMS: tuple[LabelLoss, ...] = ("cross-entropy", "focal", "class-balanced")
"""Label terms of classification, the default first."""
PIXEL_LABEL_TERMS: Mapping[LabelLoss, Callable[[], LabelTerm]] = MappingProxyType(
    {
        "dice-ce": DiceCrossEntropy,
        "focal-tversky": FocalTversky,
        "cross-entropy": PixelCrossEntropy,
        "boundary": Boundary,
    }
)
"""Label terms of segmentation, the default first."""


class FeatureShapes(NamedTuple):
    """Shapes of one case's features, without the batch axis, of what each network gives."""

    student: Mapping[str, tuple[int, ...]] = MappingProxyType({})
    teacher: Mapping[str, tuple[int, ...]] = MappingProxyType({})


class Setting(NamedTuple):
    """What a term is made for."""

    temperature: float
    task: Task
    shapes: FeatureShapes = FeatureShapes()


TERMS: Mapping[str, Callable[[Setting], Term]] = MappingProxyType(
    {
        "kl": lambda setting: SoftLabels(setting.temperature),
        "sigmoid": lambda setting: SigmoidLabels(setting.temperature),
        "token-hard": lambda setting: HardToken(setting.task),
        "token-soft": lambda setting: SoftToken(setting.temperature, setting.task),
        "decoupled": lambda setting: Decoupled(setting.temperature),
        "dist": lambda setting: Correlation(setting.temperature),
        "feature": lambda setting: Hint(setting.shapes.student["map"][0], setting.shapes.teacher["map"][0]),
        "attention": lambda setting: AttentionTransfer(),
        "relational": lambda setting: Relations(),
        "pixel-kl": lambda setting: PixelKl(setting.temperature),
        "channel-wise": lambda setting: ChannelWise(setting.temperature),
        "boundary-kl": lambda setting: BoundaryKl(setting.temperature),
    }
)

PIXEL_TERMS: frozenset[str] = frozenset({"pixel-kl", "channel-wise", "boundary-kl", "feature", "attention"})
"""Terms that mean something where a network answers for every pixel."""

TEACHER_FEATURES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "feature": Hint.teacher_features,
        "attention": AttentionTransfer.teacher_features,
        "relational": Relations.teacher_features,
    }
)
STUDENT_FEATURES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        **TEACHER_FEATURES,
        "token-hard": HardToken.student_features,
        "token-soft": SoftToken.student_features,
    }
)


def make_term(name: str, setting: Setting) -> Term:
    """A distillation term.

    Raises:
        InputError: an unknown name, a task that it means nothing for, or features that a network does not give.
    """
    if name not in TERMS:
        raise InputError(f"no distillation loss is called {name!r}; choose of {', '.join(TERMS)}")
    if setting.task.is_dense and name not in PIXEL_TERMS:
        raise InputError(
            f"loss {name!r} does not fit a {setting.task.kind} task: it compares one answer an image; choose of "
            f"{', '.join(term for term in TERMS if term in PIXEL_TERMS)}"
        )
    _require(name, "student", STUDENT_FEATURES.get(name, ()), setting.shapes.student)
    _require(name, "teacher", TEACHER_FEATURES.get(name, ()), setting.shapes.teacher)
    term = TERMS[name](setting)
    reason = term.applies_to(setting.task)
    if reason:
        raise InputError(f"loss {name!r} does not fit a {setting.task.kind} task: {reason}")
    return term


def _require(name: str, who: str, needed: tuple[str, ...], available: Mapping[str, tuple[int, ...]]) -> None:
    missing = [feature for feature in needed if feature not in available]
    if missing:
        hint = "a DeiT-style student with a distillation token has it" if missing[0] == "token" else "leave it out"
        gives = ", ".join(available) or "logits alone"
        raise InputError(f"loss {name!r} needs the {who}'s {missing[0]!r}, but the {who} gives {gives}; {hint}")


def label_terms_of(task: Task) -> tuple[LabelLoss, ...]:
    """Names of the label terms of a task, the default first."""
    return tuple(PIXEL_LABEL_TERMS) if task.is_dense else LABEL_TERMS


def make_label_term(name: LabelLoss | None, targets: Tensor, task: Task, *, balanced: bool) -> LabelTerm:
    """A label term, with weights from the training targets.

    Args:
        name: of `label_terms_of`, None for the default; ``class-balanced`` is cross-entropy weighted by effective
            numbers.
        targets: ``[n, 1]`` or ``[n, labels]`` int64 of the labelled training cases.
        task: of the study.
        balanced: weight ``cross-entropy`` and ``focal`` of a classification by inverse frequency.

    Raises:
        InputError: an unknown name, or one of another kind of task.
    """
    known = label_terms_of(task)
    name = name or known[0]
    if name not in known:
        raise InputError(f"no label loss of a {task.kind} task is called {name!r}; choose of {', '.join(known)}")
    if task.is_dense:
        return PIXEL_LABEL_TERMS[name]()
    if name == "class-balanced":
        return CrossEntropy(effective_number(targets, task), task)
    weights = inverse_frequency(targets, task) if balanced else no_weights(task)
    return Focal(weights, task) if name == "focal" else CrossEntropy(weights, task)
