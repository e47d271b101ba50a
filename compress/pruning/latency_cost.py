"""What a network's widths cost in milliseconds on the target: a `CostModel` for `allocation`.

    measured = floor + Σ layers + rest

- *floor*: a network that only reads the image. No width changes it.
- *layers*: convolutions, linear layers and attentions from `LatencyTable`, timed at a few widths (`knots`) and
  interpolated between them: t = a + b·in + c·out + d·in·out is exact on the piece between four knots.
- *rest*: what the measured network takes beyond that. Part of it is the memory traffic that a layer timed by itself
  does not see: half the rest is spread over the layers in proportion to their times, and scales as these do. The other
  part are activations, sums, concatenation and pooling, which pass over feature maps: half is spread over the
  normalisations, and the layers that run straight into an activation, by the numbers that come out of them, and scales
  with the width that each keeps; over all layers where there is neither. With all of it in either part, predictions
  after large cuts were further off (docs/results/pruning.md).

Where the layers alone exceed what was measured (the engine fused what the table timed apart), they are scaled down to
fit and no rest is left. Either way the cost at full width is what was measured.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import nn

from medfm_compress.compress.latency.layer_shapes import LayerCall, layer_calls
from medfm_compress.compress.latency.layer_table import LatencyTable
from medfm_compress.compress.networks.attention_layers import find_attentions

_PARTS = (1, 2, 4)  # of the full width are knots
_WIDE = 256  # from here on an eighth is one, too
_PASSING = 0.5  # of the rest goes by feature maps and not by layers' times
_ROUND = 16  # knots are multiples of it where the width allows


@dataclass(frozen=True)
class LatencyCost:
    """Cost of widths in ms; see `cost_model.CostModel`.

    Attributes:
        fixed: what no width changes.
        layers: module name → full input and output width.
        measured_ms: of the whole network.
        table_ms: sum of its layers at full width, before any scaling.
        rest_ms: what neither the table nor the floor explains; negative where the layers were scaled down.
        floor_ms: of an empty network.
    """

    fixed: float
    layers: Mapping[str, tuple[int, int]]
    measured_ms: float
    table_ms: float
    rest_ms: float
    floor_ms: float
    _costs: Mapping[str, Callable[[float, float], float]] = field(repr=False)

    def of(self, layer: str, inputs: float, outputs: float) -> float:
        """Time in ms of ``layer`` at these widths, >= 0; each lies above 0 and at most at the layer's full width."""
        return self._costs[layer](inputs, outputs)


def latency_cost(module: nn.Module, example: torch.Tensor, table: LatencyTable, measured_ms: float) -> LatencyCost:
    """The cost model of ``module``.

    Args:
        module: the network at full width.
        example: float32 ``[1, channels, height, width]``; only its shape matters.
        table: of the target.
        measured_ms: of the whole network, from `layer_table.measure_ms`.

    Layers are timed at full width here, at smaller widths when they are first asked for.
    """
    calls = layer_calls(module, example, find_attentions(module)[0])
    floor = min(table.floor_ms(tuple(example.shape)), measured_ms)
    timed = {name: Surface(table, call) for name, call in calls.items() if call.kind != "norm"}
    total = sum(timed[name](call.inputs, call.outputs) for name, call in calls.items() if name in timed)
    rest = measured_ms - floor - total
    passing = _PASSING * max(rest, 0.0) if timed else max(rest, 0.0)
    scale = (measured_ms - floor - passing) / total if total else 1.0
    shares = _shares(calls)
    costs = {name: _Cost(call, timed.get(name), scale, passing * shares.get(name, 0.0)) for name, call in calls.items()}
    return LatencyCost(
        fixed=floor if calls else measured_ms,
        layers={name: (call.inputs, call.outputs) for name, call in calls.items()},
        measured_ms=measured_ms,
        table_ms=total,
        rest_ms=rest,
        floor_ms=floor,
        _costs=costs,
    )


def _shares(calls: Mapping[str, LayerCall]) -> dict[str, float]:
    """Fraction of the rest that falls to each layer; they add up to 1 where there is any layer."""
    bearing = {name: call for name, call in calls.items() if call.kind == "norm" or call.activated} or calls
    total = sum(call.elements * call.times for call in bearing.values())
    return {name: call.elements * call.times / total for name, call in bearing.items()}


@dataclass(frozen=True)
class _Cost:
    """Of one layer: its own time, where the table has one, and its share of the rest."""

    call: LayerCall
    surface: Surface | None
    scale: float
    rest_ms: float

    def __call__(self, inputs: float, outputs: float) -> float:
        own = self.surface(inputs, outputs) * self.scale if self.surface else 0.0
        return own + self.rest_ms * outputs / self.call.outputs


class Surface:
    """Time in ms of one layer over its widths, from the table at the knots around."""

    def __init__(self, table: LatencyTable, call: LayerCall) -> None:
        """A layer that is exported as several has the knots of one of them, and the cost of all."""
        self._table, self._call = table, call
        self._known: dict[tuple[int, int], float] = {}
        step = 1 if call.kind == "attention" else _ROUND
        self._inputs = knots(call.inputs, step)
        self._outputs = knots(call.outputs // call.split, step)

    def __call__(self, inputs: float, outputs: float) -> float:
        """Bilinear between knots, continued as straight lines below the least; never below 0."""
        call = self._call
        ms = sum(
            of_input * of_output * self._at_knot(width, height)
            for width, of_input in _around(inputs, self._inputs)
            for height, of_output in _around(outputs / call.split, self._outputs)
        )
        return max(ms, 0.0) * call.split * call.times

    def _at_knot(self, inputs: int, outputs: int) -> float:
        """Looked up once: a search over widths asks for the same knots over and over."""
        if (inputs, outputs) not in self._known:
            self._known[inputs, outputs] = self._table.ms(self._call.at(inputs, outputs))
        return self._known[inputs, outputs]


def knots(full: int, step: int = _ROUND) -> tuple[int, ...]:
    """Widths that are timed, rising: about the whole, a half and a quarter of ``full``, of wide layers an eighth.

    They are multiples of ``step``, but for ``full`` itself and what is at most ``step``.
    """
    parts = (*_PARTS, 8) if full >= _WIDE else _PARTS
    rounded = {max(round(full / part / step), 1) * step for part in parts[1:]}
    narrower = {width for width in rounded if width < full} or {max(full // 2, 1)}
    return tuple(sorted({full, *narrower}))


def _around(width: float, known: tuple[int, ...]) -> list[tuple[int, float]]:
    """The two knots whose straight line gives the time at ``width``, with their weights; one where that is enough."""
    if width in known:
        return [(int(width), 1.0)]
    upper = next((i for i, knot in enumerate(known) if i and knot >= width), len(known) - 1)
    if not upper:
        return [(known[0], 1.0)]
    low, high = known[upper - 1], known[upper]
    share = (width - low) / (high - low)
    return [(low, 1 - share), (high, share)]
