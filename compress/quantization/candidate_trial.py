"""`CandidateTrial`: one candidate on its way through the stages, each of which gives a new value; and what may ship."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from medfm_compress.bench.types.interval import Interval
from medfm_compress.bench.types.measurement import Measurement
from medfm_compress.compress.quantization.budget import Budget
from medfm_compress.compress.quantization.methods import DoesNotApply, Method
from medfm_compress.export.build import Export
from medfm_compress.runtime.bundle.manifest import Variant

REFERENCE = "fp32"
"""Name of the trial of FP32 on an engine of the CPU, which the others on it are held against."""


class Limits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a candidate must keep to, and how much may be spent on finding one.

    Attributes:
        error: largest relative logit error on validation cases, > 0.
        accuracy_drop: largest fall of a finding's AUROC, or of a structure's mean Dice, on them, >= 0.
        changed_decisions: largest share of decisions on them that may change, of cases without labels; 1 is any.
        metric: what falls, in words.
        rounds: interleaved latency rounds, fewer where a network is slow.
        threads: of the sessions that are timed.
        weight_bits: 8 or 4 to compress weights only; the clock then decides nothing, since size is what hurts.
        budget: of the search; once it is exhausted no further candidate is begun. The first one always is.
        nncf: NNCF is asked for candidates too.
    """

    error: float
    accuracy_drop: float
    rounds: int
    threads: int
    budget: Budget
    weight_bits: Literal[0, 4, 8] = 0
    nncf: bool = False
    changed_decisions: float = 1.0
    metric: str = "AUROC"


class CandidateTrial(msgspec.Struct, frozen=True, kw_only=True):
    """A candidate under trial.

    Attributes:
        name: of the method, e.g. ``int8-minmax``, ``bf16``, ``fp32``.
        method: how it was made; None for a float precision.
        variant: what it would be in a bundle.
        export: opened and in memory; None where it failed or is out of the running.
        p50_ms: median latency of its latest timing.
        speedup: cost of FP32 / its own, of that timing (see `preference`).
        search_interval: 95 % of the ratio as timed in this process.
        pace: cost / that of the search's pacemaker (see `candidate_search`), of that timing.
        speedup_interval: of fresh, interleaved processes; None where it was timed in this process only.
        measurement: of its fresh process.
        error: relative logit error on validation cases; NaN where its logits were not compared.
        accuracy_drop: see `Candidate`.
        changed_decisions: likewise.
        size_bytes: of its files.
        logits: on the validation cases that judge.
        features: likewise, where the network gives any.
        level_with: names of others that are as fast within noise: of the one that ships those that it was preferred to,
            of these that one. Empty where the clock told.
        companion_of: name of the candidate that it is a second form of; empty for a candidate of its own.
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
    search_interval: Interval | None = None
    pace: Interval | None = None
    speedup_interval: Interval | None = None
    measurement: Measurement | None = None
    error: float = math.nan
    accuracy_drop: float = 0.0
    changed_decisions: float = 0.0
    size_bytes: int = 0
    logits: NDArray[np.float32] | None = None
    features: NDArray[np.float32] | None = None
    level_with: tuple[str, ...] = ()
    companion_of: str = ""
    kept: bool = False
    is_fallback: bool = False
    reason: str = ""

    @property
    def ran(self) -> bool:
        """It could be opened, and was judged and timed."""
        return self.p50_ms > 0 and not math.isnan(self.error)

    @property
    def is_reference(self) -> bool:
        """It is no candidate: on a GPU, FP32 is one like any other."""
        return self.name == REFERENCE and self.variant.device == "cpu"

    @property
    def interval(self) -> Interval:
        """Of its speed-up: of fresh processes, else of the search; without either the bare figure."""
        point = Interval(estimate=self.speedup, low=self.speedup, high=self.speedup)
        return self.speedup_interval or self.search_interval or point

    @property
    def is_faster(self) -> bool:
        """Than FP32 of the same backend: surely, where fresh processes timed it; in the search, not surely slower."""
        return (self.interval.low if self.speedup_interval else self.interval.high) > 1


Attempt = CandidateTrial | DoesNotApply
"""What became of one candidate."""


def rejection_reason(trial: CandidateTrial, limits: Limits) -> str:
    """Why a trial may not ship; empty where it may. No figure of the clock, so that bundles stay comparable."""
    if not trial.ran:
        return trial.reason or "it could not be run"
    if reason := infidelity(trial, limits):
        return reason
    if not trial.is_faster and not limits.weight_bits:
        return "not faster than FP32 on the measuring machine"
    return ""


def infidelity(trial: CandidateTrial, limits: Limits) -> str:
    """Why a trial is too far from FP32 to ship; empty where it is not."""
    if not trial.error <= limits.error:
        return f"relative logit error {trial.error:.3g} is above the limit {limits.error:g}"
    if not trial.accuracy_drop <= limits.accuracy_drop:
        fall = f"{limits.metric} falls by {trial.accuracy_drop:.3g} on validation cases"
        return f"{fall}, the limit is {limits.accuracy_drop:g}"
    if not trial.changed_decisions <= limits.changed_decisions:
        return f"{trial.changed_decisions:.1%} of decisions change, the limit is {limits.changed_decisions:.1%}"
    return ""


def finalists(attempts: Sequence[Attempt], limits: Limits) -> list[CandidateTrial]:
    """The candidates of one target that are open and may ship, by the figures they have; FP32 is none."""
    candidates = [trial for trial in trials_of(attempts)[1:] if not trial.companion_of and trial.export is not None]
    return [trial for trial in candidates if not rejection_reason(trial, limits)]


def trials_of(attempts: Iterable[Attempt]) -> list[CandidateTrial]:
    """Those that were tried at all."""
    return [attempt for attempt in attempts if isinstance(attempt, CandidateTrial)]


def opened(trial: CandidateTrial) -> Export:
    """The export of a trial that must be open."""
    if trial.export is None:
        raise RuntimeError(f"{trial.name} is not open")  # a defect of the candidate search, not of the input
    return trial.export
