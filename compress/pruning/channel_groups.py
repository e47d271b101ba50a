"""What can be removed: a `ChannelGroup` is a set of channels (or heads) that must go together, found by torch-pruning.

Removing one channel of a layer removes a row or column of every layer it is added to, concatenated with or read by.
torch-pruning's dependency graph (Fang et al. 2023, "DepGraph: Towards Any Structural Pruning") finds these groups by
tracing autograd. Here each group becomes a value that scores, predicts MACs and is cut by one and the same code.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, cast

import torch
from torch import nn

from medfm_compress.compress.networks import inputs
from medfm_compress.compress.networks.attention_layers import Attention, set_heads, why_sealed
from medfm_compress.compress.networks.fusion.network import column_branch_of
from medfm_compress.compress.networks.token_merging import unmerged
from medfm_compress.runtime.errors import ModelError

Side = Literal["in", "out"]
Kind = Literal["channels", "heads", "embedding", "block"]


@dataclass(frozen=True)
class Member:
    """One layer's part in a group.

    Attributes:
        layer: name of the module, or of the bare parameter.
        side: which dimension of the layer shrinks; a depthwise convolution or a normalisation counts as ``out``.
        size: width of that dimension before pruning.
        indices: positions in that dimension.
        roots: for each position, the group's channel that it belongs to.
        weights: the tensors that shrink, each with its dimension.
        remove: cuts the given positions out of the layer, in place.
    """

    layer: str
    side: Side
    size: int
    indices: tuple[int, ...]
    roots: tuple[int, ...]
    weights: tuple[tuple[nn.Parameter, int], ...]
    remove: Callable[[list[int]], object]


@dataclass(frozen=True)
class ChannelGroup:
    """Channels that are removed together, or a block that is dropped.

    Attributes:
        name: of the layer that produces them.
        width: how many there are; 1 for a block.
        levels: widths that it may take, falling; the first is ``width``.
        members: every layer that must shrink with it; none for a block.
        kind: ``embedding`` is the width of the tokens that attention layers read, ``block`` a residual block.
    """

    name: str
    width: int
    levels: tuple[int, ...]
    members: tuple[Member, ...]
    kind: Kind = "channels"


@dataclass(frozen=True)
class Protected:
    """Channels that stay as they are, and why."""

    name: str
    reason: str


Rounding = Callable[[int], int]
"""What the widths of a group of a given width become multiples of."""


def levels(width: int, step: int) -> tuple[int, ...]:
    """``width`` itself, then every smaller multiple of ``step`` down to ``step``."""
    return (width, *range((width - 1) // step * step, 0, -step))


def find_channel_groups(
    module: nn.Module, example: torch.Tensor, attentions: Sequence[Attention], sealed: Sequence[str], rounding: Rounding
) -> tuple[list[ChannelGroup], list[Protected]]:
    """Find the channel groups of ``module``.

    Args:
        module: traced in evaluation mode; every parameter must require a gradient.
        example: float32 ``[1, channels, height, width]``.
        attentions: their heads are groups of their own (`heads`), so that no channel is followed through them.
        sealed: names of modules whose inside is not understood; no channel into or inside them is touched.
        rounding: of widths.
    """
    repeated = {**_called_twice(module, example), **_tied(module)}
    barriers = _barriers(module, repeated, attentions, sealed)
    read = {(f"{attention.name}.qkv", "in") for attention in attentions}
    names = {part: name for name, part in module.named_modules()}
    graph = _trace(module, example)
    groups: list[ChannelGroup] = []
    protected = [Protected(seal, why_sealed(module.get_submodule(seal))) for seal in sealed]
    protected += [Protected(names[part], reason) for part, reason in repeated.items()]
    # A root is cut at its outputs.
    ignored = [part for part, side in barriers if side == "out"]
    for group in graph.get_all_groups(ignored_layers=ignored):
        name = names[group[0].dep.target.module]
        reason = _why_not(group, graph, barriers)
        width = len(group[0].idxs)
        steps = levels(width, rounding(width))
        if not reason and len(steps) == 1:
            reason = f"its width of {width} has no smaller multiple of {rounding(width)}"
        members = () if reason else tuple(_members(group, graph, names, module))
        reason = reason or _inconsistent(members)
        if reason:
            protected.append(Protected(name, reason))
        else:
            embedding = any((member.layer, member.side) in read for member in members)
            groups.append(ChannelGroup(name, width, steps, members, "embedding" if embedding else "channels"))
    return groups, protected


def _trace(module: nn.Module, example: torch.Tensor) -> Any:
    """torch-pruning's dependency graph of ``module``.

    Raises:
        ModelError: it cannot follow this network.
    """
    import torch_pruning as tp

    try:
        with torch.enable_grad(), unmerged(module):  # merging changes no channel, and its indexing cannot be traced
            return tp.DependencyGraph().build_dependency(
                module,
                example_inputs=(inputs.example(module, example),),
                # The product puts an operation of its own behind the classifier, which is then seen to be the output.
                forward_fn=lambda network, arguments: network(*arguments) * 1.0,
                verbose=False,
            )
    except Exception as exc:  # whatever its tracing stumbles over: it names no common base
        raise ModelError(
            f"the layers of this network cannot be followed ({type(exc).__name__}: {exc}); distil into a smaller named "
            "model instead"
        ) from exc


def _inconsistent(members: Sequence[Member]) -> str:
    """Why traced positions cannot be right, or an empty string."""
    for member in members:
        if member.indices and (max(member.indices) >= member.size or len(set(member.indices)) < len(member.indices)):
            return f"their way to {member.layer} cannot be followed"
    return ""


def _barriers(
    module: nn.Module, repeated: Mapping[nn.Module, str], attentions: Sequence[Attention], sealed: Sequence[str]
) -> dict[tuple[nn.Module, Side], str]:
    """Sides of layers that no channel group may touch, each with the reason."""
    sides: tuple[Side, ...] = ("in", "out")
    barriers = {
        (part, side): f"they run into {seal}, a {type(module.get_submodule(seal)).__name__}"
        for seal in sealed
        for part in module.get_submodule(seal).modules()
        for side in sides
    }
    for attention in attentions:
        barriers[module.get_submodule(f"{attention.name}.qkv"), "out"] = "they are the heads of attention"
        barriers[module.get_submodule(f"{attention.name}.proj"), "in"] = "they are the heads of attention"
    for part, reason in repeated.items():
        barriers.update({(part, side): reason for side in sides})
    branch = column_branch_of(module)
    if branch is not None:
        barriers.update({(part, side): "they are of the columns" for part in branch.modules() for side in sides})
    return barriers


def _called_twice(module: nn.Module, example: torch.Tensor) -> dict[nn.Module, str]:
    """Layers with weights that are called more than once, each with that as the reason to leave it alone."""
    calls: Counter[nn.Module] = Counter()

    def count(part: nn.Module, *_: object) -> None:
        calls[part] += 1

    owners = (part for part in module.modules() if next(part.parameters(recurse=False), None) is not None)
    hooks = [part.register_forward_hook(count) for part in owners]
    with torch.no_grad():
        module(inputs.example(module, example))
    for hook in hooks:
        hook.remove()
    twice = (part for part, number in calls.items() if number > 1)
    return {part: f"{type(part).__name__} is used more than once" for part in twice}


def _tied(module: nn.Module) -> dict[nn.Module, str]:
    """Layers that own a tensor together with another layer, each with that as the reason to leave it alone."""
    owners: dict[nn.Parameter, list[nn.Module]] = defaultdict(list)
    for part in module.modules():
        for parameter in part.parameters(recurse=False):
            owners[parameter].append(part)
    tied = {part for parts in owners.values() if len(parts) > 1 for part in parts}
    return dict.fromkeys(tied, "their weights are shared with another layer")


def _why_not(group: Any, graph: Any, barriers: Mapping[tuple[nn.Module, Side], str]) -> str:
    """Why a group cannot be cut, or an empty string."""
    from torch_pruning.ops import OPTYPE

    for item in group:
        part = item.dep.target.module
        if item.dep.target.type == OPTYPE.OUTPUT:
            return "they are the network's outputs"
        if any(root is None for root in item.root_idxs):
            return f"their way through {item.dep.target.name} cannot be followed"
        reason = barriers.get((part, _side(graph, item))) or _unsupported(part)
        if reason:
            return reason
    return ""


def _unsupported(part: Any) -> str:
    if isinstance(part, nn.modules.conv._ConvNd) and part.groups > 1 and not _is_depthwise(part):
        return f"they meet a convolution in {part.groups} groups"
    if isinstance(part, nn.GroupNorm) and part.num_groups != 1:
        return f"they meet a GroupNorm with {part.num_groups} groups"
    if isinstance(part, nn.LayerNorm) and len(part.normalized_shape) != 1:
        return "they meet a LayerNorm over several dimensions"
    if isinstance(part, (nn.MultiheadAttention, nn.LSTM, nn.Embedding)):
        return f"they meet a {type(part).__name__}"
    return ""


def _is_depthwise(part: nn.modules.conv._ConvNd) -> bool:
    """Whether it is one that torch-pruning takes for depthwise; of transposed ones it does not."""
    return not part.transposed and part.groups == part.in_channels == part.out_channels


def _side(graph: Any, item: Any) -> Side:
    return "out" if graph.is_out_channel_pruning_fn(item.dep.handler) else "in"


def _members(group: Any, graph: Any, names: dict[nn.Module, str], module: nn.Module) -> Iterator[Member]:
    for item in group:
        part = item.dep.target.module
        side = _side(graph, item)
        indices, roots = tuple(item.idxs), tuple(item.root_idxs)
        if isinstance(part, nn.Parameter):
            yield parameter_member(module, graph._param_to_name[part], item.dep.target.pruning_dim, indices, roots)
        elif part in names:
            weights = _weights(part, side)
            size = weights[0][0].shape[weights[0][1]] if weights else len(indices)
            if size == 1 < len(indices):  # one number for all channels, a PReLU's or a gate's
                continue
            yield Member(names[part], side, size, indices, roots, weights, item.dep)


def _weights(part: nn.Module, side: Side) -> tuple[tuple[nn.Parameter, int], ...]:
    """Tensors of a layer that shrink with its ``side``, each with the dimension."""
    own = dict(part.named_parameters(recurse=False))
    if side == "in":
        return ((own["weight"], input_axis(part)),)
    return tuple((parameter, 1 - input_axis(part) if parameter.ndim > 1 else 0) for parameter in own.values())


def input_axis(part: nn.Module) -> int:
    """The axis of a layer's weight that its inputs stand along: 1, and 0 of a transposed convolution."""
    return 0 if isinstance(part, nn.modules.conv._ConvNd) and part.transposed else 1


