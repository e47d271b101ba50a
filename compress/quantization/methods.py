"""`Method`: how one INT8 candidate is made, and the candidates in the order in which they are tried.

The search is greedy: each candidate changes one thing of the best one so far, so that a good range estimator is kept
when SmoothQuant is tried on top of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal

import msgspec

from medfm_compress.compress.quantization.nncf_settings import NncfSettings
from medfm_compress.compress.quantization.qdq import Symmetric
from medfm_compress.runtime.bundle.manifest import Precision

DEFAULT_ESTIMATOR = "minmax"  # clips nothing; the others must win on validation cases
SECOND_ESTIMATOR = "mse"  # the better one for most CNNs
OTHER_ESTIMATORS = ("percentile", "mean-minmax")
TRAINED = "trained"  # no estimator: the ranges that the network was trained with, see `qat`
_AFTER_SMOOTHING = ("minmax", "mse")  # outliers gone, another estimator may be best
Rest = Literal["fp32", "bf16"]
EXPLICIT_STRENGTHS = (0.7, 0.85)  # of SmoothQuant by multiplications
_SYMMETRIC: dict[Symmetric, str] = {"balanced": "balanced-symmetric", "all": "symmetric"}
EXCLUSIONS = (1, 2, 4, 8, 16, 32)  # layers left in float, as long as the limits are not met


class Method(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How an INT8 candidate is made.

    Attributes:
        estimator: of the activation ranges, see `ranges`; or `TRAINED`, with which what has none gets the default.
        placement: name of the backend's placement, see `build`; ``dynamic`` finds ranges at run time.
        rest: precision of what stays in float: ``fp32``, or ``bf16`` where the CPU has it.
        symmetric: activations without a zero point, which OpenVINO multiplies faster with AMX, and slower without it.
        weight_bits: 8 or 4 for weights only, with float activations; 0 for both.
        smoothquant: activation outliers are moved into the weights first.
        bias_correction: the mean error of the rounded weights is taken out of the biases.
        divided: α of SmoothQuant by multiplications of their own, see `explicit_smoothing`; 0 is off.
        excluded: layers that stay in float, by node name.
        reduced: weights of 7 bits, which no CPU saturates on.
        nncf: NNCF makes it, as told here; ``rest``, ``weight_bits``, ``excluded`` and ``reduced`` hold for it as well.
    """

    estimator: str = DEFAULT_ESTIMATOR
    placement: str = "default"
    rest: Rest = "fp32"
    symmetric: Symmetric = "none"
    weight_bits: Literal[0, 4, 8] = 0
    smoothquant: bool = False
    bias_correction: bool = False
    divided: float = 0.0
    excluded: tuple[str, ...] = ()
    reduced: bool = False
    nncf: NncfSettings | None = None

    def __str__(self) -> str:
        if self.weight_bits:
            return "-".join([self.precision, *(["+".join(self.nncf.weight_parts)] if self.nncf else [])])
        parts = self.nncf.parts if self.nncf else self._parts
        parts += [f"without-{len(self.excluded)}-layers"] if self.excluded else []
        parts += ["7-bit-weights"] if self.reduced else []
        return f"{self.precision}-" + "+".join(parts)

    @property
    def _parts(self) -> list[str]:
        """Of the name: how this house makes it."""
        parts = [self.placement] if self.placement != "default" else []
        parts += [_SYMMETRIC[self.symmetric]] if self.symmetric != "none" else []
        parts += [self.estimator] if self.placement != "dynamic" else []
        parts += ["smoothquant"] if self.smoothquant else []
        parts += [f"explicit-smoothquant-{self.divided:g}"] if self.divided else []
        return parts + (["bias-correction"] if self.bias_correction else [])

    @property
    def precision(self) -> Precision:
        """Of the variant it makes."""
        if self.weight_bits:
            return "int4-weights" if self.weight_bits == 4 else "int8-weights"
        return "int8-bf16" if self.rest == "bf16" else "int8"


