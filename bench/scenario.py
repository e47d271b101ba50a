"""What one load scenario measured. Definitions: Reddi et al., MLPerf Inference Benchmark, ISCA 2020, section IV."""

from __future__ import annotations

from typing import Literal

import msgspec

from medfm_compress.bench.types import Interval

ScenarioName = Literal["single-stream", "multi-stream", "offline", "server"]


class ScenarioResult(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One contender under one scenario, in a fresh process; raw samples are kept.

    Attributes:
        name: of the contender, as in the report's measurements.
        target: what the engine says really ran.
        scenario: which load.
        harness: ``loadgen`` or ``plain``.
        official: whether the run met MLPerf's own minimum duration and query count; shortened runs do not.
        latencies_ms: of each query, in the order of completion.
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
    harness: Literal["loadgen", "plain"]
    official: bool
    latencies_ms: tuple[float, ...]
    duration_s: float
    queries_per_second: float
    percentile: float
    latency_ms: Interval
    target_qps: float = 0.0
    samples_per_query: int = 1
    note: str = ""
