"""A network as both engines can be asked about it: named values, their rounding, and parts cut out to run alone.

A *value* is what an operator gives. Where a quantization and its reverse stand behind it, readers see it rounded to a
`Grid`: what is looked at is then the rounded value, because that is what the engine really computes, and asking for the
other one would break up the fused kernel that rounds by itself. A *part* of the network is everything between a value
and the values that it is made from, with the pairs of those in it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Run = Callable[[Mapping[str, Array]], list[Array]]
"""Values by name in, the values that were asked for out, float32, rounded ones in real numbers."""


class Grid(NamedTuple):
    """The numbers that a value is rounded to: multiples of ``step`` from ``low`` to ``high``."""

    step: float
    low: float
    high: float

    def snap(self, values: Array) -> Array:
        """``values`` on the grid."""
        step = np.float32(self.step)
        snapped: Array = np.clip(np.rint(values / step) * step, self.low, self.high)
        return snapped

    def saturated(self, values: Array) -> float:
        """Share of ``values`` at an end of the grid; an end at 0 is where a ReLU puts them and does not count."""
        near = self.step / 2
        high = (values >= self.high - near) if self.high > near else np.zeros(values.shape, bool)
        low = (values <= self.low + near) if self.low < -near else np.zeros(values.shape, bool)
        return float((high | low).mean())

    def same(self, other: Grid) -> bool:
        """Whether both round to the same numbers, within float32."""
        return bool(np.allclose(self, other, rtol=1e-6, atol=1e-6 * self.step))

    def describe(self) -> str:
        """Step and ends, for people."""
        return f"steps of {self.step:.6g} from {self.low:.6g} to {self.high:.6g}"


class Node(NamedTuple):
    """An operator: its kind as the file spells it, its name, and the values that it reads and gives."""

    operator: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


class Pair(NamedTuple):
    """A quantization of ``source`` and its reverse, which gives ``rounded``.

    ``grid`` is that of the reverse and ``written`` that of the quantization; a sound file has the same twice. None
    where each channel has its own.
    """

    source: str
    rounded: str
    grid: Grid | None
    written: Grid | None


class Change(NamedTuple):
    """What is changed in a part before it runs, to see whether a difference vanishes.

    Attributes:
        unrounded: values whose readers get them before they are rounded.
        swapped: constant of this part → constant of the other file that stands in for it.
        attributes: (index of a node, attribute, index of the other file's node that it is taken from).
        setting: name of one of the engine's other settings; empty for that of the variant.
    """

    unrounded: frozenset[str] = frozenset()
    swapped: tuple[tuple[str, str], ...] = ()
    attributes: tuple[tuple[int, str, int], ...] = ()
    setting: str = ""


NO_CHANGE = Change()


class Part(NamedTuple):
    """A part of a network: from ``inputs`` to ``output``, with the ``nodes`` between them in the order of the file."""

    inputs: tuple[str, ...]
    output: str
    nodes: tuple[int, ...]


class Setting(NamedTuple):
    """Another way in which an engine can run a part: its name, and what it shows if a difference vanishes in it."""

    name: str
    cause: str


class Network(Protocol):
    """A variant's file in its engine; one class a backend, in the table of `backends`."""

    backend: str
    topology: Topology
    settings: tuple[Setting, ...]

    def expose(self, values: Sequence[str]) -> Run:
        """The whole network; gives its own output first and then ``values``, rounded where readers see them so."""
        ...

    def cut(self, part: Part, change: Change = NO_CHANGE, other: Network | None = None) -> Run:
        """A part alone, its inputs float32; ``other`` is the network that a change takes something from."""
        ...

    def constants(self, names: Sequence[str]) -> list[Array]:
        """Values that no input reaches."""
        ...


class Topology:
    """Who makes and who reads what, and what an input reaches."""

    def __init__(
        self, nodes: Sequence[Node], inputs: Sequence[str], outputs: Sequence[str], names: Mapping[str, str]
    ) -> None:
        """Index a graph whose nodes are in order; ``names`` is every public name → the value's own."""
        self.nodes, self.inputs, self.outputs, self.names = tuple(nodes), tuple(inputs), tuple(outputs), dict(names)
        self.maker = {value: index for index, node in enumerate(nodes) for value in node.outputs if value}
        self.readers: dict[str, list[int]] = {}
        self.reached = set(inputs)
        for index, node in enumerate(nodes):
            for value in node.inputs:
                self.readers.setdefault(value, []).append(index)
            if any(value in self.reached for value in node.inputs):
                self.reached.update(value for value in node.outputs if value)
        self.pairs: dict[str, Pair] = {}
        self.inside: set[str] = set()
        self.reals = set(self.reached)  # less what a network finds to be integers
        self._halves: set[int] = set()

    def add_pair(self, pair: Pair, halves: Collection[int]) -> None:
        """Note a quantization and its reverse, which are the nodes ``halves``; the first of a value is kept."""
        self._halves.update(halves)
        self.inside.update(value for index in halves for value in self.nodes[index].outputs)
        self.pairs.setdefault(pair.source, pair)

    def shown(self, value: str) -> str:
        """What readers see of ``value``: the rounded one, unless somebody reads it as it is."""
        pair = self.pairs.get(value)
        if pair is None or value in self.outputs or any(i not in self._halves for i in self.readers.get(value, ())):
            return value
        return pair.rounded

    def grid(self, value: str) -> Grid | None:
        """The grid of what readers see."""
        pair = self.pairs.get(value)
        return pair.grid if pair is not None and self.shown(value) == pair.rounded else None

    def part(self, value: str, stops: Collection[str]) -> Part:
        """The part that makes what readers see of ``value`` from values in ``stops`` (``value`` itself is none)."""
        target = self.shown(value)
        waiting, seen, inputs, nodes = [target], {target}, dict[str, None](), set[int]()
        while waiting:
            current = waiting.pop()
            if current in stops and current not in (value, target):
                inputs[current] = None
                continue
            maker = self.maker.get(current)
            if maker is None:
                if current in self.inputs:
                    inputs[current] = None
                continue
            nodes.add(maker)
            new = [name for name in self.nodes[maker].inputs if name and name not in seen]
            seen.update(new)
            waiting += new
        return Part(tuple(inputs), target, tuple(sorted(nodes)))

    def operator(self, value: str) -> str:
        """Kind of the operator that makes ``value``."""
        maker = self.maker.get(value)
        return self.nodes[maker].operator if maker is not None else "input"
