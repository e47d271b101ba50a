r"""How much a channel matters: one score a channel of a `ChannelGroup`; the least are removed.

With ``W_k`` the weights that go when channel k goes, over all members of the group, ``L`` the mean loss over training
cases and ``L_n`` that of case n:

- magnitude:  ``I_k = sum w^2`` over W_k (Fang et al. 2023, DepGraph, eq. 4)
- taylor:     ``I_k = sum over members | sum of w * dL/dw |``, the first-order change of the loss when the member's
  share of the channel is set to zero (Molchanov et al. 2019, "Importance Estimation for Neural Network Pruning", eq. 8)
- hessian:    ``I_k = 1/2 sum h w^2`` over W_k, the second-order change at a minimum (LeCun et al. 1990, "Optimal Brain
  Damage", eq. 5). The Hessian's diagonal is replaced by that of the empirical Fisher matrix, ``h = mean over n of
  (dL_n/dw)^2``: positive and cheap, near the Hessian only where the model fits its cases well (Kunstner et al. 2019,
  "Limitations of the Empirical Fisher Approximation")
- activation: ``I_k = sum over consumers, mean x_k^2 * |W[:, k]|^2``: what the channel adds to the next layers, squared,
  x_k as they read it, over cases and positions (He et al. 2017, "Channel Pruning"; Sun et al. 2024, "Wanda"). No labels
  are read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import nn

from medfm_compress.compress.networks.inputs import Inputs
from medfm_compress.compress.pruning.channel_groups import ChannelGroup, Member
from medfm_compress.compress.pruning.choices import IMPORTANCES, Importance
from medfm_compress.runtime.errors import InputError, ModelError

Batch = tuple[Inputs, torch.Tensor]
Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

NEEDS_CASES: frozenset[Importance] = frozenset(IMPORTANCES) - {"magnitude"}
MIN_CASES = 16


@dataclass(frozen=True)
class Evidence:
    """What training cases say about the weights of some groups.

    Attributes:
        importance: what it is for.
        slopes: for ``taylor`` and ``hessian``: weight → ``dL/dw`` or the Fisher diagonal, of the weight's shape.
        moments: for ``activation``: layer → mean square of each of its inputs, float64 ``[inputs]``.
    """

    importance: Importance
    slopes: Mapping[nn.Parameter, torch.Tensor] = field(default_factory=dict)
    moments: Mapping[str, torch.Tensor] = field(default_factory=dict)


def gather(
    module: nn.Module,
    groups: Sequence[ChannelGroup],
    importance: Importance,
    batches: Iterable[Batch],
    loss: Loss | None,
) -> Evidence:
    """Read from training cases what ``importance`` needs to know; ``magnitude`` reads none.

    Args:
        module: runs in evaluation mode; it and its ``.grad`` are left as they are. The groups' weights must require
            gradients.
        groups: of this very module.
        importance: what to gather for.
        batches: images float32 ``[n, channels, height, width]`` and targets as ``loss`` takes them; read once.
        loss: mean loss of logits ``[n, labels]`` against targets, a scalar; for ``taylor`` and ``hessian``.

    Raises:
        InputError: fewer than `MIN_CASES` cases, cases of one class only, or no loss where one is needed.
        ModelError: what was gathered is not finite.
    """
    if importance not in NEEDS_CASES:
        return Evidence(importance)
    counter = _CaseCounter(importance)
    if importance == "activation":
        layers = [member.layer for group in groups for member in group.members if member.side == "in"]
        evidence = Evidence(importance, moments=input_moments(module, layers, counter.watch(batches)))
        tensors = evidence.moments.values()
    else:
        if loss is None:
            raise InputError(f"importance '{importance}' needs a loss; give one or use importance 'magnitude'")
        weights = dict.fromkeys(weight for group in groups for member in group.members for weight, _ in member.weights)
        with _evaluating(module):
            evidence = Evidence(importance, slopes=_slopes(module, list(weights), counter, batches, loss))
        tensors = evidence.slopes.values()
    counter.check()
    if not all(bool(tensor.isfinite().all()) for tensor in tensors):
        raise ModelError(f"importance '{importance}' is not finite on these cases; check the model and its images")
    return evidence


def input_moments(module: nn.Module, layers: Iterable[str], batches: Iterable[Batch]) -> dict[str, torch.Tensor]:
    """Mean square of each input channel of linear and convolutional ``layers``, float64 ``[inputs]``, on the CPU.

    Over all cases and positions of ``batches``, in evaluation mode. A layer that was never called is left out.
    """
    sums: dict[str, torch.Tensor] = {}
    counts: dict[str, int] = {}

    def watch(name: str, part: nn.Module) -> torch.utils.hooks.RemovableHandle:
        channel = 1 if isinstance(part, nn.modules.conv._ConvNd) else -1

        def note(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            rows = inputs[0].detach().movedim(channel, -1).flatten(0, -2)
            sums[name] = sums.get(name, 0) + rows.square().sum(0, dtype=torch.float64).cpu()
            counts[name] = counts.get(name, 0) + len(rows)

        return part.register_forward_pre_hook(note)

    handles = [watch(name, module.get_submodule(name)) for name in dict.fromkeys(layers)]
    try:
        with _evaluating(module), torch.no_grad():
            for images, _ in batches:
                module(images.to(_device(module)))
    finally:
        for handle in handles:
            handle.remove()
    return {name: total / counts[name] for name, total in sums.items()}


@torch.no_grad()
def importance_scores(group: ChannelGroup, evidence: Evidence) -> torch.Tensor:
    """Scores of a group's channels, float64 ``[width]``, >= 0, on the CPU."""
    total = torch.zeros(group.width, dtype=torch.float64)
    for member in group.members:
        share = _share(member, evidence)
        if share is not None:
            total.index_add_(0, torch.tensor(member.roots), share[torch.tensor(member.indices)])
    return total


