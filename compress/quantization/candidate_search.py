"""The candidate search: try one candidate after another on one target, cheapest first, and choose the one that ships.

Among the candidates within the limits of fidelity, and faster than the FP32 they would replace, the fastest ships; of
those whose latencies hardly differ, the most faithful. Every other one keeps the reason why not. The finalists are
timed once more, all in turns, because their first timings were minutes apart.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from medfm_compress.compress.quantization.fidelity import ValidationSet, case_logits, fidelity, interleaved_p50_ms
from medfm_compress.compress.quantization.methods import (
    DEFAULT_ESTIMATOR,
    TRAINED,
    DoesNotApply,
    Lookup,
    Method,
    Rest,
    Standing,
    candidates,
)
from medfm_compress.export.build import Export, open_export
from medfm_compress.runtime.bundle.manifest import Backend, Variant
from medfm_compress.runtime.errors import BundleRefused, ModelError
from medfm_compress.runtime.progress import Progress

NEAR = 1.05  # latencies within it are equal, so that fidelity decides among them
_FINALISTS = 3


class Limits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a candidate must keep to, and how much may be spent on finding one.

    Attributes:
        error: largest relative logit error on validation cases, > 0.
        auroc_drop: largest fall of a finding's AUROC on them, >= 0.
        rounds: interleaved latency rounds, fewer where a network is slow.
        threads: of the sessions that are timed.
        weight_bits: 8 or 4 to compress weights only; the clock then decides nothing, since size is what hurts.
        deadline: `time.monotonic` after which no further rung begins; the first one always does.
    """

    error: float
    auroc_drop: float
    rounds: int
    threads: int
    deadline: float
    weight_bits: Literal[0, 4, 8] = 0


class CandidateTrial(msgspec.Struct, kw_only=True):
    """A candidate under trial.

    Attributes:
        name: of the method, e.g. ``int8-minmax``, ``bf16``, ``fp32``.
        method: how it was made; None for a float precision.
        variant: what it would be in a bundle.
        export: opened and in memory; None where it failed or is out of the running.
        p50_ms: of its latest timing.
        speedup: FP32 / its own, of that timing.
        error: relative logit error on validation cases.
        auroc_drop: see `Candidate`.
        size_bytes: of its files.
        logits: on the validation cases that judge.
        kept: it ships.
        is_fallback: as a fall-back behind the one that ships first.
        reason: why, or why not.
    """

    name: str
    variant: Variant
    method: Method | None = None
    export: Export | None = None
    p50_ms: float = 0.0
    speedup: float = 0.0
    error: float = 0.0
    auroc_drop: float = 0.0
    size_bytes: int = 0
    logits: NDArray[np.float32] | None = None
    kept: bool = False
    is_fallback: bool = False
    reason: str = ""

    @property
    def ran(self) -> bool:
        """It could be opened, and was judged and timed."""
        return self.p50_ms > 0


class Builder(Protocol):
    """What makes the contents of a candidate's files; see `build.GraphBuilder`."""

    @property
    def trained(self) -> bool:
        """Whether the network was trained for INT8, so that it has ranges of its own."""
        ...

    def placements(self, backend: Backend) -> tuple[str, ...]:
        """Names of the backend's placements that this graph distinguishes, the usual one first."""
        ...

    def build(self, backend: Backend, method: Method) -> tuple[bytes, ...]:
        """The files' contents."""
        ...

    def smooths(self) -> bool:
        """Whether SmoothQuant finds anything to fold into."""
        ...

    def most_harmful(self, backend: Backend, method: Method) -> tuple[str, ...]:
        """Node names of layers, most harmful first."""
        ...


class Group(NamedTuple):
    """One target.

    Attributes:
        reference: its FP32 trial, opened.
        floats: trials in other float precisions.
        rests: precisions that what stays in float may have beside INT8.
        variant: what a method makes.
        last: a float trial for when nothing else may ship.
    """

    reference: CandidateTrial
    floats: tuple[CandidateTrial | DoesNotApply, ...]
    rests: tuple[Rest, ...]
    variant: Callable[[Method], Variant]
    last: Callable[[], CandidateTrial | DoesNotApply] | None = None


