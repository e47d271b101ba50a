"""What is said of two variants: the values of this page of JSON, for people and programs alike."""

from __future__ import annotations

from typing import Literal

import msgspec

FUSED = 1e-3
"""Relative difference between a value alone and in the whole network from which on they are told apart."""
Where = Literal["file", "engine", "not known"]


class Cause(msgspec.Struct, frozen=True, kw_only=True):
    """Why a layer creates a difference: what was changed, and what was left of the difference then.

    Attributes:
        text: in a sentence's words; ``not known`` where nothing made the difference vanish.
        where: in the files, in the engines, or not known.
        left: relative difference with the change; of ``not known`` the least that any change left.
        tried: changes that left more than a tenth, with what they left.
    """

    text: str
    where: Where
    left: float
    tried: dict[str, float] = {}


class LayerDifference(msgspec.Struct, frozen=True, kw_only=True):
    """One value of the source network in both variants; A is the reference.

    Attributes:
        value: its name in the files.
        layer: module of the source network, or ``behind`` the nearest one with parameters.
        operator: that makes it, as A's file spells it.
        error: ‖b − a‖ / ‖a‖ over the cases, inherited and created.
        created: the same when both get A's values as inputs; None where the part does not run alone.
        floor: what rounding explains: created differences below it are none.
        steps: largest |b − a| in steps of the coarser of the two roundings; None where the value is not rounded.
        saturated: share of values at an end of their range, in A and in B; None where not rounded.
        alone: how far the part alone, of A and of B, is from its value in the whole network. Beyond ``FUSED`` an
            engine fuses across its border, and what it creates there is not seen in ``created``.
        with_inputs: the part takes in what makes its inputs, since an engine fuses them.
        note: why ``created`` is None, empty otherwise.
        cause: of a layer that parts, for the first and the largest of them.
    """

    value: str
    layer: str
    operator: str
    error: float
    created: float | None
    floor: float
    steps: float | None = None
    saturated: tuple[float | None, float | None] = (None, None)
    alone: tuple[float, float] = (0.0, 0.0)
    with_inputs: bool = False
    note: str = ""
    cause: Cause | None = None

    @property
    def fused(self) -> bool:
        """Whether the part alone is not what the whole network computes."""
        return max(self.alone) > max(self.floor, FUSED)

    @property
    def parts(self) -> bool:
        """Whether this layer creates a difference beyond rounding."""
        return self.created is not None and not self.created <= self.floor


class Exposure(msgspec.Struct, frozen=True, kw_only=True):
    """How far looking changed what was looked at.

    Attributes:
        change: largest relative change of the output when intermediate values were exposed; 0 is none to the bit.
        runs: in how many portions the values were exposed.
    """

    change: float
    runs: int


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """Two variants, layer by layer.

    Attributes:
        a: name of the reference variant.
        b: name of the other.
        cases: images that both ran on.
        output_error: relative logit error of B against A.
        matched_by: whether values were matched by name or by place.
        exposure: of A and of B.
        layers: every matched value, in A's order.
    """

    a: str
    b: str
    cases: int
    output_error: float
    matched_by: Literal["name", "place"]
    exposure: tuple[Exposure, Exposure]
    layers: tuple[LayerDifference, ...]

    @property
    def parted(self) -> tuple[LayerDifference, ...]:
        """Layers that create a difference beyond rounding, in A's order."""
        return tuple(layer for layer in self.layers if layer.parts)

    @property
    def noise(self) -> float:
        """The largest created difference of the layers that do not part."""
        return max((layer.created or 0.0 for layer in self.layers if not layer.parts), default=0.0)
