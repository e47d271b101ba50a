"""The candidates that NNCF makes, in the order in which they are tried; greedy, like the others.

The first one shows how fast NNCF's placement is, which no range, alpha or correction changes much. Where what may ship
already is as fast, its other candidates could win by fidelity alone, and are not made: each calibrates anew.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from medfm_compress.compress.quantization.methods import DoesNotApply, Lookup, Method, Rest
from medfm_compress.compress.quantization.nncf_settings import NncfSettings, Rounding
from medfm_compress.runtime.bundle.manifest import Backend

_ALPHAS = (0.5, 0.95)  # SmoothQuant's own, and what NNCF takes for transformers
_NO_FASTER = "NNCF's placement is no faster than the best candidate"
_ROUNDINGS: tuple[Rounding, ...] = ("", "awq+scale-estimation", "gptq")


def is_installed() -> bool:
    """Whether NNCF is there to be started; it is not imported."""
    from importlib.util import find_spec

    return find_spec("nncf") is not None


def first_settings(backend: Backend, *, attention: bool) -> NncfSettings:
    """Where the search among NNCF's candidates begins.

    ONNX Runtime gets zero points always: without them activations are signed, which costs its convolutions a factor.

    Args:
        backend: that will run the candidate.
        attention: the graph has some.
    """
    mixed = attention or backend == "onnxruntime"
    return NncfSettings(transformer=attention, preset="mixed" if mixed else "performance")


def nncf_candidates(lookup: Lookup, rests: Sequence[Rest]) -> Iterator[Method | DoesNotApply]:
    """NNCF's candidates for weights and activations.

    Args:
        lookup: what is known so far.
        rests: precisions that what stays in float may have.
    """
    settings = lookup.nncf()
    if settings is None:
        return
    if isinstance(settings, str):
        yield DoesNotApply(candidate="int8-nncf", reason=settings)
        return
    known = lookup.standing().best
    first = Method(nncf=settings, rest=known.rest if known else rests[0], reduced=lookup.reduced)
    yield first
    for rest in rests:  # the same files
        if rest != first.rest:
            yield msgspec.structs.replace(first, rest=rest)
    standing = lookup.nncf_standing()
    if standing.best is None:
        return
    if not standing.competitive:
        yield DoesNotApply(candidate="int8-nncf, others", reason=_NO_FASTER)
        return
    for change in _changes(settings, lookup):
        best = lookup.nncf_standing().best or first
        yield msgspec.structs.replace(best, nncf=msgspec.structs.replace(best.nncf or settings, **change))


def accuracy_control(lookup: Lookup) -> Iterator[Method | DoesNotApply]:
    """The last resort: layer after layer returns to float as long as the limit on the error is missed."""
    standing = lookup.nncf_standing()
    if standing.best is None or standing.best.nncf is None:
        return
    if lookup.standing().within_limits or not standing.competitive:
        reason = "the limits are met without it" if lookup.standing().within_limits else _NO_FASTER
        yield DoesNotApply(candidate="int8-nncf+accuracy-control", reason=reason)
        return
    controlled = msgspec.structs.replace(standing.best.nncf, error_limit=lookup.error_limit)
    yield msgspec.structs.replace(standing.best, nncf=controlled, excluded=())


def nncf_weight_candidates(lookup: Lookup, first: Method) -> Iterator[Method | DoesNotApply]:
    """NNCF's candidates for weights alone; only 4 bits have a rounding that looks at data.

    Args:
        lookup: what is known so far.
        first: our own.
    """
    settings = lookup.nncf()
    if settings is None:
        return
    if isinstance(settings, str):
        yield DoesNotApply(candidate=f"{first.precision}-nncf", reason=settings)
        return
    for rounding in _ROUNDINGS if first.weight_bits == 4 else _ROUNDINGS[:1]:
        yield msgspec.structs.replace(first, nncf=NncfSettings(rounding=rounding))


def _changes(settings: NncfSettings, lookup: Lookup) -> Iterator[dict[str, Any]]:
    """One thing at a time, what helps most networks first."""
    if settings.transformer:
        yield {"transformer": False}  # OpenVINO's kernels do not compute every graph that NNCF's rules for them give
    for alpha in _ALPHAS if _best(lookup, settings).transformer else ():  # smoothing is one of these rules
        yield {"smoothquant": alpha}
    yield {"bias_correction": "accurate"}
    if not _best(lookup, settings).bias_correction:
        yield {"bias_correction": "fast"}
    yield {"estimator": "minmax"}
    yield {"estimator": "mean-no-outliers"}
    if settings.preset == "performance":
        yield {"preset": "mixed"}


def _best(lookup: Lookup, settings: NncfSettings) -> NncfSettings:
    best = lookup.nncf_standing().best
    return best.nncf if best is not None and best.nncf is not None else settings
