"""Every unit is cut once by itself before it may be pruned: the network must run, and answer as it should.

A channel that nobody reads and a channel that is gone are the same thing. So the network without most of a unit must
give the answer of the whole network in which the weights that read those channels are zero. That catches positions that
were traced wrongly, whose shapes may fit all the same. Where a unit passes a normalisation over channels, silence is
not absence, and only running is asked for.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from medfm_compress.compress.pruning.apply import DOES_NOT_RUN, cut_units, undone
from medfm_compress.compress.pruning.channel_groups import Protected, Unit

_TOLERANCE = 1e-3  # of the largest logit
_PLAIN = (nn.Conv2d, nn.Linear, nn.modules.batchnorm._BatchNorm)


def tried_alone(module: nn.Module, example: Tensor, units: Sequence[Unit]) -> tuple[list[Unit], list[Protected]]:
    """The units that can be cut, and those that are left alone.

    Args:
        module: in evaluation mode; as before afterwards.
        example: ``[1, channels, height, width]``.
        units: of the module, no blocks among them.
    """
    sound: list[Unit] = []
    left: list[Protected] = []
    for unit in units:
        reason = _why_not(module, example, unit)
        if reason:
            left.append(Protected(unit.name, reason))
        else:
            sound.append(unit)
    return sound, left


@torch.no_grad()
def _why_not(module: nn.Module, example: Tensor, unit: Unit) -> str:
    order = torch.arange(unit.width).roll(unit.width // 3).double()  # neither the first channels nor the last
    narrowest = unit.levels[-1]
    try:
        with undone(module):
            cut_units(module, [unit], {unit.name: narrowest}, {unit.name: order})
            without = module(example)
    except DOES_NOT_RUN:
        return "the network does not run without them"
    if not _comparable(module, unit):
        return ""
    gone = set(torch.argsort(order, stable=True)[: unit.width - narrowest].tolist())
    with undone(module):
        _silence(module, unit, gone)
        silent = module(example)
    apart = (without - silent).abs().max()
    return "" if apart <= _TOLERANCE * silent.abs().max() else "the network answers otherwise without them"


def _comparable(module: nn.Module, unit: Unit) -> bool:
    if unit.kind == "heads":
        return True
    parts = dict(module.named_modules())
    return all(isinstance(parts.get(member.layer), _PLAIN) for member in unit.members)


def _silence(module: nn.Module, unit: Unit, gone: set[int]) -> None:
    """Put zeros in the place of all weights that read the channels ``gone``."""
    for member in unit.members:
        if member.side == "in":
            part = module.get_submodule(member.layer)
            old: Tensor = part.weight  # type: ignore[assignment]
            weight = old.clone()
            weight[:, [i for i, root in zip(member.indices, member.roots, strict=True) if root in gone]] = 0
            part.weight = nn.Parameter(weight, old.requires_grad)
