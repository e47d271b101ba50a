r"""The inside of linear attention (MobileViTv2) as channels that can be removed.

``y = W_o (relu(V) * sum_n softmax_n(q) K) + b_o``, where the packed projection gives one query ``q``, ``d`` keys ``K``
and ``d`` values ``V``, in this order: ``[1 + d + d]`` outputs, and ``W_o`` reads ``d`` inputs. Channel i of the
context meets channel i of the values and nothing else, so key i, value i and column i of ``W_o`` go together; the
query stays. Source: Mehta and Rastegari 2022, "Separable Self-attention for Mobile Vision Transformers", section 3.2.
The tokens that run in and out are none of this group.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from torch import nn

from medfm_compress.compress.pruning.channel_groups import ChannelGroup, Member, Protected, Rounding, levels


def linear_attention_groups(module: nn.Module, rounding: Rounding) -> tuple[list[ChannelGroup], list[Protected]]:
    """One group a linear attention layer of ``module``; widths are multiples of what ``rounding`` says."""
    from timm.models.mobilevit import LinearSelfAttention

    groups: list[ChannelGroup] = []
    protected: list[Protected] = []
    for name, part in module.named_modules():
        if type(part) is not LinearSelfAttention:
            continue
        width = part.out_proj.in_channels
        steps = levels(width, rounding(width))
        if len(steps) > 1:
            groups.append(ChannelGroup(f"{name} values", width, steps, tuple(_members(name, part, width))))
        else:
            reason = f"its width of {width} has no smaller multiple of {rounding(width)}"
            protected.append(Protected(f"{name} values", reason))
    return groups, protected


def _members(name: str, part: Any, width: int) -> Iterator[Member]:
    from torch_pruning.pruner import function

    packed, out = part.qkv_proj, part.out_proj
    channels = tuple(range(width))
    rows = tuple(1 + i for i in range(2 * width))
    weights = tuple((parameter, 0) for parameter in packed.parameters())
    cut = partial(function.prune_conv_out_channels, packed)
    yield Member(f"{name}.qkv_proj", "out", 1 + 2 * width, rows, channels * 2, weights, cut)
    cut = partial(function.prune_conv_in_channels, out)
    yield Member(f"{name}.out_proj", "in", width, channels, channels, ((out.weight, 1),), cut)

    def reset(gone: list[int]) -> None:
        part.embed_dim = width - len(gone)

    yield Member(name, "out", width, channels, channels, (), reset)
