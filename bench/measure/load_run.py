"""Run one model under one load scenario, in a fresh process, and say what the run is worth."""

from __future__ import annotations

from medfm_compress.bench.measure.latency import ModelUnderTest, checked_info, open_request, target_of
from medfm_compress.bench.measure.load_driver_loadgen import require_loadgen
from medfm_compress.bench.measure.load_scenario import (
    OFFICIAL_DURATION_S,
    OFFICIAL_QUERIES,
    PERCENTILES,
    Harness,
    Load,
    LoadOutcome,
    LoadPlan,
    ScenarioName,
    ScenarioResult,
)
from medfm_compress.bench.measure.percentile_bounds import finite, percentile_bounds
from medfm_compress.bench.measure.requests import WarmUp
from medfm_compress.bench.measure.worker_process import Worker
from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.progress import Progress, no_progress

_DEFAULT_PLAN = LoadPlan()
# A server that falls behind, or an engine slower under load, takes longer than the load was meant to.
_PATIENCE = 4.0


def run_scenario(
    model: ModelUnderTest,
    scenario: ScenarioName,
    harness: Harness = "loadgen",
    plan: LoadPlan = _DEFAULT_PLAN,
    progress: Progress | None = None,
) -> ScenarioResult:
    """Put ``model`` under ``scenario``.

    Args:
        model: opened in a process of its own; its files, preprocessed, are what queries ask about.
        scenario: which load.
        harness: ``loadgen``, or ``plain`` where LoadGen is not installed.
        plan: how long, and how many queries a second.
        progress: told once the scenario begins.

    Raises:
        MissingDependency: LoadGen is asked for and not installed.
        InputError: the model cannot run, dies or hangs.
    """
    if scenario not in PERCENTILES:
        raise InputError(f"there is no scenario {scenario!r}; choose one of {', '.join(PERCENTILES)}")
    if harness == "loadgen":
        require_loadgen()
    progress = progress or no_progress
    patience_s = plan.timeout_s + _PATIENCE * plan.duration_s
    with Worker(model.name, plan.threads, patience_s) as worker:
        info = checked_info(worker.ask(open_request(model)), model.name, plan.threads)
        warm = worker.ask(WarmUp(limit_s=plan.warm_up_s))
        load = Load(scenario=scenario, harness=harness, plan=plan, one_by_one_ms=max(warm.median_ms, 1e-3))
        progress(f"{scenario} of {model.name}, {harness}, {plan.duration_s:g} s")
        outcome = worker.ask(load).load
    if outcome is None or not outcome.latencies_ms:
        raise InputError(f"{model.name} answered no query under {scenario}; give it a longer duration")
    return _result(model.name, target_of(info), load, outcome)


def _result(name: str, target: str, load: Load, outcome: LoadOutcome) -> ScenarioResult:
    percentile, latencies, shortfall = PERCENTILES[load.scenario], outcome.latencies_ms, _shortfall(load, outcome)
    return ScenarioResult(
        name=name,
        target=target,
        scenario=load.scenario,
        harness=load.harness,
        official=not shortfall,
        latencies_ms=latencies,
        duration_s=outcome.duration_s,
        queries_per_second=len(latencies) / outcome.duration_s if outcome.duration_s > 0 else 0.0,
        percentile=percentile,
        latency_ms=finite(percentile_bounds(latencies, percentile), latencies, percentile),
        target_qps=load.target_qps if load.scenario == "server" else 0.0,
        samples_per_query=outcome.samples_per_query,
        note="; ".join([*shortfall, *_remarks(load, outcome)]),
    )


def _shortfall(load: Load, outcome: LoadOutcome) -> list[str]:
    """Why the run is not official; empty where it is."""
    needed, queries = OFFICIAL_QUERIES[load.scenario], len(outcome.latencies_ms)
    reasons = []
    if load.harness == "plain":
        reasons.append("issued without LoadGen")
    if outcome.duration_s < OFFICIAL_DURATION_S:
        reasons.append(f"ran {outcome.duration_s:.3g} s where MLPerf asks for {OFFICIAL_DURATION_S:g}")
    if queries < needed:
        what = "samples" if load.scenario == "offline" else "queries"
        reasons.append(f"{queries} {what} where MLPerf asks for {needed}")
    if outcome.complaint:
        reasons.append(outcome.complaint)
    return [f"unofficial: {', '.join(reasons)}"] if reasons else []


def _remarks(load: Load, outcome: LoadOutcome) -> list[str]:
    remarks = []
    if outcome.samples_per_query > 1:
        at_once = (
            f"{load.plan.samples_per_query} samples at a time" if outcome.batched else "one sample after the other"
        )
        remarks.append(f"the engine takes {at_once}")
    if load.scenario == "server" and not load.plan.target_qps:
        remarks.append(f"the rate, {load.target_qps:.3g} a second, is half of what the engine can do one by one")
    if outcome.made_up:
        remarks.append("the inputs were made up")
    return remarks
