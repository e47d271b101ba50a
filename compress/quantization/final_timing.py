"""The decisive timing: variants of all engines in one interleaved run of fresh processes, within a time budget."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from medfm_compress.bench.measure.latency import Plan, measure
from medfm_compress.bench.measure.model_files import EngineFiles, write_model
from medfm_compress.bench.types.measurement import Measurement
from medfm_compress.compress.quantization.candidate_trial import CandidateTrial, opened
from medfm_compress.runtime.columns import Column
from medfm_compress.runtime.image_spec import ImageSpec
from medfm_compress.runtime.scratch_folder import scratch_folder
from medfm_compress.runtime.task import Task

Timer = Callable[[Sequence[CandidateTrial]], Sequence[Measurement]]
"""Gives one measurement a trial, all of the same interleaved rounds."""

LEAST_ROUNDS = 10  # an interval of a ratio needs as many
_TURN_MS = 50.0
_LEAST_CALLS = 1
_LEAST_WARM_UP_S, _MOST_WARM_UP_S = 0.5, 3.0  # of each
_MOST_S = 60.0
_SHARE = 0.2  # of the search's time budget


def time_in_fresh_processes(
    trials: Sequence[CandidateTrial], spec: ImageSpec, task: Task, plan: Plan, columns: Sequence[Column] = ()
) -> tuple[Measurement, ...]:
    """Measure opened ``trials`` against each other, in their order.

    Args:
        trials: of any backends, opened.
        spec: of their input.
        task: what their logits mean.
        plan: see `final_plan`.
        columns: that the network takes beside the image.

    Raises:
        InputError: one of them cannot run in a process of its own.
    """
    with scratch_folder("medfm-quantize-") as scratch:
        models = []
        for number, trial in enumerate(trials):
            variant = trial.variant
            contents = opened(trial).contents
            files = EngineFiles(variant.backend, contents, variant.precision, plan.threads, columns=tuple(columns))
            models.append(write_model(scratch / str(number), f"{number} {variant.name}", files, spec, task))
        return measure(models, plan)


def final_plan(trials: Sequence[CandidateTrial], rounds: int, threads: int, time_budget_s: float) -> Plan:
    """As many rounds as fit into a fifth of the search's budget, at most a minute; at least 10, at most ``rounds``.

    Args:
        trials: that are to be timed, with a first latency each.
        rounds: that are asked for; fewer than 10 count as 10.
        threads: of every session.
        time_budget_s: of the search; 0 gives the shortest plan.
    """
    budget_s = min(_MOST_S, _SHARE * time_budget_s)
    round_s = sum(max(_TURN_MS, _LEAST_CALLS * trial.p50_ms) for trial in trials) / 1e3
    affordable = max(LEAST_ROUNDS, min(int(budget_s / round_s), rounds))
    warm_up_s = min(max(budget_s / len(trials) / 4, _LEAST_WARM_UP_S), _MOST_WARM_UP_S)
    return Plan(rounds=affordable, turn_ms=_TURN_MS, min_calls=_LEAST_CALLS, threads=threads, warm_up_s=warm_up_s)