def parameter_member(
    module: nn.Module, name: str, dim: int, indices: tuple[int, ...], roots: tuple[int, ...]
) -> Member:
    """A bare parameter (layer scale, position embedding, bias table) as a member; ``dim`` is what shrinks."""
    owner_name, _, attribute = name.rpartition(".")
    owner = module.get_submodule(owner_name)
    parameter: nn.Parameter = getattr(owner, attribute)

    def remove(positions: list[int]) -> None:
        gone = set(positions)
        kept = torch.tensor([i for i in range(parameter.shape[dim]) if i not in gone], device=parameter.device)
        setattr(owner, attribute, nn.Parameter(parameter.detach().index_select(dim, kept)))

    return Member(name, "out", parameter.shape[dim], indices, roots, ((parameter, dim),), remove)


def head_groups(
    module: nn.Module, attentions: Sequence[Attention], rounding: Rounding
) -> tuple[list[ChannelGroup], list[Protected]]:
    """One group an attention layer: its heads. The packed width left is a multiple of what ``rounding`` says."""
    groups: list[ChannelGroup] = []
    protected: list[Protected] = []
    for attention in attentions:
        step = rounding(attention.heads * attention.head_dim)
        fewer = [n for n in range(attention.heads - 1, 0, -1) if n * attention.head_dim % step == 0]
        name = f"{attention.name} heads"
        if fewer:
            members = tuple(_head_members(module, attention))
            groups.append(ChannelGroup(name, attention.heads, (attention.heads, *fewer), members, "heads"))
        else:
            width = attention.head_dim
            protected.append(
                Protected(
                    name, f"no fewer than {attention.heads} heads of {width} make a multiple of {rounding(width)}"
                )
            )
    return groups, protected


