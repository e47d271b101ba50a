r"""What each group costs in accuracy when it alone is cut: measured, not guessed.

Every group is cut at a few widths, the layers that read it are repaired, and the network's logits on the cases are
computed once more. Sensitivity is the square of the relative logit error,

    d = ||z' - z||_F^2 / ||z - z̄||_F^2

z the logits of the whole network, z̄ their mean over the cases, of a segmentation over all pixels of the cases; for
softmax tasks each case's mean logit is taken off first. Errors of different groups are close to independent, so that
squares add up; between the widths that were tried, sensitivity is interpolated, and it never falls with more removed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping, Sequence
from typing import NamedTuple

import msgspec
import numpy as np
import torch
from torch import Tensor, nn

from medfm_compress.bench.types.sensitivity import SensitivityPoint
from medfm_compress.compress.pruning.allocate import lost_importance
from medfm_compress.compress.pruning.apply import DOES_NOT_RUN, remove_channels, temporarily
from medfm_compress.compress.pruning.channel_groups import ChannelGroup
from medfm_compress.compress.pruning.importance import Batch
from medfm_compress.compress.pruning.reconstruction import Reconstruction
from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.progress import Progress, counted

_WIDTHS = 4  # of a group that are measured
_HOPELESS = 1e3  # the error of a network that does not run, or whose logits are not finite


SensitivityPoints = Mapping[str, tuple[SensitivityPoint, ...]]
"""Group name → its points, falling widths; the first is the whole group with error 0."""


class ValidationSet(NamedTuple):
    """What a network is tried on.

    Attributes:
        batches: normalised images and targets, held in memory.
        score: gives the accuracy of logits ``[n, …]`` and targets, or None.
        centred: whether each case's mean logit is taken off.
        score_name: what the score is, in words.
    """

    batches: Sequence[Batch]
    score: Callable[[Tensor, Tensor], float | None]
    centred: bool
    score_name: str = "AUROC"


def measure_sensitivity(
    module: nn.Module,
    groups: Sequence[ChannelGroup],
    importance_scores: Mapping[str, Tensor],
    validation: ValidationSet,
    repair: Reconstruction | None,
    known: MutableMapping[str, tuple[SensitivityPoint, ...]],
    progress: Progress,
) -> SensitivityPoints:
    """Try every group at a few of its widths.

    Args:
        module: in evaluation mode; as before afterwards.
        groups: of the module.
        importance_scores: by group name, see `remove_channels`.
        validation: the cases.
        repair: None leaves weights as they are.
        known: points of an earlier call with the same arguments; new ones are put in as they are made.
        progress: receives a line now and then.
    """
    if not validation.batches:
        raise InputError("no cases to measure sensitivity on; give validation cases, or take allocation 'uniform'")
    whole = _all_logits(module, validation)
    spread = _answers(_centre(whole, validation.centred))
    scale = float((spread - spread.mean(0)).square().sum()) or 1.0
    targets = torch.cat([targets for _, targets in validation.batches])
    first = SensitivityPoint(kept=-1, error=0.0, score=validation.score(whole, targets))
    for group in counted(groups, "groups tried", len(groups), progress):
        if group.name in known:
            continue
        points = [msgspec.structs.replace(first, kept=group.width)]
        for width in tried_widths(group):
            with temporarily(module):
                logits = _without(module, group, width, importance_scores, repair, validation)
            if logits is None or not torch.isfinite(logits).all():
                points.append(SensitivityPoint(kept=width, error=_HOPELESS))
                continue
            error = float((_centre(logits - whole, validation.centred)).square().sum()) / scale
            points.append(
                SensitivityPoint(kept=width, error=min(error**0.5, _HOPELESS), score=validation.score(logits, targets))
            )
        known[group.name] = tuple(points)
    return {group.name: known[group.name] for group in groups}


def _without(
    module: nn.Module,
    group: ChannelGroup,
    width: int,
    importance_scores: Mapping[str, Tensor],
    repair: Reconstruction | None,
    validation: ValidationSet,
) -> Tensor | None:
    """Logits of the network with ``group`` cut to ``width``; None where it does not run without these channels."""
    cut = remove_channels(module, [group], {group.name: width}, importance_scores)
    if repair is not None:
        repair.repair(module, cut)
    try:
        return _all_logits(module, validation)
    except DOES_NOT_RUN:
        return None


def tried_widths(group: ChannelGroup) -> tuple[int, ...]:
    """At most `_WIDTHS` of a group's narrower widths, evenly spread, the narrowest among them; falling."""
    narrower = group.levels[1:]
    if len(narrower) <= _WIDTHS:
        return narrower
    picked = np.linspace(0, len(narrower) - 1, _WIDTHS + 1).round().astype(int)[1:]
    return tuple(narrower[i] for i in picked)


def sensitivity_at_levels(group: ChannelGroup, points: Sequence[SensitivityPoint]) -> dict[int, float]:
    """Sensitivity at each of a group's levels: squares of the errors, interpolated, never falling with more removed.

    The error itself is interpolated and then squared: what matters least goes first, so that sensitivity begins flat.
    """
    errors = np.maximum.accumulate([point.error for point in points])
    kept = [point.kept for point in points]
    values = np.interp(group.levels, kept[::-1], errors[::-1])
    return {level: float(value) ** 2 for level, value in zip(group.levels, values, strict=True)}


def sensitivity_from_importance(group: ChannelGroup, importance_scores: Tensor, *, absolute: bool) -> dict[int, float]:
    """Importance lost at each level: the sum of scores that go.

    Args:
        group: not a block.
        importance_scores: float ``[width]``.
        absolute: scores are in units of the loss and compare across groups; else each group's mean is taken as 1.
    """
    lost = lost_importance(importance_scores)
    total = float(importance_scores.sum()) if absolute else float(group.width)
    return {level: lost[group.width - level] * total for level in group.levels}


def _all_logits(module: nn.Module, validation: ValidationSet) -> Tensor:
    """Logits of all cases ``[n, …]`` float64, on the CPU."""
    device = next(module.parameters()).device
    with torch.inference_mode():
        return torch.cat([module(images.to(device)).double().cpu() for images, _ in validation.batches])


def _centre(logits: Tensor, centred: bool) -> Tensor:
    return logits - logits.mean(1, keepdim=True) if centred else logits


def _answers(logits: Tensor) -> Tensor:
    """One row an answer: a case, or a pixel of one."""
    return logits.movedim(1, -1).flatten(0, -2) if logits.ndim > 2 else logits
