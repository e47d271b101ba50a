r"""What a network costs at given widths, layer by layer: multiply–accumulates, bytes, or time on the target.

    cost(widths) = fixed + sum over layers of  c_l(inputs kept, outputs kept)

Channels that go make two layers cheaper, the one that wrote them and the one that reads them, so that what a group
saves depends on the widths of its neighbours. `CostTracker` keeps the account while widths change. Time is another
matter than MACs: see `latency_cost`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from torch import nn

from medfm_compress.compress.networks.macs import Macs
from medfm_compress.compress.pruning.channel_groups import ChannelGroup


class CostModel(Protocol):
    """The cost of a network as a sum over its layers.

    Attributes:
        fixed: what no width changes.
        layers: module name → full input and output width, as `Member.size` counts them; the input width is 1 where a
            layer has one width only (a normalisation, a depthwise convolution, the heads of an attention).
    """

    @property
    def fixed(self) -> float: ...  # noqa: D102

    @property
    def layers(self) -> Mapping[str, tuple[int, int]]: ...  # noqa: D102

    def of(self, layer: str, inputs: float, outputs: float) -> float:
        """Cost of ``layer`` at so many inputs and outputs, at least 0."""
        ...


class _Proportional:
    """A cost model in which every layer's share is (inputs kept) x (outputs kept) of its full cost."""

    def __init__(self, full: Mapping[str, float], layers: Mapping[str, tuple[int, int]], fixed: float) -> None:
        self.fixed, self.layers, self._full = fixed, layers, full

    def of(self, layer: str, inputs: float, outputs: float) -> float:
        all_inputs, all_outputs = self.layers[layer]
        return self._full[layer] * inputs / all_inputs * outputs / all_outputs


def macs_cost(macs: Macs, groups: Sequence[ChannelGroup]) -> CostModel:
    """Multiply–accumulates of one image; what lies outside every group is fixed."""
    layers = _widths(groups, macs.layers)
    full = {name: float(macs.layers[name]) for name in layers}
    return _Proportional(full, layers, macs.total - sum(full.values()))


def size_cost(module: nn.Module, groups: Sequence[ChannelGroup], file_bytes: int) -> CostModel:
    """Bytes of the file that the target reads; its bytes are shared out over the parameters.

    Args:
        module: the network of the groups.
        groups: what may shrink.
        file_bytes: size of the file at full width; what it holds besides weights is small, and shared out with them.
    """
    own = {name: sum(p.numel() for p in part.parameters(recurse=False)) for name, part in module.named_modules()}
    own |= {name: parameter.numel() for name, parameter in module.named_parameters()}
    total = sum(parameter.numel() for parameter in module.parameters())
    layers = _widths(groups, {name: count for name, count in own.items() if count})
    full = {name: file_bytes * own[name] / total for name in layers}
    return _Proportional(full, layers, file_bytes - sum(full.values()))


def _widths(groups: Sequence[ChannelGroup], known: Mapping[str, object]) -> dict[str, tuple[int, int]]:
    sizes: dict[str, dict[str, int]] = defaultdict(lambda: {"in": 1, "out": 1})
    for group in groups:
        for member in group.members:
            if member.layer in known:
                sizes[member.layer][member.side] = member.size
        if group.kind == "block":
            inside = (name for name in known if name.startswith(f"{group.name}."))
            sizes.update({name: sizes[name] for name in inside})
    return {name: (size["in"], size["out"]) for name, size in sizes.items()}


class _Part(NamedTuple):
    """A group's part in a layer: how many positions of a side one of its channels takes along."""

    layer: str
    side: int
    per_channel: float


class CostTracker:
    """The cost of a network whose groups shrink and grow again."""

    def __init__(self, groups: Sequence[ChannelGroup], cost_model: CostModel) -> None:
        """Start at full width."""
        self.widths = {group.name: group.width for group in groups}
        self._price = cost_model
        self._kept: dict[str, tuple[float, float]] = {
            name: (float(i), float(o)) for name, (i, o) in cost_model.layers.items()
        }
        self._parts = {group.name: self._parts_of(group) for group in groups}
        self._inside = {group.name: self._layers_in(group) for group in groups if group.kind == "block"}
        self._dead: dict[str, int] = dict.fromkeys(cost_model.layers, 0)
        self._cost = {name: cost_model.of(name, *kept) for name, kept in self._kept.items()}
        self.total = cost_model.fixed + sum(self._cost.values())
        self.neighbours = self._neighbours()

    def change(self, group: str, width: int) -> float:
        """By how much the total would change if ``group`` had ``width``; negative where that is cheaper."""
        now = self.widths[group]
        if group in self._inside:
            return self._change_of_block(group, width - now)
        after: dict[str, list[float]] = {}
        for part in self._parts[group]:
            kept = after.setdefault(part.layer, list(self._kept[part.layer]))
            kept[part.side] += part.per_channel * (width - now)
        living = ((name, kept) for name, kept in after.items() if not self._dead[name])
        return sum(self._price.of(name, kept[0], kept[1]) - self._cost[name] for name, kept in living)

    def set(self, group: str, width: int) -> None:
        """Give ``group`` another width."""
        delta = width - self.widths[group]
        touched: set[str] = set()
        for part in self._parts[group]:
            inputs, outputs = self._kept[part.layer]
            step = part.per_channel * delta
            self._kept[part.layer] = (inputs + step, outputs) if part.side == 0 else (inputs, outputs + step)
            touched.add(part.layer)
        for name in self._inside.get(group, ()):
            self._dead[name] -= delta
            touched.add(name)
        for name in touched:
            cost = 0.0 if self._dead[name] else self._price.of(name, *self._kept[name])
            self.total += cost - self._cost[name]
            self._cost[name] = cost
        self.widths[group] = width

    def _change_of_block(self, group: str, delta: int) -> float:
        change = 0.0
        for name in self._inside[group]:
            dead = self._dead[name] - delta
            change += (0.0 if dead else self._price.of(name, *self._kept[name])) - self._cost[name]
        return change

    def _parts_of(self, group: ChannelGroup) -> tuple[_Part, ...]:
        return tuple(
            _Part(member.layer, 0 if member.side == "in" else 1, len(member.indices) / group.width)
            for member in group.members
            if member.layer in self._price.layers
        )

    def _layers_in(self, group: ChannelGroup) -> tuple[str, ...]:
        return tuple(name for name in self._price.layers if name == group.name or name.startswith(f"{group.name}."))

    def _neighbours(self) -> dict[str, frozenset[str]]:
        """Units whose saving changes when a group does, itself among them."""
        by_layer: dict[str, set[str]] = defaultdict(set)
        for group, parts in self._parts.items():
            for part in parts:
                by_layer[part.layer].add(group)
        for group, names in self._inside.items():
            for name in names:
                by_layer[name].add(group)
        touching: dict[str, set[str]] = {group: {group} for group in self.widths}
        for together in by_layer.values():
            for group in together:
                touching[group] |= together
        return {group: frozenset(others) for group, others in touching.items()}
