"""Several teachers as one: the mean of their probabilities, turned back into logits.

    z = log (1/M Σ_m softmax(z_m / T_m))                                        mutually exclusive labels
    z = log p − log(1 − p),  p = 1/M Σ_m sigmoid(z_m / T_m)                      independent findings
    z_k = log p_k − log p_0,  p = 1/M Σ_m softmax((0, z_m) / T_m)                every pixel of a segmentation

M teachers, z_m the logits of one, T_m the temperature of its calibration. Lakshminarayanan et al. 2017, "Simple and
scalable predictive uncertainty estimation using deep ensembles", average probabilities; Hinton et al. 2015, "Distilling
the knowledge in a neural network", distil such a mean. It is taken of log-probabilities, so that nothing rounds to 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec
import torch
from torch import Tensor
from torch.nn import functional

from medfm_compress.compress.networks.inputs import Inputs
from medfm_compress.compress.teachers.module_teacher import finite
from medfm_compress.compress.teachers.outputs import TeacherOutputs
from medfm_compress.compress.teachers.teacher import Teacher, TeacherCard
from medfm_compress.runtime.columns import Column
from medfm_compress.runtime.errors import InputError, ModelError
from medfm_compress.runtime.image_spec import ImageSpec
from medfm_compress.runtime.strict_json import digest

_OWN = ("mean", "std", "colour_rule")  # each teacher normalises by itself, and flags are the device's
_NOT_STATED = "not stated"


class EnsembleTeacher:
    """Answers with the mean of its ``teachers``, which share labels and prepared images."""

    def __init__(self, teachers: Sequence[Teacher]) -> None:
        """Join at least two teachers.

        Raises:
            ModelError: other labels, or images that are prepared in another way.
        """
        self.teachers = tuple(teachers)
        self.card = joined_card([teacher.card for teacher in teachers])
        self.engine = " + ".join(dict.fromkeys(teacher.engine for teacher in teachers))

    def answer(self, inputs: Inputs, features: tuple[str, ...] = ()) -> TeacherOutputs:
        """See `Teacher`; there are no features."""
        if features:
            raise InputError(f"feature {features[0]!r} cannot be had of several teachers: their means give logits only")
        logits = torch.stack([one.answer(inputs).logits / one.card.task.temperature for one in self.teachers])
        if self.card.task.is_dense:
            mean = mean_of_maps(logits)
        else:
            mean = mean_of(logits, exclusive=not self.card.task.independent)
        return TeacherOutputs(finite(mean, self.card.name))


def mean_of(logits: Tensor, *, exclusive: bool) -> Tensor:
    """Logits ``[n, labels]`` of the mean probabilities of calibrated logits ``[teachers, n, labels]``."""
    if exclusive:
        return _mean(functional.log_softmax(logits, -1))
    return _mean(functional.logsigmoid(logits)) - _mean(functional.logsigmoid(-logits))


def mean_of_maps(logits: Tensor) -> Tensor:
    """Logits ``[n, structures, h, w]`` of the mean probabilities of ``[teachers, n, structures, h, w]``."""
    background = torch.zeros_like(logits[:, :, :1])
    mean = _mean(functional.log_softmax(torch.cat([background, logits], 2), 2))
    return mean[:, 1:] - mean[:, :1]


def joined_card(cards: Sequence[TeacherCard]) -> TeacherCard:
    """What is known of several teachers together.

    Raises:
        ModelError: other labels, or images that are prepared in another way.
    """
    first = cards[0]
    for card in cards[1:]:
        _check_alike(first, card)
    names = ", ".join(card.name for card in cards)
    families = {card.family for card in cards}
    return TeacherCard(
        name=f"mean of {names}",
        identity=f"mean of {names}@{digest([(card.identity, card.spec, card.task.temperature) for card in cards])}",
        spec=first.spec,
        task=msgspec.structs.replace(first.task, temperature=1.0, operating_points=()),
        licence=_joined([card.licence for card in cards]),
        intended_use=_joined([card.intended_use for card in cards]),
        steps=(*dict.fromkeys(step for card in cards for step in card.steps), f"mean of the probabilities of {names}"),
        family=families.pop() if len(families) == 1 else "",
        columns=_united(cards) or msgspec.UNSET,
    )


def _united(cards: Sequence[TeacherCard]) -> tuple[Column, ...]:
    """The columns of all teachers, each once; raises ModelError where two define one name differently."""
    columns: dict[str, Column] = {}
    for card in cards:
        for column in card.told:
            if columns.setdefault(column.name, column) != column:
                raise ModelError(
                    f"the teachers define the column {column.name!r} differently; average teachers that were trained "
                    "with one columns file"
                )
    return tuple(columns.values())


def _mean(log_probabilities: Tensor) -> Tensor:
    return torch.logsumexp(log_probabilities, 0) - math.log(len(log_probabilities))


def _check_alike(first: TeacherCard, other: TeacherCard) -> None:
    ours, theirs = (first.task.kind, first.task.labels), (other.task.kind, other.task.labels)
    if ours != theirs:
        raise ModelError(f"{first.name} answers with {ours} and {other.name} with {theirs}; map both to the study's")
    for name in ImageSpec.__struct_fields__:
        own, others = getattr(first.spec, name), getattr(other.spec, name)
        if name not in _OWN and own != others:
            raise ModelError(
                f"the images of {first.name} and {other.name} are prepared differently: {name} is {_plain(own)} and "
                f"{_plain(others)}; averaged teachers see the same images: distil from one of them, or give both one "
                "--teacher-spec"
            )


def _plain(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _joined(texts: Sequence[str]) -> str:
    """Distinct texts; one that is missing is said to be, unless all are."""
    return "; ".join(dict.fromkeys(text or _NOT_STATED for text in texts)) if any(texts) else ""
