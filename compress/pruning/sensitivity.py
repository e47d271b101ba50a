r"""What each unit costs in accuracy when it alone is cut: measured, not guessed.

Every unit is cut at a few widths, the layers that read it are repaired, and the network answers the cases once more.
Damage is the square of the relative logit error,

    d = ||z' - z||_F^2 / ||z - z̄||_F^2

z the logits of the whole network, z̄ their mean over the cases; for softmax tasks each case's mean logit is taken off
first. Errors of different units are close to independent, so that squares add up; between the widths that were tried,
damage is interpolated, and it never falls with more removed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping, Sequence
from typing import NamedTuple

import msgspec
import numpy as np
import torch
from torch import Tensor, nn

from medfm_compress.compress.pruning.allocate import lost_importance
from medfm_compress.compress.pruning.apply import DOES_NOT_RUN, cut_units, undone
from medfm_compress.compress.pruning.channel_groups import Unit
from medfm_compress.compress.pruning.importance import Batch
from medfm_compress.compress.pruning.reconstruction import Reconstruction
from medfm_compress.runtime.errors import InputError

_TRIALS = 4  # widths of a unit that are tried
_HOPELESS = 1e3  # the error of a network that does not run, or whose answers are not finite
Progress = Callable[[str], None]


class Trial(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One unit cut to one width.

    Attributes:
        kept: the width.
        error: relative logit error, at least 0.
        auroc: of the cases, where they have labels of both classes.
    """

    kept: int
    error: float
    auroc: float | None = None


Curves = Mapping[str, tuple[Trial, ...]]
"""Unit name → its trials, falling widths; the first is the whole unit with error 0."""


class Question(NamedTuple):
    """What a network is tried on.

    Attributes:
        batches: normalised images and targets, held in memory.
        auroc: gives the AUROC of logits ``[n, labels]`` and targets, or None.
        centred: whether each case's mean logit is taken off.
    """

    batches: Sequence[Batch]
    auroc: Callable[[Tensor, Tensor], float | None]
    centred: bool


def measure_damage(
    module: nn.Module,
    units: Sequence[Unit],
    scores: Mapping[str, Tensor],
    question: Question,
    repair: Reconstruction | None,
    known: MutableMapping[str, tuple[Trial, ...]],
    progress: Progress,
) -> Curves:
    """Try every unit at a few of its widths.

    Args:
        module: in evaluation mode; as before afterwards.
        units: of the module.
        scores: by unit name, see `cut_units`.
        question: the cases.
        repair: None leaves weights as they are.
        known: trials of an earlier call with the same arguments; new ones are put in as they are made.
        progress: receives a line now and then.
    """
    if not question.batches:
        raise InputError("no cases to measure damage on; give validation cases, or take allocation 'uniform'")
    whole = _answers(module, question)
    spread = _centre(whole, question.centred)
    scale = float((spread - spread.mean(0)).square().sum()) or 1.0
    targets = torch.cat([targets for _, targets in question.batches])
    first = Trial(kept=-1, error=0.0, auroc=question.auroc(whole, targets))
    for number, unit in enumerate(units):
        if unit.name in known:
            continue
        trials = [msgspec.structs.replace(first, kept=unit.width)]
        for width in tried_widths(unit):
            with undone(module):
                logits = _without(module, unit, width, scores, repair, question)
            if logits is None or not torch.isfinite(logits).all():
                trials.append(Trial(kept=width, error=_HOPELESS))
                continue
            error = float((_centre(logits - whole, question.centred)).square().sum()) / scale
            trials.append(Trial(kept=width, error=min(error**0.5, _HOPELESS), auroc=question.auroc(logits, targets)))
        known[unit.name] = tuple(trials)
        if number % 10 == 9 or number + 1 == len(units):
            progress(f"tried {number + 1} of {len(units)} groups")
    return {unit.name: known[unit.name] for unit in units}


def _without(
    module: nn.Module,
    unit: Unit,
    width: int,
    scores: Mapping[str, Tensor],
    repair: Reconstruction | None,
    question: Question,
) -> Tensor | None:
    """Answers of the network with ``unit`` cut to ``width``; None where it does not run without just these channels."""
    cut = cut_units(module, [unit], {unit.name: width}, scores)
    if repair is not None:
        repair.repair(module, cut)
    try:
        return _answers(module, question)
    except DOES_NOT_RUN:
        return None


def tried_widths(unit: Unit) -> tuple[int, ...]:
    """At most `_TRIALS` of a unit's narrower widths, evenly spread, the narrowest among them; falling."""
    narrower = unit.levels[1:]
    if len(narrower) <= _TRIALS:
        return narrower
    picked = np.linspace(0, len(narrower) - 1, _TRIALS + 1).round().astype(int)[1:]
    return tuple(narrower[i] for i in picked)


def damage_of(unit: Unit, trials: Sequence[Trial]) -> dict[int, float]:
    """Damage at each of a unit's levels: squares of the errors, interpolated, never falling with more removed.

    The error itself is interpolated and then squared: what matters least goes first, so that damage begins flat.
    """
    errors = np.maximum.accumulate([trial.error for trial in trials])
    kept = [trial.kept for trial in trials]
    values = np.interp(unit.levels, kept[::-1], errors[::-1])
    return {level: float(value) ** 2 for level, value in zip(unit.levels, values, strict=True)}


def guessed_damage(unit: Unit, scores: Tensor, *, absolute: bool) -> dict[int, float]:
    """Importance lost at each level: the sum of scores that go.

    Args:
        unit: not a block.
        scores: float ``[width]``.
        absolute: scores are in units of the loss and compare across units; else each unit's mean is taken as 1.
    """
    lost = lost_importance(scores)
    total = float(scores.sum()) if absolute else float(unit.width)
    return {level: lost[unit.width - level] * total for level in unit.levels}


def _answers(module: nn.Module, question: Question) -> Tensor:
    """Logits of all cases ``[n, labels]`` float64, on the CPU."""
    device = next(module.parameters()).device
    with torch.inference_mode():
        return torch.cat([module(images.to(device)).double().cpu() for images, _ in question.batches])


def _centre(logits: Tensor, centred: bool) -> Tensor:
    return logits - logits.mean(1, keepdim=True) if centred else logits
