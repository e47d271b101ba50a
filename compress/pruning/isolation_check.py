"""Every group is cut once by itself before it may be pruned: the network must run, and answer as it should.

A channel that nobody reads and a channel that is gone are the same thing. So the network without most of a group must
give the answer of the whole network in which the weights that read those channels are zero. That catches positions that
were traced wrongly, whose shapes may fit all the same. Where a group passes a normalisation over channels, silence is
not absence, and only running is asked for.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from medfm_compress.compress.networks import inputs
from medfm_compress.compress.pruning.apply import DOES_NOT_RUN, remove_channels, temporarily
from medfm_compress.compress.pruning.channel_groups import ChannelGroup, Protected, input_axis

_TOLERANCE = 1e-3  # of the largest logit
_PLAIN = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear, nn.modules.batchnorm._BatchNorm)


def check_in_isolation(
    module: nn.Module, example: Tensor, groups: Sequence[ChannelGroup]
) -> tuple[list[ChannelGroup], list[Protected]]:
    """The groups that can be cut, and those that are left alone.

    Args:
        module: in evaluation mode; as before afterwards.
        example: ``[1, channels, height, width]``.
        groups: of the module, no blocks among them.
    """
    sound: list[ChannelGroup] = []
    left: list[Protected] = []
    for group in groups:
        reason = _why_not(module, example, group)
        if reason:
            left.append(Protected(group.name, reason))
        else:
            sound.append(group)
    return sound, left


@torch.no_grad()
def _why_not(module: nn.Module, example: Tensor, group: ChannelGroup) -> str:
    order = torch.arange(group.width).roll(group.width // 3).double()  # neither the first channels nor the last
    narrowest = group.levels[-1]
    try:
        with temporarily(module):
            remove_channels(module, [group], {group.name: narrowest}, {group.name: order})
            without = module(inputs.example(module, example))
    except DOES_NOT_RUN:
        return "the network does not run without them"
    if not _comparable(module, group):
        return ""
    gone = set(torch.argsort(order, stable=True)[: group.width - narrowest].tolist())
    with temporarily(module):
        _silence(module, group, gone)
        silent = module(inputs.example(module, example))
    apart = (without - silent).abs().max()
    return "" if apart <= _TOLERANCE * silent.abs().max() else "the network answers otherwise without them"


def _comparable(module: nn.Module, group: ChannelGroup) -> bool:
    if group.kind == "heads":
        return True
    parts = dict(module.named_modules())
    return all(isinstance(parts.get(member.layer), _PLAIN) for member in group.members)


def _silence(module: nn.Module, group: ChannelGroup, gone: set[int]) -> None:
    """Put zeros in the place of all weights that read the channels ``gone``."""
    for member in group.members:
        if member.side == "in":
            part = module.get_submodule(member.layer)
            old: Tensor = part.weight  # type: ignore[assignment]
            weight = old.clone()
            silent = [i for i, root in zip(member.indices, member.roots, strict=True) if root in gone]
            weight.transpose(0, input_axis(part))[silent] = 0
            part.weight = nn.Parameter(weight, old.requires_grad)
