"""The candidate search: try one candidate after another on one target, cheapest first, and keep the finalists open.

Here the stopwatch in this process ranks candidates, each in turns with FP32 of the same backend and then with the first
candidate that was faster than that, the pacemaker: by processor time where one thread computes, since that does not
grow while other programs have the processor. Candidates are compared through the pacemaker: what slows the machine
slows it as it does them, and FP32 may be slowed far less (by a fifth, where INT8 takes twice as long). That is good
enough to say which ones are worth more; which of them ships, if any, is for `final_choice` and its fresh processes. A
candidate that is far slower than one that may ship could not become a finalist whatever its logits, so they are not
asked for.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from medfm_compress.bench.measure.speedup import paired_ratio
from medfm_compress.bench.measure.stopwatch import Effort, interleaved_ms
from medfm_compress.bench.types.interval import Interval
from medfm_compress.bench.types.quantization_step import FURTHER
from medfm_compress.compress.quantization.candidate_trial import (
    Attempt,
    CandidateTrial,
    Limits,
    finalists,
    opened,
    rejection_reason,
    trials_of,
)
from medfm_compress.compress.quantization.fidelity import case_answers, case_logits, check_reference, fidelity
from medfm_compress.compress.quantization.kinds.table import judge_of
from medfm_compress.compress.quantization.kinds.validation_set import ValidationSet
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
from medfm_compress.compress.quantization.nncf_settings import NncfSettings
from medfm_compress.compress.quantization.preference import NEAR, PLAUSIBLE, contenders, fastest_of, prefer, slowdown
from medfm_compress.compress.quantization.qdq import Symmetric
from medfm_compress.export.build import open_export
from medfm_compress.runtime.bundle.manifest import Backend, Variant
from medfm_compress.runtime.errors import BundleRefused, InputError, ModelError
from medfm_compress.runtime.heap import release_unused_memory
from medfm_compress.runtime.network_inputs import NetworkInputs, feed
from medfm_compress.runtime.progress import Progress
from medfm_compress.runtime.sessions.protocol import Session

_WITHOUT_VNNI = "this CPU has no VNNI: engines saturate with them here, or are slow; quantize on one that has"
_HOPEFUL = 10.0  # times the error limit, above which no better numbers are looked for
_SECONDS = 1.5  # of each timing of a candidate, beside FP32 and beside the pacemaker; fewer rounds where it is slow
_LEAST_ROUNDS = 8  # even, see `drawn_order`
_FIRST_ROUNDS = 3  # of FP32 alone: a first idea of how slow the network is


class Builder(Protocol):
    """What makes the contents of a candidate's files; see `build_candidate.GraphBuilder`."""

    @property
    def trained(self) -> bool:
        """Whether the network was trained for INT8, so that it has ranges of its own."""
        ...

    def placements(self, backend: Backend) -> tuple[str, ...]:
        """Names of the backend's placements that this graph distinguishes, the usual one first."""
        ...

    def build(self, backend: Backend, method: Method, deadline: float = math.inf) -> tuple[bytes, ...]:
        """The files' contents; what may take long ends at ``deadline`` of `time.monotonic`."""
        ...

    def smooths(self) -> bool:
        """Whether SmoothQuant finds anything to fold into."""
        ...

    def divides(self) -> bool:
        """Whether SmoothQuant by multiplications finds outlier channels."""
        ...

    def is_skewed(self, backend: Backend) -> bool:
        """Whether an activation has a zero point although those of a balanced range have none."""
        ...

    def most_harmful(self, backend: Backend, method: Method) -> tuple[str, ...]:
        """Node names of layers, most harmful first."""
        ...

    def nncf(self, backend: Backend) -> NncfSettings | str:
        """What NNCF is told first, or why it cannot be asked."""
        ...