def search_candidates(
    group: Group, builder: Builder, validation: ValidationSet, limits: Limits, progress: Progress
) -> list[CandidateTrial | DoesNotApply]:
    """Try every rung on one target; the trials in order, FP32 first, with ``kept`` and ``reason`` filled in.

    Args:
        group: the target.
        builder: makes the INT8 candidates.
        validation: validation cases.
        limits: see `Limits`.
        progress: told what begins.
    """
    reference = group.reference
    backend = reference.variant.backend
    session = _opened(reference).session
    reference.logits = case_logits(session, validation.inputs)
    tried: list[CandidateTrial | DoesNotApply] = [reference]
    lookup = Lookup(
        standing=lambda: _standing(tried, limits),
        most_harmful=lambda method: builder.most_harmful(backend, method),
        smooths=builder.smooths,
    )
    names, estimator = builder.placements(backend), TRAINED if builder.trained else DEFAULT_ESTIMATOR
    starts = tuple(Method(placement=name, rest=rest, estimator=estimator) for name in names for rest in group.rests)
    if limits.weight_bits:
        starts = (Method(weight_bits=limits.weight_bits),)
    for candidate in _timely(group, candidates(starts, lookup), lookup, limits):
        if isinstance(candidate, DoesNotApply):
            tried.append(candidate)
            continue
        progress(f"{backend}: {candidate if isinstance(candidate, Method) else candidate.name}")
        if isinstance(candidate, Method):
            tried.append(try_method(candidate, group, builder, validation, limits))
        else:
            tried.append(candidate)
            measure_fidelity(candidate, reference, validation, limits)
        _forget(tried, limits)
    _settle(reference, tried, validation, limits)
    return tried


def try_method(
    method: Method, group: Group, builder: Builder, validation: ValidationSet, limits: Limits
) -> CandidateTrial:
    """Build, open, judge and time one INT8 candidate; what cannot be run says so in ``reason``."""
    trial = _open(method, group, builder, limits)
    measure_fidelity(trial, group.reference, validation, limits)
    return trial


def rejection_reason(trial: CandidateTrial, limits: Limits) -> str:
    """Why a trial may not ship; empty where it may. No figure of the clock, so that bundles stay comparable."""
    if not trial.ran:
        return trial.reason or "it could not be run"
    if not trial.error <= limits.error:
        return f"relative logit error {trial.error:.3g} is above the limit {limits.error:g}"
    if not trial.auroc_drop <= limits.auroc_drop:
        return f"AUROC falls by {trial.auroc_drop:.3g} on validation cases, the limit is {limits.auroc_drop:g}"
    if trial.speedup <= 1 and not limits.weight_bits:
        return "not faster than FP32 on the measuring machine"
    return ""


def best_of(trials: list[CandidateTrial], limits: Limits) -> CandidateTrial | None:
    """The trial that ships: the fastest without an objection, of those that are nearly as fast the most faithful.

    Before that come those with trained ranges: they compute what was trained, and FP32, which the others are held
    against, does not.
    """
    eligible = [trial for trial in trials if not rejection_reason(trial, limits)]
    if not eligible:
        return None
    near = max(trial.speedup for trial in eligible) / NEAR
    return min((trial for trial in eligible if trial.speedup >= near), key=lambda t: (not _is_trained(t), t.error))


def _is_trained(trial: CandidateTrial) -> bool:
    return trial.method is not None and trial.method.estimator == TRAINED


def _timely(
    group: Group, climbed: Iterator[Method | DoesNotApply], lookup: Lookup, limits: Limits
) -> Iterator[CandidateTrial | Method | DoesNotApply]:
    """The rungs, until the deadline; the float ones and the first INT8 one need no calibration of their own."""
    if not limits.weight_bits:
        yield from group.floats
    for number, candidate in enumerate(climbed):
        if number and time.monotonic() > limits.deadline:
            yield DoesNotApply(candidate="further rungs", reason="the time budget was used up")
            break
        yield candidate
    if group.last is not None and not lookup.standing().within_limits and not limits.weight_bits:
        yield group.last()