def _head_members(module: nn.Module, attention: Attention) -> Iterator[Member]:
    heads = range(attention.heads)
    for layer, side, positions in (("qkv", "out", attention.qkv_rows), ("proj", "in", attention.proj_columns)):
        name = f"{attention.name}.{layer}"
        part = module.get_submodule(name)
        indices = tuple(i for head in heads for i in positions(head))
        roots = tuple(head for head in heads for _ in positions(head))
        remove = partial(_cut_columns if side == "in" else _cut_rows, part)
        yield Member(name, cast(Side, side), len(indices), indices, roots, _weights(part, cast(Side, side)), remove)
    if attention.table:
        yield parameter_member(module, attention.table, attention.table_dim, tuple(heads), tuple(heads))

    def reset(gone: list[int]) -> None:
        set_heads(module, attention, attention.heads - len(gone))

    yield Member(attention.name, "out", attention.heads, tuple(heads), tuple(heads), (), reset)


def _cut_rows(part: nn.Module, positions: list[int]) -> None:
    from torch_pruning.pruner import function

    cut = function.prune_conv_out_channels if isinstance(part, nn.Conv2d) else function.prune_linear_out_channels
    cut(part, positions)


def _cut_columns(part: nn.Module, positions: list[int]) -> None:
    from torch_pruning.pruner import function

    cut = function.prune_conv_in_channels if isinstance(part, nn.Conv2d) else function.prune_linear_in_channels
    cut(part, positions)