class Group(NamedTuple):
    """One target.

    Attributes:
        reference: its FP32 trial, opened.
        floats: each opens a trial in another float precision.
        rests: precisions that what stays in float may have beside INT8.
        variant: what a method makes.
        symmetric: INT8 without zero points is tried first: this CPU multiplies it faster.
        last: a float trial for when nothing else may ship.
        reduced: INT8 has weights of 7 bits from the beginning, since with 8 bits the engine saturates on this CPU, or
            is slow: what could be judged here is not what would run elsewhere.
    """

    reference: CandidateTrial
    floats: tuple[Callable[[], Attempt], ...]
    rests: tuple[Rest, ...]
    variant: Callable[[Method], Variant]
    symmetric: bool = False
    last: Callable[[], Attempt] | None = None
    reduced: bool = False


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
    if group.reduced and not limits.weight_bits:
        attempts.append(DoesNotApply(candidate="int8-of-8-bit-weights", reason=_WITHOUT_VNNI))
    lookup = Lookup(
        standing=lambda: _standing(attempts, limits),
        most_harmful=lambda method: builder.most_harmful(backend, method),
        smooths=builder.smooths,
        divides=builder.divides,
        missed=lambda: _missed(attempts, limits),
        tried=lambda method: any(trial.method == method for trial in trials_of(attempts)),
        nncf=lambda: builder.nncf(backend) if limits.nncf else None,
        reduced=group.reduced,
        symmetric="balanced" if group.symmetric else "none",
        is_skewed=lambda: builder.is_skewed(backend),
        nncf_standing=lambda: _nncf_standing(attempts, limits),
        error_limit=limits.error,
    )
    for candidate in _timely(group, _starts(group, builder, limits), lookup, limits):
        if isinstance(candidate, DoesNotApply):
            attempts.append(candidate)
            continue
        name = candidate if isinstance(candidate, Method) else candidate.name
        progress(f"{backend}: {name}; work left: {limits.budget.left_in_words()}")
        trial = open_method(candidate, group, builder, limits) if isinstance(candidate, Method) else candidate
        attempts.append(_tried(trial, reference, attempts, validation, limits))
        if remark := _remark(attempts[-1], reference, validation):
            progress(f"{backend}: {remark}")
        attempts[:] = _close_losers(attempts, limits)
        release_unused_memory()
    return tuple(_close_losers(attempts, limits, with_pacemaker=False))


def judge_reference(reference: CandidateTrial, validation: ValidationSet, limits: Limits) -> CandidateTrial:
    """FP32 with its logits and a first latency."""
    session = opened(reference).session
    (samples,) = session_ms([session], validation.inputs[:1], _FIRST_ROUNDS)
    logits = case_logits(session, validation.inputs)
    check_reference(logits, validation.cases)
    return msgspec.structs.replace(reference, logits=logits, p50_ms=float(np.median(samples)), speedup=1.0)


def open_method(method: Method, group: Group, builder: Builder, limits: Limits) -> CandidateTrial:
    """Build and open one INT8 candidate; what cannot be run says so in ``reason``."""
    trial = CandidateTrial(name=str(method), method=method, variant=group.variant(method))
    try:
        contents = builder.build(trial.variant.backend, method, limits.budget.deadline())
        trial = msgspec.structs.replace(trial, size_bytes=sum(map(len, contents)))
        return msgspec.structs.replace(trial, export=open_export(trial.variant, contents, limits.threads))
    except (BundleRefused, ModelError) as exc:
        return msgspec.structs.replace(trial, reason=f"cannot be run: {exc}")


def _tried(
    trial: CandidateTrial,
    reference: CandidateTrial,
    attempts: Sequence[Attempt],
    validation: ValidationSet,
    limits: Limits,
) -> CandidateTrial:
    """``trial`` timed and judged; one that could not be opened, or cannot become a finalist, with the reason alone."""
    if trial.export is None:
        return trial
    try:
        return _judged(trial, reference, attempts, validation, limits)
    except InputError as exc:  # what others made may open and not run
        return msgspec.structs.replace(trial, export=None, reason=f"cannot be run: {exc}")


def _remark(attempt: Attempt, reference: CandidateTrial, validation: ValidationSet) -> str:
    """Which cases a candidate differs on, where the kind of task wants that said."""
    if isinstance(attempt, DoesNotApply) or attempt.logits is None or reference.logits is None:
        return ""
    words = judge_of(validation.task).remarks(attempt.logits, reference.logits, validation)
    return f"{attempt.name} {words}" if words else ""