def _standing(tried: list[CandidateTrial | DoesNotApply], limits: Limits) -> Standing:
    """The best INT8 trial so far: what would ship of them, else the most faithful that ran."""
    trials = [trial for trial in _trials(tried) if trial.method is not None and trial.ran]
    best = best_of(trials, limits)
    if best is None:
        closest = min(trials, key=lambda trial: trial.error, default=None)
        return Standing(best=closest.method if closest else None, within_limits=False)
    return Standing(best=best.method, within_limits=True)


def _open(method: Method, group: Group, builder: Builder, limits: Limits) -> CandidateTrial:
    trial = CandidateTrial(name=str(method), method=method, variant=group.variant(method))
    try:
        contents = builder.build(trial.variant.backend, method)
        trial.size_bytes = sum(map(len, contents))
        trial.export = open_export(trial.variant, contents, limits.threads)
    except (BundleRefused, ModelError) as exc:
        trial.reason = f"cannot be run: {exc}"
    return trial


def measure_fidelity(
    trial: CandidateTrial, reference: CandidateTrial, validation: ValidationSet, limits: Limits
) -> None:
    """Fill in how faithful and how fast an opened trial is; one that could not be opened stays as it is."""
    if trial.export is None or reference.logits is None:
        return
    trial.logits = case_logits(trial.export.session, validation.inputs)
    trial.error, trial.auroc_drop = fidelity(trial.logits, reference.logits, validation)
    _time(reference, [trial], validation, limits)


def _time(reference: CandidateTrial, trials: list[CandidateTrial], validation: ValidationSet, limits: Limits) -> None:
    """Time FP32 and ``trials`` in turns; a trial's speed-up is of this very comparison."""
    sessions = [_opened(each).session for each in (reference, *trials)]
    latencies = interleaved_p50_ms(sessions, validation.inputs[:1], limits.rounds)
    if not reference.ran:
        reference.p50_ms, reference.speedup = latencies[0], 1.0
    for trial, p50 in zip(trials, latencies[1:], strict=True):
        trial.p50_ms, trial.speedup = p50, latencies[0] / p50


def _forget(tried: list[CandidateTrial | DoesNotApply], limits: Limits) -> None:
    """Free the networks that are out of the running: a large one takes hundreds of MB."""
    running = [trial for trial in _trials(tried)[1:] if trial.export is not None]
    stay = sorted((t for t in running if not rejection_reason(t, limits)), key=lambda t: -t.speedup)[:_FINALISTS]
    best = best_of(running, limits)
    for trial in running:
        if trial not in stay and trial is not best:
            trial.export = trial.logits = None


def _settle(
    reference: CandidateTrial, tried: list[CandidateTrial | DoesNotApply], validation: ValidationSet, limits: Limits
) -> None:
    """Time the finalists together, choose, and give every trial its reason."""
    finalists = [
        trial for trial in _trials(tried)[1:] if trial.export is not None and not rejection_reason(trial, limits)
    ]
    if finalists:
        _time(reference, finalists, validation, limits)
    best = best_of(finalists, limits)
    for trial in _trials(tried)[1:]:
        trial.kept = trial is best
        trial.reason = rejection_reason(trial, limits) or (
            _why_kept(limits) if trial.kept else "another one is faster or more faithful"
        )


def _why_kept(limits: Limits) -> str:
    return "within the limits" if limits.weight_bits else "fastest within the limits"


def _trials(tried: list[CandidateTrial | DoesNotApply]) -> list[CandidateTrial]:
    return [each for each in tried if isinstance(each, CandidateTrial)]


def _opened(trial: CandidateTrial) -> Export:
    if trial.export is None:
        raise RuntimeError(f"{trial.name} is not open")  # a defect of the candidate search, not of the input
    return trial.export
