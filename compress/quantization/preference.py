"""Which of several candidates ships: the fastest; of those that are as fast within noise, the most faithful.

With t the cost of a call (processor time on one thread, latency on several) and f the fastest candidate, c is level
with f unless all of the 95 % interval of

    t_c / t_f

lies above `NEAR`: noise widens the interval, and so makes candidates level, but puts none before another. Of the level
ones the most faithful is preferred (three digits of its error count), then the smallest, then the one that comes first.
Candidates that differ only in numbers (ranges, smoothed outliers, corrected biases) run the same kernels: no clock
decides among them. A candidate with trained ranges comes before all others that are level with it: it computes what was
trained, and FP32, which the others are held against, does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from medfm_compress.bench.measure.speedup import cost_ratio
from medfm_compress.bench.types.interval import Interval
from medfm_compress.compress.quantization.candidate_trial import CandidateTrial
from medfm_compress.compress.quantization.methods import TRAINED
from medfm_compress.compress.quantization.nncf_settings import NncfSettings

NEAR = 1.05  # latencies within it are equal, so that fidelity decides among them
PLAUSIBLE = 1.25  # a finalist is at most so many times slower than the fastest, as timed in the search
_FINALISTS = 3
NEAR_SIZE = 1.01  # and sizes, where weights alone are compressed


class Preferred(NamedTuple):
    """The candidate that ships, and the others that are level with the fastest."""

    trial: CandidateTrial
    level: tuple[CandidateTrial, ...]


def prefer(trials: Sequence[CandidateTrial]) -> Preferred:
    """The preferred one of ``trials``, at least one, that may all ship and are of one target.

    Where all compress weights alone, size stands in the place of time.
    """
    if all(trial.method is not None and trial.method.weight_bits for trial in trials):
        smallest = min(trial.size_bytes for trial in trials) * NEAR_SIZE
        level = [trial for trial in trials if trial.size_bytes <= smallest]
        best = min(level, key=_preference)
        return Preferred(best, tuple(trial for trial in level if trial is not best))
    return _first_of(_most_faithful_of_each_form(trials))


def in_order(trials: Sequence[CandidateTrial]) -> list[Preferred]:
    """``trials`` of any targets, preferred ones first; each with the later ones that are level with it within noise.

    Those that no fresh process timed beside the others keep to their own latencies: of another device they stand before
    (a machine without that device passes them over), of this one behind.
    """
    left = sorted((trial for trial in trials if trial.measurement is not None), key=lambda trial: trial.variant.name)
    untimed = [trial for trial in trials if trial.measurement is None]
    untimed.sort(key=lambda trial: (trial.p50_ms, trial.variant.name))
    elsewhere = [Preferred(trial, ()) for trial in untimed if trial.variant.device != "cpu"]
    order: list[Preferred] = []
    while left:
        order.append(_first_of(left))
        left = [trial for trial in left if trial is not order[-1].trial]
    return [*elsewhere, *order, *(Preferred(trial, ()) for trial in untimed if trial.variant.device == "cpu")]


def slowdown(trial: CandidateTrial, other: CandidateTrial) -> Interval:
    """How many times longer ``trial`` takes than ``other``, with a 95 % interval.

    Of fresh processes where both were timed in them; else from how each compares with the search's pacemaker, or where
    that is not known of both with FP32 of their target, both intervals at their ends, which is wider.
    """
    if trial.measurement is not None and other.measurement is not None:
        return cost_ratio(trial.measurement, other.measurement)
    if trial.pace is not None and other.pace is not None:
        return _divided(trial.pace, other.pace)
    return _divided(other.interval, trial.interval)


def _divided(dividend: Interval, divisor: Interval) -> Interval:
    low, high = dividend.low / divisor.high, dividend.high / divisor.low
    return Interval(estimate=dividend.estimate / divisor.estimate, low=low, high=high)


def form_of(trial: CandidateTrial) -> object:
    """What decides which kernels run; equal for candidates that differ in numbers only."""
    if trial.method is None:
        return trial.name
    nncf = trial.method.nncf
    return msgspec.structs.replace(
        trial.method,
        estimator="",
        smoothquant=False,
        bias_correction=False,
        nncf=nncf and NncfSettings(preset=nncf.preset, transformer=nncf.transformer, error_limit=nncf.error_limit),
    )


def fastest_of(trials: Sequence[CandidateTrial]) -> CandidateTrial:
    """By estimates alone, of at least one."""
    fastest = trials[0]
    for trial in trials[1:]:
        fastest = trial if slowdown(trial, fastest).estimate < 1 else fastest
    return fastest


def contenders(running: Sequence[CandidateTrial]) -> list[CandidateTrial]:
    """Up to `_FINALISTS` of them, each with kernels of its own: the preferred one, then the fastest of what is left.

    Where noise makes many of them level the most faithful are preferred: the fastest have to be among those whose
    fresh processes decide all the same.
    """
    left, chosen = list(running), list[CandidateTrial]()
    while left and len(chosen) < _FINALISTS:
        first = fastest_of(left) if chosen else prefer(left).trial
        chosen.append(prefer([trial for trial in left if form_of(trial) == form_of(first)]).trial)
        left = [trial for trial in left if form_of(trial) != form_of(first)]
    return [t for t in chosen if t is chosen[0] or slowdown(t, fastest_of(running)).estimate <= PLAUSIBLE]


def _first_of(trials: Sequence[CandidateTrial]) -> Preferred:
    fastest = fastest_of(trials)
    level = [trial for trial in trials if trial is fastest or slowdown(trial, fastest).low <= NEAR]
    best = min(level, key=_preference)
    return Preferred(best, tuple(trial for trial in level if trial is not best))


def _most_faithful_of_each_form(trials: Sequence[CandidateTrial]) -> list[CandidateTrial]:
    best: dict[object, CandidateTrial] = {}
    for trial in sorted(trials, key=_preference):  # stable: the earlier of two equal ones stays
        best.setdefault(form_of(trial), trial)
    chosen = set(map(id, best.values()))
    return [trial for trial in trials if id(trial) in chosen]


def _preference(trial: CandidateTrial) -> tuple[bool, float, int]:
    return (not _is_trained(trial), float(f"{trial.error:.3g}"), trial.size_bytes)


def advantage(trial: CandidateTrial, other: CandidateTrial) -> str:
    """Why ``trial`` is preferred to ``other``, level with it: the end of a sentence that begins with its name."""
    words = ("has trained ranges", "is more faithful", "is smaller")
    merits = zip(words, _preference(trial), _preference(other), strict=True)
    return next((word for word, own, others in merits if own != others), "came earlier")


def _is_trained(trial: CandidateTrial) -> bool:
    return trial.method is not None and trial.method.estimator == TRAINED