def _judged(
    trial: CandidateTrial,
    reference: CandidateTrial,
    attempts: Sequence[Attempt],
    validation: ValidationSet,
    limits: Limits,
) -> CandidateTrial:
    timed = time_beside(trial, reference, validation, limits, _pacemaker(attempts))
    running = finalists(attempts, limits)
    best = prefer(running).trial if running and not limits.weight_bits else None
    if best is not None and slowdown(timed, best).low > PLAUSIBLE:
        reason = f"slower than {best.name}, so its logits were not compared"
        return msgspec.structs.replace(timed, export=None, reason=reason)
    return judge(timed, reference, validation)


def time_beside(
    trial: CandidateTrial,
    reference: CandidateTrial,
    validation: ValidationSet,
    limits: Limits,
    pacemaker: CandidateTrial | None = None,
) -> CandidateTrial:
    """An opened trial with how fast it is beside FP32, and beside the pacemaker; it is the pacemaker where none is yet.

    With a pacemaker its speed-up is that of the pacemaker over its pace, so that candidates stand in the order of their
    paces; the interval holds both readings, of which either may be of a slower machine.
    """
    image = validation.inputs[:1]
    fp32_ms, own_ms = _in_turns(reference, trial, image, limits)
    direct = paired_ratio(fp32_ms, own_ms)
    timed = msgspec.structs.replace(trial, p50_ms=float(np.median(own_ms)), speedup=direct.estimate)
    timed = msgspec.structs.replace(timed, search_interval=direct)
    if limits.weight_bits or not (pacemaker or timed.is_faster):
        return timed
    if pacemaker is None:
        return msgspec.structs.replace(timed, pace=Interval(estimate=1.0, low=1.0, high=1.0))
    pace = paired_ratio(*_in_turns(trial, pacemaker, image, limits))
    if not pace.estimate > 0:
        return msgspec.structs.replace(timed, pace=pace)
    its = pacemaker.interval
    both = msgspec.structs.replace(
        direct,
        estimate=its.estimate / pace.estimate,
        low=min(direct.low, its.low / pace.high),
        high=max(direct.high, its.high / pace.low),
    )
    return msgspec.structs.replace(timed, speedup=both.estimate, search_interval=both, pace=pace)


