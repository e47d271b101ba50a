"""Why a layer creates a difference: one thing is changed after the other, and what makes the difference vanish is it.

In this order, the most telling first:

1. constants and attributes that the files do not share, each taken from the other file;
2. the engines' other settings: the float part in fp32, no optimiser, no integer kernels;
3. values that only one file rounds, or that both round to different numbers, not rounded at all; then all of them;
4. the inputs that are rounded, moved by a hundredth of a step, off the middle between two.

A difference has vanished where a tenth of it or less is left, or what rounding explains. Where nothing helps, A's part
is run in B's engine as well: what that gives tells whether it is the files or the engines that differ.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

from medfm_compress.export.difference.exposed import relative
from medfm_compress.export.difference.graph import NO_CHANGE, Array, Change, Network, Part, Topology
from medfm_compress.export.difference.onnx_network import OnnxNetwork
from medfm_compress.export.difference.onnx_wire import describe_attribute, renamed
from medfm_compress.export.difference.openvino_network import OpenVinoNetwork
from medfm_compress.export.difference.result import Cause, Where
from medfm_compress.runtime.errors import InputError

_VANISHED = 0.1
_UNKNOWN = "not known"
_SHIFT = 0.01  # of a step
_TIES = "inputs lie halfway between two steps, and each engine rounds those its own way"
_MOST_SHOWN = 3  # entries of an array


class Side(NamedTuple):
    """One network's part, with its inputs."""

    network: Network
    part: Part
    feed: Mapping[str, Array]

    def run(self, change: Change = NO_CHANGE, other: Network | None = None) -> Array:
        """The part's value with a change."""
        return self.network.cut(self.part, change, other)(self.feed)[0]


class Trial(NamedTuple):
    """One thing to change: the cause in words, where it then lies, what is done, and the change of A's and B's part."""

    text: str
    where: Where
    a: Change | None = None
    b: Change | None = None
    done: str = ""


def find_cause(a: Side, b: Side, floor: float) -> Cause:
    """The first change that makes the difference between two parts vanish, or what was tried in vain.

    Args:
        a: the reference, on its own inputs.
        b: the other, on the same.
        floor: relative difference that rounding explains.
    """
    plain_a, plain_b = a.run(), b.run()
    limit = max(_VANISHED * relative(plain_b, plain_a), floor)
    tried: dict[str, float] = {}
    for trial in _trials(a, b):
        try:
            value_a = plain_a if trial.a is None else a.run(trial.a, b.network)
            value_b = plain_b if trial.b is None else b.run(trial.b, a.network)
        except InputError:
            continue  # this part does not run so
        left = relative(value_b, value_a)
        if left <= limit:
            return Cause(text=trial.text, where=trial.where, left=left, tried=tried)
        tried[trial.done or trial.text] = left
    shift = _SHIFT * _least_step(a)
    if shift:
        moved = [
            side._replace(feed={name: value + np.float32(shift) for name, value in side.feed.items()})
            for side in (a, b)
        ]
        left = relative(moved[1].run(), moved[0].run())
        if left <= limit:
            return Cause(text=_TIES, where="engine", left=left, tried=tried)
        tried["inputs moved by a hundredth of a step"] = left
    return Cause(
        text=_UNKNOWN, where=_engine_or_file(a, b, plain_a, plain_b), left=min(tried.values(), default=1.0), tried=tried
    )


def _moved(side: Side, shift: float) -> Side:
    return side._replace(feed={name: value + np.float32(shift) for name, value in side.feed.items()})


def _least_step(side: Side) -> float:
    """Of the inputs that the part rounds itself; 0 where it rounds none."""
    pairs = [pair for source, pair in side.network.topology.pairs.items() if source in side.part.inputs]
    return min((pair.grid.step for pair in pairs if pair.grid is not None and _is_in(side, pair.rounded)), default=0.0)


