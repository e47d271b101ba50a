"""How many channels of which unit stay: the same fraction everywhere, at widths the processor likes.

Every unit loses channels in the same proportion. Since widths move in steps (multiples of 16 or 32, whole heads), the
steps of all units are put in one order, by the fraction at which plain rounding would take them, and are taken one at
a time until the MACs are low enough. So the target is met closely even where one step of rounding would halve every
layer at once (DenseNet: 32 new channels a layer, multiples of 16). Of steps that fall due together, those that lose
least importance go first.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from medfm_compress.compress.pruning.macs import Macs
from medfm_compress.compress.pruning.units import Unit


@dataclass(frozen=True, order=True)
class _Step:
    """From one level of a unit to the next: the fraction removed at which it falls due, and the importance it costs."""

    due: float
    cost: float
    unit: int
    level: int


def choose_widths(
    units: Sequence[Unit], importance: Mapping[str, torch.Tensor], macs: Macs, target: float
) -> tuple[dict[str, int], float]:
    """Choose the width of every unit.

    Args:
        units: what may shrink.
        importance: by unit name, float ``[width]``.
        macs: of the network before.
        target: MACs to reach or go below.

    Returns:
        Width by unit name, and the MACs predicted for them; these stay above ``target`` where it is out of reach.
    """
    widths = {unit.name: unit.width for unit in units}
    forecast = _Forecast(macs)
    for step in sorted(_steps(units, importance)):
        if forecast.total <= target:
            break
        unit = units[step.unit]
        forecast.shrink(unit, widths[unit.name], unit.levels[step.level])
        widths[unit.name] = unit.levels[step.level]
    return widths, forecast.total


def _steps(units: Sequence[Unit], importance: Mapping[str, torch.Tensor]) -> list[_Step]:
    steps = []
    for number, unit in enumerate(units):
        order = torch.sort(importance[unit.name]).values
        lost = torch.cumsum(order, 0) / order.sum().clamp_min(torch.finfo(order.dtype).tiny)
        for level in range(1, len(unit.levels)):
            wide, narrow = unit.levels[level - 1], unit.levels[level]
            due = 1 - (wide + narrow) / 2 / unit.width
            steps.append(_Step(due, float(lost[unit.width - narrow - 1]), number, level))
    return steps


class _Forecast:
    """MACs of a network whose units shrink step by step: every layer's share is (inputs kept) x (outputs kept)."""

    def __init__(self, macs: Macs) -> None:
        self.total = float(macs.total)
        self._full = macs.layers
        self._now = {name: float(value) for name, value in macs.layers.items()}
        self._kept: dict[str, dict[str, float]] = defaultdict(lambda: {"in": 1.0, "out": 1.0})

    def shrink(self, unit: Unit, before: int, after: int) -> None:
        for member in unit.members:
            if member.layer not in self._full:
                continue
            kept = self._kept[member.layer]
            kept[member.side] -= len(member.indices) / member.size * (before - after) / unit.width
            now = self._full[member.layer] * kept["in"] * kept["out"]
            self.total += now - self._now[member.layer]
            self._now[member.layer] = now