def _in_turns(
    first: CandidateTrial, second: CandidateTrial, image: NetworkInputs, limits: Limits
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Samples of two opened trials ``[rounds, 1]``."""
    mine, its = session_ms([opened(first).session, opened(second).session], image, limits.rounds)
    return np.array(mine, dtype=np.float64).reshape(-1, 1), np.array(its, dtype=np.float64).reshape(-1, 1)


def judge(trial: CandidateTrial, reference: CandidateTrial, validation: ValidationSet) -> CandidateTrial:
    """An opened trial with how faithful it is; one that could not be opened comes back as it is."""
    if trial.export is None or reference.logits is None:
        return trial
    logits, features = case_answers(trial.export.session, validation.inputs)
    error, drop, changed = fidelity(logits, reference.logits, validation)
    judged = msgspec.structs.replace(trial, logits=logits, features=features)
    return msgspec.structs.replace(judged, error=error, accuracy_drop=drop, changed_decisions=changed)


def session_ms(sessions: Sequence[Session], case: NetworkInputs, rounds: int) -> tuple[list[float], ...]:
    """Cost of calls of each session on the inputs of one case in ms, in turns, in this process, one a round."""
    calls = [partial(session.run, feed(session.input_names, case)) for session in sessions]
    effort = Effort(least_rounds=min(_LEAST_ROUNDS, rounds), most_rounds=rounds, seconds=_SECONDS)
    on_one_thread = all(session.info.threads == 1 for session in sessions)
    return interleaved_ms(calls, effort, time.process_time if on_one_thread else time.perf_counter)


def _starts(group: Group, builder: Builder, limits: Limits) -> tuple[Method, ...]:
    if limits.weight_bits:
        return (Method(weight_bits=limits.weight_bits),)
    names = builder.placements(group.reference.variant.backend)
    estimator = TRAINED if builder.trained else DEFAULT_ESTIMATOR
    # Trained ranges hold for the levels that they were trained with.
    symmetric: Symmetric = "balanced" if group.symmetric and not builder.trained else "none"
    first = Method(estimator=estimator, reduced=group.reduced, symmetric=symmetric)
    return tuple(msgspec.structs.replace(first, placement=name, rest=rest) for name in names for rest in group.rests)


def _timely(group: Group, starts: tuple[Method, ...], lookup: Lookup, limits: Limits) -> Iterator[Attempt | Method]:
    """The candidates, within the budget: the first INT8 one and the float ones always, which are hardly ever faster.

    The float ones come behind the first numbers in each precision of their rest, and without zero points. Where time
    ends and nothing without them may ship, the first one is tried with them.
    """
    floats = () if limits.weight_bits else group.floats
    first_ones = len(group.rests) + (starts[0].symmetric != "none")
    for number, method in enumerate(candidates(starts, lookup)):
        if number == first_ones:
            yield from (open_float() for open_float in floats)
            floats = ()
        exhausted = limits.budget.exhausted() if number else ""
        if exhausted:
            with_zero_points = msgspec.structs.replace(starts[0], symmetric="none")
            if not lookup.standing().within_limits and not lookup.tried(with_zero_points):
                yield with_zero_points
            yield from (open_float() for open_float in floats)
            yield DoesNotApply(candidate=FURTHER, reason=exhausted)
            floats = ()
            break
        yield method
    yield from (open_float() for open_float in floats)  # of fewer candidates than that
    if group.last is not None and not lookup.standing().within_limits and not limits.weight_bits:
        yield group.last()


def _standing(attempts: Sequence[Attempt], limits: Limits) -> Standing:
    """The best INT8 trial so far: what would ship of them, else the most faithful that ran."""
    trials = [trial for trial in trials_of(attempts) if trial.method is not None and trial.ran]
    eligible = [trial for trial in trials if not rejection_reason(trial, limits)]
    if eligible:
        return Standing(best=prefer(eligible).trial.method, within_limits=True)
    closest = min(trials, key=lambda trial: trial.error, default=None)
    return Standing(best=closest.method if closest else None, within_limits=False)


def _missed(attempts: Sequence[Attempt], limits: Limits) -> Method | None:
    """The most faithful form of the fastest INT8 that only its error keeps from shipping; see `missed_candidates`."""
    running = finalists(attempts, limits)
    best = prefer(running).trial if running else None
    wide = msgspec.structs.replace(limits, error=_HOPEFUL * limits.error)
    missed = [
        trial
        for trial in trials_of(attempts)
        if trial.method is not None
        and trial.method.nncf is None
        and not (trial.method.weight_bits or trial.method.excluded or trial.method.placement == "dynamic")
        and trial.ran
        and trial.error > limits.error
        and not rejection_reason(trial, wide)
        and (best is None or slowdown(best, trial).estimate > NEAR)
    ]
    return prefer(missed).trial.method if missed else None


def _nncf_standing(attempts: Sequence[Attempt], limits: Limits) -> Standing:
    """The best of NNCF's trials so far, and whether it is worth improving: it would ship, or is faster than what would.

    One that is only as fast within noise is not: what it might gain is fidelity, and each form costs a calibration.
    """
    trials = [trial for trial in trials_of(attempts) if trial.method is not None and trial.method.nncf is not None]
    standing = _standing(trials, limits)
    running, ran = finalists(attempts, limits), [trial for trial in trials if trial.ran]
    if not running or not ran:
        return msgspec.structs.replace(standing, competitive=not running)
    best = prefer(running).trial
    faster = slowdown(best, fastest_of(ran)).estimate > NEAR
    return msgspec.structs.replace(standing, competitive=any(best is trial for trial in trials) or faster)


def _pacemaker(attempts: Sequence[Attempt]) -> CandidateTrial | None:
    """The first candidate that ran faster than FP32: all later ones are timed beside it, so it stays open."""
    ran = (trial for trial in trials_of(attempts)[1:] if trial.ran and trial.pace is not None)
    return next((trial for trial in ran if trial.export is not None and trial.is_faster), None)


def _close_losers(attempts: Sequence[Attempt], limits: Limits, *, with_pacemaker: bool = True) -> list[Attempt]:
    """``attempts`` without the networks that are out of the running: a large one takes hundreds of MB."""
    stay = [attempts[0], *contenders(finalists(attempts, limits)), *([_pacemaker(attempts)] if with_pacemaker else [])]
    return [attempt if any(attempt is kept for kept in stay) else _closed(attempt) for attempt in attempts]


def _closed(attempt: Attempt) -> Attempt:
    if isinstance(attempt, DoesNotApply):
        return attempt
    return msgspec.structs.replace(attempt, export=None, logits=None, features=None)
