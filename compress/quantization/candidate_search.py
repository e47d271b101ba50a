"""The candidate search: try one candidate after another on one target, cheapest first, and keep the finalists open.

Here the stopwatch in this process ranks candidates, each in turns with FP32 of the same backend. That is good enough to
say which ones are worth more; which of them ships, if any, is for `final_choice` and its fresh processes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from medfm_compress.bench.measure.stopwatch import Effort, interleaved_p50_ms
from medfm_compress.compress.quantization.candidate_trial import (
    Attempt,
    CandidateTrial,
    Limits,
    best_of,
    finalists,
    opened,
    trials_of,
)
from medfm_compress.compress.quantization.fidelity import ValidationSet, case_logits, fidelity
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
from medfm_compress.export.build import open_export
from medfm_compress.runtime.bundle.manifest import Backend, Variant
from medfm_compress.runtime.errors import BundleRefused, ModelError
from medfm_compress.runtime.progress import Progress
from medfm_compress.runtime.sessions.protocol import Session

_FINALISTS = 3
_PLAUSIBLE = 1.25  # a finalist is at most so many times slower than the fastest, as timed in this process
_SECONDS = 2.5  # of timing for one candidate, at most; fewer rounds where a network is slow
_LEAST_ROUNDS = 5


class Builder(Protocol):
    """What makes the contents of a candidate's files; see `build_candidate.GraphBuilder`."""

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
    floats: tuple[Attempt, ...]
    rests: tuple[Rest, ...]
    variant: Callable[[Method], Variant]
    last: Callable[[], Attempt] | None = None


def search_candidates(
    group: Group, builder: Builder, validation: ValidationSet, limits: Limits, progress: Progress
) -> tuple[Attempt, ...]:
    """Try every candidate on one target; the attempts in order, FP32 first, the finalists still open.

    Args:
        group: the target.
        builder: makes the INT8 candidates.
        validation: validation cases.
        limits: see `Limits`.
        progress: told what begins.
    """
    backend = group.reference.variant.backend
    reference = judge_reference(group.reference, validation, limits)
    attempts: list[Attempt] = [reference]
    lookup = Lookup(
        standing=lambda: _standing(attempts, limits),
        most_harmful=lambda method: builder.most_harmful(backend, method),
        smooths=builder.smooths,
    )
    for candidate in _timely(group, candidates(_starts(group, builder, limits), lookup), lookup, limits):
        if isinstance(candidate, DoesNotApply):
            attempts.append(candidate)
            continue
        progress(f"{backend}: {candidate if isinstance(candidate, Method) else candidate.name}")
        trial = open_method(candidate, group, builder, limits) if isinstance(candidate, Method) else candidate
        attempts.append(judge(trial, reference, validation, limits))
        attempts[:] = _close_losers(attempts, limits)
    return tuple(attempts)


def judge_reference(reference: CandidateTrial, validation: ValidationSet, limits: Limits) -> CandidateTrial:
    """FP32 with its logits and a first latency."""
    session = opened(reference).session
    (p50_ms,) = session_p50_ms([session], validation.inputs[:1], limits.rounds)
    logits = case_logits(session, validation.inputs)
    return msgspec.structs.replace(reference, logits=logits, p50_ms=p50_ms, speedup=1.0)


def open_method(method: Method, group: Group, builder: Builder, limits: Limits) -> CandidateTrial:
    """Build and open one INT8 candidate; what cannot be run says so in ``reason``."""
    trial = CandidateTrial(name=str(method), method=method, variant=group.variant(method))
    try:
        contents = builder.build(trial.variant.backend, method)
        trial = msgspec.structs.replace(trial, size_bytes=sum(map(len, contents)))
        return msgspec.structs.replace(trial, export=open_export(trial.variant, contents, limits.threads))
    except (BundleRefused, ModelError) as exc:
        return msgspec.structs.replace(trial, reason=f"cannot be run: {exc}")


def judge(
    trial: CandidateTrial, reference: CandidateTrial, validation: ValidationSet, limits: Limits
) -> CandidateTrial:
    """An opened trial with how faithful and how fast it is; one that could not be opened comes back as it is."""
    if trial.export is None or reference.logits is None:
        return trial
    logits = case_logits(trial.export.session, validation.inputs)
    error, auroc_drop, changed = fidelity(logits, reference.logits, validation)
    sessions = [opened(reference).session, trial.export.session]
    fp32_ms, p50_ms = session_p50_ms(sessions, validation.inputs[:1], limits.rounds)
    return msgspec.structs.replace(
        trial,
        logits=logits,
        error=error,
        auroc_drop=auroc_drop,
        changed_decisions=changed,
        p50_ms=p50_ms,
        speedup=fp32_ms / p50_ms,
    )


def session_p50_ms(sessions: Sequence[Session], image: NDArray[np.float32], rounds: int) -> list[float]:
    """Median latency in ms of each session on one input ``[1, C, H, W]``, in turns, in this process."""
    calls = [partial(session.run, {session.input_names[0]: image}) for session in sessions]
    effort = Effort(least_rounds=min(_LEAST_ROUNDS, rounds), most_rounds=rounds, seconds=_SECONDS)
    return interleaved_p50_ms(calls, effort)


def _starts(group: Group, builder: Builder, limits: Limits) -> tuple[Method, ...]:
    if limits.weight_bits:
        return (Method(weight_bits=limits.weight_bits),)
    names = builder.placements(group.reference.variant.backend)
    estimator = TRAINED if builder.trained else DEFAULT_ESTIMATOR
    return tuple(Method(placement=name, rest=rest, estimator=estimator) for name in names for rest in group.rests)


def _timely(
    group: Group, methods: Iterator[Method | DoesNotApply], lookup: Lookup, limits: Limits
) -> Iterator[Attempt | Method]:
    """The candidates, until the deadline; the float ones and the first INT8 one need no calibration of their own."""
    if not limits.weight_bits:
        yield from group.floats
    for number, method in enumerate(methods):
        if number and time.monotonic() > limits.deadline:
            yield DoesNotApply(candidate="further candidates", reason="the time budget was used up")
            break
        yield method
    if group.last is not None and not lookup.standing().within_limits and not limits.weight_bits:
        yield group.last()


def _standing(attempts: Sequence[Attempt], limits: Limits) -> Standing:
    """The best INT8 trial so far: what would ship of them, else the most faithful that ran."""
    trials = [trial for trial in trials_of(attempts) if trial.method is not None and trial.ran]
    best = best_of(trials, limits)
    if best is None:
        closest = min(trials, key=lambda trial: trial.error, default=None)
        return Standing(best=closest.method if closest else None, within_limits=False)
    return Standing(best=best.method, within_limits=True)


def _close_losers(attempts: Sequence[Attempt], limits: Limits) -> list[Attempt]:
    """``attempts`` without the networks that are out of the running: a large one takes hundreds of MB."""
    running = finalists(attempts, limits)
    fastest = sorted(running, key=lambda trial: -trial.speedup)[:_FINALISTS]
    plausible = [trial for trial in fastest if trial.speedup * _PLAUSIBLE >= fastest[0].speedup]
    stay = [attempts[0], best_of(running, limits), *plausible]
    return [attempt if any(attempt is kept for kept in stay) else _closed(attempt) for attempt in attempts]


def _closed(attempt: Attempt) -> Attempt:
    if isinstance(attempt, DoesNotApply):
        return attempt
    return msgspec.structs.replace(attempt, export=None, logits=None)