class DoesNotApply(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A candidate that has nothing to do here, and why.

    Attributes:
        candidate: its name.
        reason: one phrase.
    """

    candidate: str
    reason: str


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """What the candidate search knows when it asks for the next candidate.

    Attributes:
        best: the best method so far; None before any could be opened.
        within_limits: it may ship as it is.
        competitive: worth improving: it would ship, or is faster than what would.
    """

    best: Method | None
    within_limits: bool
    competitive: bool = True


class Lookup(msgspec.Struct, frozen=True, kw_only=True):
    """What the candidate search asks for on its way.

    Attributes:
        standing: the best so far.
        most_harmful: node names of layers, most harmful first, for a method; slow, so asked last.
        smooths: whether SmoothQuant finds anything to fold into.
        divides: whether outlier channels enter products that nothing before takes the scales up for.
        missed: the most faithful of the fastest candidates that only the error limit keeps from shipping.
        tried: whether a candidate was made so already.
        nncf: what NNCF is told first; or why it cannot be asked, or None where nobody wants it to be.
        nncf_standing: the best of NNCF's so far.
        error_limit: largest relative logit error.
        reduced: weights have 7 bits.
        symmetric: activations that the first candidates leave without a zero point.
        is_skewed: whether one with a zero point is left then.
    """

    standing: Callable[[], Standing]
    most_harmful: Callable[[Method], tuple[str, ...]]
    smooths: Callable[[], bool]
    divides: Callable[[], bool] = lambda: False
    missed: Callable[[], Method | None] = lambda: None
    tried: Callable[[Method], bool] = lambda method: False
    nncf: Callable[[], NncfSettings | str | None] = lambda: None
    nncf_standing: Callable[[], Standing] = lambda: Standing(best=None, within_limits=False)
    error_limit: float = 0.0
    reduced: bool = False
    symmetric: Symmetric = "none"
    is_skewed: Callable[[], bool] = lambda: True


def candidates(starts: tuple[Method, ...], lookup: Lookup) -> Iterator[Method | DoesNotApply]:
    """The INT8 candidates, cheapest first; lazily, since later ones build on the best so far.

    Args:
        starts: the placements and float precisions that differ on this graph and target, the usual one first.
        lookup: what is known so far.
    """
    # They build on what is defined here.
    from medfm_compress.compress.quantization import nncf_candidates as nncf
    from medfm_compress.compress.quantization.missed_candidates import missed_candidates

    first = starts[0]
    yield first
    if first.weight_bits:
        yield from nncf.nncf_weight_candidates(lookup, first)
        return
    if first.estimator == TRAINED:
        yield from _trained(lookup, starts)
        if lookup.standing().within_limits:
            return
        first = msgspec.structs.replace(first, estimator=DEFAULT_ESTIMATOR, symmetric=lookup.symmetric)
        yield first
    for rest in (start.rest for start in starts[1:] if start.placement == first.placement):
        yield msgspec.structs.replace(first, rest=rest)  # the same files, and often faster: what follows builds on it
    yield from _without_zero_points(lookup, first)
    yield msgspec.structs.replace(_best(lookup, first), estimator=SECOND_ESTIMATOR)
    yield from _smoothed(lookup, first)
    finer = msgspec.structs.replace(_best(lookup, first), symmetric="none")
    if not lookup.standing().within_limits and not lookup.tried(finer):
        yield finer  # whatever limit is missed: their steps are smaller
    static = _best(lookup, first)
    for start in starts[1:]:
        placed = msgspec.structs.replace(static, placement=start.placement, rest=start.rest)
        if not lookup.tried(placed):
            yield placed
    best = _best(lookup, first)
    for estimator in OTHER_ESTIMATORS if best.placement != "dynamic" else ():
        yield msgspec.structs.replace(best, estimator=estimator)
    yield msgspec.structs.replace(_best(lookup, first), bias_correction=True)
    yield from missed_candidates(lookup)
    # NNCF calibrates anew for each candidate, in a process of its own, where ours share one calibration: it comes when
    # the cheap ones are done, and also where one of them is within the limits, since its placement may be faster.
    yield from nncf.nncf_candidates(lookup, tuple(dict.fromkeys(start.rest for start in starts)))
    yield from _exclusions(lookup, first)
    yield from nncf.accuracy_control(lookup)
    if starts[0].estimator != TRAINED:
        yield DoesNotApply(
            candidate="int8-quantization-aware-training",
            reason="it needs the torch model and its teacher, and a bundle holds neither: distill --qat",
        )


def _trained(lookup: Lookup, starts: tuple[Method, ...]) -> Iterator[Method | DoesNotApply]:
    """The other placements with trained ranges; what calibration could do to them would undo what was trained."""
    yield from starts[1:]
    if lookup.standing().within_limits:
        yield DoesNotApply(candidate="int8-calibrated", reason="the network was trained for INT8, within the limits")


def _without_zero_points(lookup: Lookup, first: Method) -> Iterator[Method | DoesNotApply]:
    """Those that a skewed range keeps in the first candidates are left out too."""
    if first.symmetric != "balanced":
        return
    if not lookup.is_skewed():
        yield DoesNotApply(candidate="int8-symmetric", reason="no activation has a skewed range")
        return
    best = _best(lookup, first)
    yield msgspec.structs.replace(first if best.estimator == TRAINED else best, symmetric="all")


def _smoothed(lookup: Lookup, first: Method) -> Iterator[Method | DoesNotApply]:
    best = _best(lookup, first)
    if not lookup.smooths():
        yield DoesNotApply(candidate="int8-smoothquant", reason="nothing before a layer takes up its scales")
        if not lookup.standing().within_limits and best.estimator != TRAINED and lookup.divides():
            yield from (msgspec.structs.replace(best, divided=strength) for strength in EXPLICIT_STRENGTHS)
        return
    own = () if best.estimator == TRAINED else (best.estimator,)  # smoothing moves what trained ranges are of
    for estimator in dict.fromkeys((*own, *_AFTER_SMOOTHING)):
        yield msgspec.structs.replace(best, smoothquant=True, estimator=estimator)


def _exclusions(lookup: Lookup, first: Method) -> Iterator[Method | DoesNotApply]:
    start = lookup.standing()
    if start.within_limits:
        yield DoesNotApply(candidate="int8-without-layers", reason="the limits are met with every layer in INT8")
        return
    best = start.best or first
    ranked = () if best.placement == "dynamic" else lookup.most_harmful(best)
    if not ranked:
        yield DoesNotApply(candidate="int8-without-layers", reason="no layer's own harm could be measured")
    for count in EXCLUSIONS:
        if count >= len(ranked) or lookup.standing().within_limits:
            return
        yield msgspec.structs.replace(best, excluded=ranked[:count])


def _best(lookup: Lookup, first: Method) -> Method:
    return lookup.standing().best or first