def _trials(a: Side, b: Side) -> Iterator[Trial]:
    if isinstance(a.network, OnnxNetwork) and isinstance(b.network, OnnxNetwork):
        yield from _onnx_differences(a.network, a.part, b.network, b.part)
    else:
        yield from _constants(a, b)
    for setting in b.network.settings:
        change = Change(setting=setting.name)
        yield Trial(setting.cause, "engine", b=change, done=f"B: {setting.name}")
        if a.network.backend == b.network.backend:
            yield Trial(setting.cause, "engine", a=change, b=change, done=f"A and B: {setting.name}")
    for setting in a.network.settings:
        yield Trial(setting.cause, "engine", a=Change(setting=setting.name), done=f"A: {setting.name}")
    yield from _roundings(a, b)


def _onnx_differences(a: OnnxNetwork, part_a: Part, b: OnnxNetwork, part_b: Part) -> Iterator[Trial]:
    """Constants and attributes of nodes that correspond in order; none where the parts are built differently."""
    pairs = list(zip(part_a.nodes, part_b.nodes, strict=False))
    kinds = [[network.nodes[i].operator for i in part.nodes] for network, part in ((a, part_a), (b, part_b))]
    if kinds[0] != kinds[1]:
        return
    changes: list[Change] = []
    for left, right in pairs:
        ours, theirs = a.nodes[left], b.nodes[right]
        for place, (one, other) in enumerate(zip(ours.inputs, theirs.inputs, strict=False)):
            if one not in a.initializers or other not in b.initializers:
                continue
            if renamed(a.initializers[one], "") == renamed(b.initializers[other], ""):
                continue
            change = Change(swapped=((other, one),))
            if change in changes:
                continue
            changes.append(change)
            what = _role(theirs.operator, place)
            text = f"{what} of {theirs.operator} {theirs.name or theirs.outputs[0]} is {_shown(b, other)}"
            yield Trial(f"{text} in B and {_shown(a, one)} in A", "file", b=change)
        for name in sorted(ours.attributes.keys() | theirs.attributes.keys()):
            taken, replaced = ours.attributes.get(name), theirs.attributes.get(name)
            if taken == replaced:
                continue
            changes.append(Change(attributes=((right, name, left),)))
            shown = ["its default" if raw is None else describe_attribute(raw) for raw in (replaced, taken)]
            text = f"{name} of {theirs.operator} {theirs.name or theirs.outputs[0]} is {shown[0]} in B"
            yield Trial(f"{text} and {shown[1]} in A", "file", b=changes[-1])
    if len(changes) > 1:
        swapped = tuple(pair for change in changes for pair in change.swapped)
        attributes = tuple(taken for change in changes for taken in change.attributes)
        together = Change(swapped=swapped, attributes=attributes)
        yield Trial(f"{len(changes)} constants and attributes differ, and only together explain it", "file", b=together)


def _role(operator: str, place: int) -> str:
    if operator in ("QuantizeLinear", "DequantizeLinear"):
        return ("values", "scale", "zero point")[place]
    if operator in ("Conv", "ConvTranspose", "Gemm"):
        return ("input", "weight", "bias")[place]
    return f"constant {place}"


def _constants(a: Side, b: Side) -> Iterator[Trial]:
    """Weights and biases of products that correspond in order, where OpenVINO runs one of the sides."""
    in_b = isinstance(b.network, OpenVinoNetwork)
    taker, giver = (b, a) if in_b else (a, b)
    if not isinstance(taker.network, OpenVinoNetwork):
        return
    own, theirs = (_constants_of(side.network.topology, side.part) for side in (taker, giver))
    if [what for what, _ in own] != [what for what, _ in theirs]:
        return
    changes: list[Change] = []
    for (what, one), (_, other) in zip(own, theirs, strict=True):
        values = taker.network.constants([one])[0], giver.network.constants([other])[0]
        if values[0].size != values[1].size or np.allclose(values[0].ravel(), values[1].ravel(), rtol=1e-6, atol=0):
            continue
        changes.append(Change(swapped=((one, other),)))
        apart = relative(*(side.ravel() for side in (values if in_b else values[::-1])))
        yield _taking(changes[-1], f"the {what} differs by {apart:.2g} of its norm", in_b)
    if len(changes) > 1:
        together = Change(swapped=tuple(pair for change in changes for pair in change.swapped))
        yield _taking(together, f"{len(changes)} weights and biases differ, and only together explain it", in_b)


def _taking(change: Change, text: str, in_b: bool) -> Trial:
    return Trial(text, "file", b=change) if in_b else Trial(text, "file", a=change)


