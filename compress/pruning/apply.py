"""Cut groups down to chosen widths, in place; or only for a trial, after which the network is as before."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from medfm_compress.compress.networks.block_removal import drop_blocks
from medfm_compress.compress.pruning.channel_groups import ChannelGroup, Member, Side

Cut = Mapping[tuple[str, Side], tuple[int, ...]]
"""Layer and side → the positions that are gone, in the layer's width before."""

DOES_NOT_RUN = (RuntimeError, ValueError, AssertionError, IndexError, TypeError)
"""What a network raises whose shapes do not fit after a cut."""


def remove_channels(
    module: nn.Module,
    groups: Sequence[ChannelGroup],
    widths: Mapping[str, int],
    importance_scores: Mapping[str, torch.Tensor],
) -> Cut:
    """Cut ``groups`` of ``module`` down to ``widths``, in place, least important first; blocks of width 0 are dropped.

    Every layer is cut once: two groups may meet in one layer, and positions count in its original width.

    Args:
        module: the network of the groups.
        groups: those that ``widths`` names are cut.
        widths: width by group name.
        importance_scores: by group name, float ``[width]``; not needed for blocks.
    """
    gone: dict[tuple[str, Side], set[int]] = defaultdict(set)
    members: dict[tuple[str, Side], Member] = {}
    for group in groups:
        if group.kind == "block" or group.name not in widths:
            continue
        order = torch.argsort(importance_scores[group.name], stable=True)
        roots = set(order[: group.width - widths[group.name]].tolist())
        for member in group.members:
            key = (member.layer, member.side)
            members[key] = member
            gone[key].update(i for i, root in zip(member.indices, member.roots, strict=True) if root in roots)
    cut = {key: tuple(sorted(positions)) for key, positions in gone.items() if positions}
    for key, positions in cut.items():
        members[key].remove(list(positions))
    dropped = [group.name for group in groups if group.kind == "block" and widths.get(group.name) == 0]
    if dropped:
        drop_blocks(module, dropped)
    return cut


@contextmanager
def temporarily(module: nn.Module) -> Iterator[None]:
    """Whatever is cut, repaired or dropped inside the ``with`` is back afterwards.

    Cutting puts new tensors, modules and attributes in the place of old ones and changes none of them, so that keeping
    the old ones is enough.
    """
    kept = [(part, dict(vars(part)), [dict(table) for table in _tables(part)]) for part in module.modules()]
    try:
        yield
    finally:
        for part, attributes, tables in kept:
            vars(part).clear()
            vars(part).update(attributes)
            for table, content in zip(_tables(part), tables, strict=True):
                table.clear()
                table.update(content)


def _tables(part: nn.Module) -> tuple[dict[str, object], ...]:
    return (part._parameters, part._buffers, part._modules)  # type: ignore[return-value]
