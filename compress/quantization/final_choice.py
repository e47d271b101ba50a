"""The final choice: which finalist of each target ships, if any, and in which order all variants stand.

    search (this process) → finalists and companions of the likely winner → one interleaved run of fresh processes

Timings of one process minutes apart differ by up to half, so the search's own decide neither whether a candidate is
faster than FP32 nor which engine comes first. A candidate is faster where all of the 95 % interval of the ratio says so
(`bench.measure.speedup`); which of several ships is said in `preference`, and where that is a choice among candidates
that are level within noise, their names stand in the reasons. Where the run finds another winner than the search did,
that one's companions are made and the variants that ship are timed once more, so that their order again comes from one
run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from medfm_compress.bench.measure.speedup import cost_ratio
from medfm_compress.bench.types.measurement import Measurement
from medfm_compress.compress.quantization.candidate_trial import (
    Attempt,
    CandidateTrial,
    Limits,
    finalists,
    rejection_reason,
    trials_of,
)
from medfm_compress.compress.quantization.final_timing import Timer
from medfm_compress.compress.quantization.preference import Preferred, advantage, form_of, prefer

Attempts = tuple[Attempt, ...]
"""Of one target, FP32 first."""
Companions = Callable[[int, CandidateTrial, CandidateTrial], Attempts]
"""Makes the companions of a candidate: number of the target, the candidate, FP32."""

_HOW = "more faithful, smaller or earlier"
WHY_REDUCED = "beside it for CPUs without VNNI"
WHY_PORTABLE = "beside the optimised form, for other CPUs and versions"
WHY_OPTIMISED = "the same network as optimised for this class of CPU"


def choose_variants(
    searches: Sequence[Attempts], companions: Companions, timer: Timer, limits: Limits
) -> tuple[Attempts, ...]:
    """Time the finalists of all targets together, choose, and give every trial its outcome and reason.

    Args:
        searches: the attempts of each target, from `search_candidates`.
        companions: makes what ships beside a candidate.
        timer: fresh processes, see `final_timing`.
        limits: of fidelity.
    """
    targets = [_with_companions(number, attempts, companions, limits) for number, attempts in enumerate(searches)]
    likely = _winner_names(targets, limits)
    if any(likely):
        targets = [_without_losers(attempts, limits) for attempts in _timed(targets, timer, limits)]
    winners = _winner_names(targets, limits)
    if any(winner and winner != expected for winner, expected in zip(winners, likely, strict=True)):
        targets = [
            attempts if winner == expected else _with_companions(number, attempts, companions, limits)
            for number, (attempts, winner, expected) in enumerate(zip(targets, winners, likely, strict=True))
        ]
        targets = _timed(targets, timer, limits)
    return tuple(_settled(attempts, limits) for attempts in targets)


def _winner_names(targets: Sequence[Attempts], limits: Limits) -> list[str]:
    """Of each target; empty where nothing may ship."""
    winners = [_preferred(attempts, limits) for attempts in targets]
    return [winner.trial.name if winner else "" for winner in winners]


def _preferred(attempts: Attempts, limits: Limits) -> Preferred | None:
    running = finalists(attempts, limits)
    return prefer(running) if running else None


def _with_companions(number: int, attempts: Attempts, companions: Companions, limits: Limits) -> Attempts:
    best = _preferred(attempts, limits)
    return (*attempts, *companions(number, best.trial, trials_of(attempts)[0])) if best else attempts


def _timed(targets: Sequence[Attempts], timer: Timer, limits: Limits) -> list[Attempts]:
    """``targets`` with the figures of one run over FP32 of each, and all that may ship."""
    competing = [_competing(attempts, limits) for attempts in targets]
    measurements = iter(timer([trial for trials in competing for trial in trials]))
    return [
        _with_figures(attempts, [(trial, next(measurements)) for trial in trials])
        for attempts, trials in zip(targets, competing, strict=True)
    ]


def _competing(attempts: Attempts, limits: Limits) -> list[CandidateTrial]:
    reference, *others = trials_of(attempts)
    return [reference, *(t for t in others if t.export is not None and not _objection(t, limits))]


def _with_figures(attempts: Attempts, timed: Sequence[tuple[CandidateTrial, Measurement]]) -> Attempts:
    """Latencies of the run where there are any; of the others their speed-up, on the same scale."""
    fp32 = timed[0][1]
    measurements = {id(trial): measurement for trial, measurement in timed}
    return tuple(
        attempt
        if not isinstance(attempt, CandidateTrial)
        else _with_figure(attempt, measurements.get(id(attempt)), fp32)
        for attempt in attempts
    )


def _with_figure(trial: CandidateTrial, measurement: Measurement | None, fp32: Measurement) -> CandidateTrial:
    if measurement is None:
        p50_ms = fp32.quantile_ms(0.5) / trial.speedup if trial.speedup > 0 else trial.p50_ms
        return msgspec.structs.replace(trial, p50_ms=p50_ms)
    p50_ms = measurement.quantile_ms(0.5)
    if measurement is fp32:
        return msgspec.structs.replace(trial, p50_ms=p50_ms, measurement=measurement)
    ratio = cost_ratio(fp32, measurement)
    return msgspec.structs.replace(
        trial, p50_ms=p50_ms, speedup=ratio.estimate, speedup_interval=ratio, measurement=measurement
    )


def _without_losers(attempts: Attempts, limits: Limits) -> Attempts:
    """``attempts`` with FP32, the winner and its companions open, and nothing else; who was level is kept by name."""
    best = _preferred(attempts, limits)

    def after(trial: CandidateTrial) -> CandidateTrial:
        if best is not None and trial is best.trial:
            return msgspec.structs.replace(trial, level_with=tuple(other.name for other in best.level))
        if best is not None and trial.companion_of == best.trial.name:
            return trial
        is_level = best is not None and any(trial is other for other in best.level)
        names = (best.trial.name,) if best is not None and is_level else ()
        return msgspec.structs.replace(trial, export=None, logits=None, features=None, level_with=names)

    reference, *others = attempts
    return (reference, *(after(other) if isinstance(other, CandidateTrial) else other for other in others))


def _settled(attempts: Attempts, limits: Limits) -> Attempts:
    """Every trial but FP32 with its outcome."""
    best = _preferred(attempts, limits)
    winner = best.trial if best else None
    timed = [trial for trial in trials_of(attempts)[1:] if trial.measurement is not None and not trial.companion_of]
    settled = [
        _companion_outcome(attempt, winner, limits)
        if attempt.companion_of
        else _outcome(attempt, winner, timed, limits)
        for attempt in trials_of(attempts)[1:]
    ]
    if any(trial.kept and trial.companion_of and not trial.is_fallback for trial in settled):
        settled = [_behind(trial) if trial.kept and not trial.companion_of else trial for trial in settled]
    outcomes = iter(settled)
    return (
        attempts[0],
        *(next(outcomes) if isinstance(attempt, CandidateTrial) else attempt for attempt in attempts[1:]),
    )


def _outcome(
    trial: CandidateTrial, winner: CandidateTrial | None, timed: Sequence[CandidateTrial], limits: Limits
) -> CandidateTrial:
    """Its outcome beside ``winner``; ``timed`` competed in fresh processes."""
    reason = _why_kept(trial, limits) if trial is winner else _why_another(trial, winner, timed)
    return msgspec.structs.replace(trial, kept=trial is winner, reason=rejection_reason(trial, limits) or reason)


def _why_kept(winner: CandidateTrial, limits: Limits) -> str:
    if limits.weight_bits:
        return "within the limits"
    if not winner.level_with:
        return "fastest within the limits"
    return f"fastest within the limits; level within noise with {', '.join(winner.level_with)}, preferred as {_HOW}"


def _why_another(trial: CandidateTrial, winner: CandidateTrial | None, timed: Sequence[CandidateTrial]) -> str:
    if winner is not None and winner.name in trial.level_with:
        return f"level within noise with {winner.name}, which {advantage(winner, trial)}"
    if trial.level_with:
        return f"level within noise with {', '.join(trial.level_with)}, which is preferred as {_HOW}"
    alike = next((other for other in timed if other is not trial and form_of(other) == form_of(trial)), None)
    if trial not in timed and alike is not None:
        return f"runs the same kernels as {alike.name}, which {advantage(alike, trial)}"
    if trial in timed and winner is not None:
        return f"slower than {winner.name} in fresh processes"
    if trial not in timed and timed:
        return f"ranked behind those that fresh processes timed: {', '.join(other.name for other in timed)}"
    return "another one is faster or more faithful"


def _companion_outcome(trial: CandidateTrial, winner: CandidateTrial | None, limits: Limits) -> CandidateTrial:
    reduced = trial.method is not None and trial.method.reduced
    objection = _objection(trial, limits)
    if not objection and (winner is None or trial.companion_of != winner.name):
        objection = "what it would stand beside does not ship"
    reason = objection or (WHY_REDUCED if reduced else WHY_OPTIMISED)
    return msgspec.structs.replace(trial, kept=not objection, is_fallback=reduced, reason=reason)


def _objection(trial: CandidateTrial, limits: Limits) -> str:
    return trial.reason or rejection_reason(trial, limits)


def _behind(trial: CandidateTrial) -> CandidateTrial:
    """The portable form of a network whose optimised form ships, too."""
    return msgspec.structs.replace(trial, is_fallback=True, reason=f"{trial.reason}; {WHY_PORTABLE}")
