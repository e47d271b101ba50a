"""The four load scenarios of MLPerf Inference, how long to run one, and what it measured.

- ``single-stream``: the next query is issued when the last one is answered; judged by the 90th percentile.
- ``multi-stream``: likewise, each query of ``samples_per_query`` samples; its latency is that of the last sample; 99th.
- ``offline``: all samples in one query; judged by samples per second.
- ``server``: queries of one sample arrive as a Poisson process at ``target_qps``, whether or not earlier ones are
  answered; latency counts from the scheduled arrival, so that waiting in the queue is part of it; 99th percentile.

Definitions: Reddi et al., MLPerf Inference Benchmark, ISCA 2020, section IV. Durations and counts: the mlperf.conf in
LoadGen 6.0 asks for 600 s, for 662 queries of multi-stream and 24 576 samples offline; single-stream and server are
left to its early stopping, which by its own log needs 64 and 459 queries at the least.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from medfm_compress.bench.types.interval import Interval
from medfm_compress.runtime.constraints import check

ScenarioName = Literal["single-stream", "multi-stream", "offline", "server"]
Harness = Literal["loadgen", "plain"]
SCENARIOS: tuple[ScenarioName, ...] = ("single-stream", "multi-stream", "offline", "server")
PERCENTILES = MappingProxyType({"single-stream": 0.90, "multi-stream": 0.99, "offline": 0.99, "server": 0.99})
OFFICIAL_DURATION_S = 600.0
OFFICIAL_QUERIES = MappingProxyType({"single-stream": 64, "multi-stream": 662, "offline": 24_576, "server": 459})


class LoadPlan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How long a scenario runs, and under what load.

    Attributes:
        duration_s: of a scenario, at least; below the 600 of MLPerf it is unofficial.
        min_queries: fewest queries of a scenario (offline: samples).
        samples_per_query: of ``multi-stream``, and samples that an engine takes at once where it can.
        target_qps: queries per second of ``server``; 0 chooses half of what the engine can do one by one.
        latency_bound_ms: of ``server``: LoadGen calls a run valid only if its 99th percentile is within.
        inputs: different inputs that queries draw from, where no image files are given.
        seed: of the made-up inputs, of which sample is drawn and of the arrivals.
        threads: of the engine, and CPUs of its process.
        warm_up_s: at most.
        timeout_s: for an answer, beside the time that the load itself takes.
    """

    duration_s: Annotated[float, Meta(gt=0, extra={"unit": "s"})] = 10.0
    min_queries: Annotated[int, Meta(ge=1)] = 100
    samples_per_query: Annotated[int, Meta(ge=1)] = 8
    target_qps: Annotated[float, Meta(ge=0)] = 0.0
    latency_bound_ms: Annotated[float, Meta(gt=0, extra={"unit": "ms"})] = 100.0
    inputs: Annotated[int, Meta(ge=1)] = 16
    seed: Annotated[int, Meta(ge=0)] = 0
    threads: Annotated[int, Meta(ge=1)] = 1
    warm_up_s: Annotated[float, Meta(gt=0, extra={"unit": "s"})] = 10.0
    timeout_s: Annotated[float, Meta(gt=0, le=86_400, extra={"unit": "s"})] = 300.0

    def __post_init__(self) -> None:
        check(self)


class Load(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="load"):
    """What a model's process is asked to do: one scenario.

    Attributes:
        scenario: which load.
        harness: who issues the queries.
        plan: how long.
        one_by_one_ms: what the warm-up found one call to take.
    """

    scenario: ScenarioName
    harness: Harness
    plan: LoadPlan
    one_by_one_ms: float

    @property
    def target_qps(self) -> float:
        """Of ``server``: the plan's, or half of what the engine can do one by one."""
        return self.plan.target_qps or 500 / self.one_by_one_ms

    @property
    def samples_per_query(self) -> int:
        """Of ``multi-stream``; of ``offline`` a tenth more than fit into the time, one by one."""
        if self.scenario == "multi-stream":
            return self.plan.samples_per_query
        if self.scenario == "offline":
            return max(self.plan.min_queries, int(1100 * self.plan.duration_s / self.one_by_one_ms))
        return 1


class LoadOutcome(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a harness measured.

    Attributes:
        latencies_ms: of each query (offline: of each sample), in the order of completion.
        duration_s: from the first query's issue to the last one's completion.
        samples_per_query: as issued.
        batched: whether the engine took several samples at once.
        made_up: whether the inputs were made up, for want of image files.
        complaint: why the harness does not call the run valid; empty where it does or does not judge.
    """

    latencies_ms: tuple[float, ...]
    duration_s: float
    samples_per_query: int = 1
    batched: bool = False
    made_up: bool = False
    complaint: str = ""


class ScenarioResult(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One model under one scenario, in a fresh process; raw samples are kept.

    Attributes:
        name: of the model, as in the report's measurements.
        target: what the engine says really ran.
        scenario: which load.
        harness: ``loadgen`` or ``plain``.
        official: whether the run met MLPerf's own minimum duration and query count, under LoadGen, and LoadGen called
            it valid; shortened runs do not. It says nothing of MLPerf's other rules.
        latencies_ms: of each query (offline: of each sample of its one query), in the order of completion.
        duration_s: from the first query's issue to the last one's completion.
        queries_per_second: completed queries (offline: samples) per second.
        percentile: the quantile in (0, 1) that the scenario is judged by (0.90 single stream, 0.99 the others).
        latency_ms: that quantile, with a distribution-free interval.
        target_qps: of ``server``; 0 elsewhere.
        samples_per_query: of ``multi-stream`` and ``offline``; 1 elsewhere.
        note: what a reader must know, e.g. why the run is unofficial.
    """

    name: str
    target: str
    scenario: ScenarioName
    harness: Harness
    official: bool
    latencies_ms: tuple[float, ...]
    duration_s: float
    queries_per_second: float
    percentile: float
    latency_ms: Interval
    target_qps: float = 0.0
    samples_per_query: int = 1
    note: str = ""