def _share(member: Member, evidence: Evidence) -> torch.Tensor | None:
    """What a member says of each of its positions, float64 ``[size]``; None where it says nothing."""
    if evidence.importance == "activation" and member.side != "in":
        return None
    share = torch.zeros(member.size, dtype=torch.float64)
    for weight, dim in member.weights:
        values = weight.double().cpu()
        if evidence.importance == "taylor":
            values = values * evidence.slopes[weight].double().cpu()
        elif evidence.importance == "hessian":
            values = values.square() * evidence.slopes[weight].double().cpu() / 2
        else:
            values = values.square()
        share += _along(values, dim)
    if evidence.importance == "activation":
        moments = evidence.moments.get(member.layer)
        return None if moments is None else share * moments
    return share.abs()


def _along(values: torch.Tensor, dim: int) -> torch.Tensor:
    """Sum over every dimension but ``dim``."""
    return values.transpose(0, dim).flatten(1).sum(1) if values.ndim > 1 else values


def _slopes(
    module: nn.Module, weights: list[nn.Parameter], counter: _CaseCounter, batches: Iterable[Batch], loss: Loss
) -> dict[nn.Parameter, torch.Tensor]:
    """Mean gradient of the loss (taylor), or mean square of each case's own gradient (hessian)."""
    squared = counter.importance == "hessian"
    sums = [torch.zeros_like(weight) for weight in weights]
    for images, targets in counter.watch(_one_by_one(batches) if squared else batches):
        device = _device(module)
        with torch.enable_grad():
            value = loss(module(images.to(device)), targets.to(device)) * len(images)
            slopes = torch.autograd.grad(value, weights, allow_unused=True)
        for total, slope in zip(sums, slopes, strict=True):
            if slope is not None:
                total.add_(slope.square() if squared else slope)
    return {weight: total / max(counter.cases, 1) for weight, total in zip(weights, sums, strict=True)}


def _one_by_one(batches: Iterable[Batch]) -> Iterator[Batch]:
    for images, targets in batches:
        yield from ((images[i : i + 1], targets[i : i + 1]) for i in range(len(images)))


def _device(module: nn.Module) -> torch.device:
    return next(module.parameters()).device


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode within, every part's own mode afterwards."""
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, training in modes.items():
            part.training = training


class _CaseCounter:
    """Counts the cases that pass by, and says whether they are enough."""

    def __init__(self, importance: Importance) -> None:
        self.importance = importance
        self.cases = 0
        self._first: torch.Tensor | None = None
        self._varied = False

    def watch(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        for images, targets in batches:
            self.cases += len(images)
            if self._first is None and len(targets):
                self._first = targets[:1].clone()
            self._varied = self._varied or (self._first is not None and bool((targets != self._first).any()))
            yield images, targets

    def check(self) -> None:
        """Raises InputError where there are fewer than `MIN_CASES` cases, or all have the same labels."""
        mend = "give more labelled training cases or use importance 'magnitude'"
        if self.cases < MIN_CASES:
            raise InputError(
                f"importance '{self.importance}' needs at least {MIN_CASES} training cases, and there are "
                f"{self.cases}; {mend}"
            )
        if not self._varied:
            raise InputError(
                f"importance '{self.importance}' needs training cases of at least two classes, and all "
                f"{self.cases} have the same labels; {mend}"
            )