_PRODUCTS = {"Conv": "Conv", "Convolution": "Conv", "GroupConvolution": "Conv", "MatMul": "MatMul", "Gemm": "MatMul"}


def _constants_of(topology: Topology, part: Part) -> list[tuple[str, str]]:
    """What it is → value, of the constants of products and of what is added to their results."""
    constants = []
    for index in part.nodes:
        node = topology.nodes[index]
        if node.operator not in _PRODUCTS or node.outputs[0] not in topology.reached:
            continue
        kind = _PRODUCTS[node.operator]
        sums = [topology.nodes[reader] for reader in topology.readers.get(node.outputs[0], ()) if reader in part.nodes]
        added = [_origin(name, topology) for total in sums if total.operator == "Add" for name in total.inputs]
        for what, names in (("weight", node.inputs[1:2]), ("bias", (*node.inputs[2:3], *added))):
            constants += [(f"{what} of {kind}", name) for name in names if name not in topology.reached]
    return constants


def _origin(value: str, topology: Topology) -> str:
    """``value`` before it was reshaped: OpenVINO gives a bias the shape of what it is added to."""
    while value in topology.maker and topology.nodes[topology.maker[value]].operator == "Reshape":
        value = topology.nodes[topology.maker[value]].inputs[0]
    return value


def _roundings(a: Side, b: Side) -> Iterator[Trial]:
    """Values in the parts that are rounded in one file only, or differently, and then all that are rounded."""
    public = [{own: name for name, own in side.network.topology.names.items()} for side in (a, b)]
    pairs = [
        {public[place].get(source, source): pair for source, pair in side.network.topology.pairs.items()
         if _is_in(side, pair.rounded)}
        for place, side in enumerate((a, b))
    ]  # fmt: skip
    for name in dict.fromkeys([*pairs[0], *pairs[1]]):
        one, other = pairs[0].get(name), pairs[1].get(name)
        changes = [Change(unrounded=frozenset([pair.source])) if pair else None for pair in (one, other)]
        grids = [pair.grid.describe() if pair and pair.grid else "steps a channel" for pair in (one, other)]
        if one is None or other is None:
            where = "B" if one is None else "A"
            yield Trial(f"{name} is rounded in {where} only, to {grids[one is None]}", "file", changes[0], changes[1])
        elif not (one.grid and other.grid and one.grid.same(other.grid)):
            yield Trial(f"{name} is rounded to {grids[1]} in B and to {grids[0]} in A", "file", changes[0], changes[1])
    sources = [frozenset(pair.source for pair in found.values()) for found in pairs]
    if any(sources):
        both = [Change(unrounded=found) for found in sources]
        yield Trial("rounding in this layer: gone where nothing is rounded", "engine", both[0], both[1])


def _is_in(side: Side, rounded: str) -> bool:
    maker = side.network.topology.maker[rounded]
    return maker in side.part.nodes and rounded not in side.part.inputs


def _engine_or_file(a: Side, b: Side, plain_a: Array, plain_b: Array) -> Where:
    """The part of an ONNX file in OpenVINO too: it gives what it gave in its own engine if the files differ."""
    if a.network.backend == b.network.backend:
        return "file"
    distance = relative(plain_b, plain_a)
    for ours, theirs, own, other in ((a, b, plain_a, plain_b), (b, a, plain_b, plain_a)):
        if not (isinstance(ours.network, OnnxNetwork) and isinstance(theirs.network, OpenVinoNetwork)):
            continue
        try:
            content = ours.network.part_model(ours.part, {name: value.shape for name, value in ours.feed.items()})
            moved = theirs.network.run_onnx(content, ours.feed)
        except InputError:
            continue
        if relative(moved, own) <= _VANISHED * distance:
            return "file"
        if relative(moved, other) <= _VANISHED * distance:
            return "engine"
    return "not known"


def _shown(network: Network, name: str) -> str:
    try:
        values = network.constants([name])[0]
    except InputError:
        return "something else"
    if values.size <= _MOST_SHOWN:
        return ", ".join(f"{value:.6g}" for value in values.ravel())
    return f"{list(values.shape)} with a norm of {float(np.linalg.norm(values)):.6g}"
