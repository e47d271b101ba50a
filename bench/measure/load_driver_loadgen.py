"""The four load scenarios issued by MLPerf's own LoadGen (`mlcommons-loadgen`, module ``mlperf_loadgen``).

LoadGen decides when a query is issued and counts its latency; this module answers. Each query is answered inside the
call that issues it: LoadGen is then held up while the engine works and catches up at once, and since it counts the
latency of ``server`` from the scheduled time, that is a queue served in order of arrival, without a second thread to
compete with the engine for its CPUs.

LoadGen writes its logs into a temporary folder that is removed; per-query figures come from its trace. It logs when the
run is over (``EndOfTestOnly``), so that its own logging does not take time from the engine.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from medfm_compress.bench.measure.load_scenario import Load, LoadOutcome
from medfm_compress.bench.measure.load_system_under_test import Library
from medfm_compress.runtime.errors import InputError, MissingDependency
from medfm_compress.runtime.scratch_folder import scratch_folder

_NAMES = {
    "single-stream": "SingleStream",
    "multi-stream": "MultiStream",
    "offline": "Offline",
    "server": "Server",
}
_SAMPLE = re.compile(r'^\{"name":"Sample".*"ph":"b".*"ts":([\d.]+).*"query_seq":(\d+).*"complete_ns":(\d+)')
_RESULT = re.compile(r"^Result is : (\w+)", re.MULTILINE)
_COMPLAINTS = re.compile(r"^Recommendations:\n((?: \* .*\n)+)", re.MULTILINE)
_POLL_MS = 1000  # its logging thread wakes so often even then, and would interrupt every other call of 5 ms
_NO_AUDIT = "no-audit.config"


def require_loadgen() -> None:
    """Check that LoadGen is there; raises MissingDependency with the pip command."""
    if importlib.util.find_spec("mlperf_loadgen") is None:
        raise MissingDependency(
            "the load scenarios of MLPerf need LoadGen: pip install mlcommons-loadgen (or use the plain harness)"
        )


def drive_loadgen(library: Library, load: Load) -> LoadOutcome:
    """Run one scenario on ``library`` under LoadGen.

    Raises:
        MissingDependency: LoadGen is not installed.
        InputError: the engine failed during the run, or LoadGen left no figures.
    """
    require_loadgen()
    loadgen = importlib.import_module("mlperf_loadgen")
    with scratch_folder("medfm-loadgen-") as folder:
        _run(loadgen, library, load, folder)
        queries = _read_trace(folder / "mlperf_log_trace.json", load)
        complaint = _read_complaint(folder / "mlperf_log_summary.txt")
    if not queries:
        raise InputError("LoadGen left no query in its trace; use the plain harness")
    start = min(query.issued_us for query in queries)
    return LoadOutcome(
        latencies_ms=tuple(query.latency_ms for query in sorted(queries, key=_Query.done_us)),
        duration_s=(max(map(_Query.done_us, queries)) - start) / 1e6,
        samples_per_query=load.samples_per_query if load.scenario != "offline" else len(queries),
        complaint=complaint,
    )


class _Query(NamedTuple):
    """One query (offline: one sample): when it was due, in µs, and how long it took."""

    issued_us: float
    latency_ms: float

    def done_us(self) -> float:
        return self.issued_us + 1000 * self.latency_ms


def _run(loadgen: Any, library: Library, load: Load, folder: Path) -> None:
    failures: list[Exception] = []

    def issue(queries: list[Any]) -> None:
        """An exception must not cross LoadGen's threads: it would end the process."""
        samples = [query.index for query in queries]
        responses = [loadgen.QuerySampleResponse(query.id, 0, 0) for query in queries]
        for start in range(0, len(samples), library.batch):
            stop = start + library.batch
            try:
                if not failures:
                    library.answer(samples[start:stop])
            except Exception as exc:  # noqa: BLE001 - whatever an engine raises is told after the run
                failures.append(exc)
            loadgen.QuerySamplesComplete(responses[start:stop])

    system = loadgen.ConstructSUT(issue, _nothing)
    inputs = loadgen.ConstructQSL(library.count, library.count, _nothing, _nothing)
    try:
        audit = str(folder / _NO_AUDIT)
        loadgen.StartTestWithLogSettings(system, inputs, _settings(loadgen, load), _logs(loadgen, folder), audit)
    finally:
        loadgen.DestroyQSL(inputs)
        loadgen.DestroySUT(system)
    if failures:
        raise InputError(f"the engine failed under load: {failures[0]}")


def _settings(loadgen: Any, load: Load) -> Any:
    """The plan in LoadGen's words; expected latencies are halved, so that it prepares more queries than it needs."""
    settings, plan = loadgen.TestSettings(), load.plan
    settings.scenario = getattr(loadgen.TestScenario, _NAMES[load.scenario])
    settings.mode = loadgen.TestMode.PerformanceOnly
    settings.min_duration_ms = max(1, round(1000 * plan.duration_s))
    settings.min_query_count = plan.min_queries
    settings.qsl_rng_seed = settings.sample_index_rng_seed = settings.schedule_rng_seed = plan.seed
    expected_ns = max(1, round(1e6 * load.one_by_one_ms / 2))
    settings.single_stream_expected_latency_ns = expected_ns
    settings.multi_stream_expected_latency_ns = expected_ns * plan.samples_per_query
    settings.multi_stream_samples_per_query = plan.samples_per_query
    settings.offline_expected_qps = load.samples_per_query / (1.1 * plan.duration_s)  # LoadGen adds 10% itself
    settings.server_target_qps = load.target_qps
    settings.server_target_latency_ns = round(1e6 * plan.latency_bound_ms)
    return settings


def _logs(loadgen: Any, folder: Path) -> Any:
    output, settings = loadgen.LogOutputSettings(), loadgen.LogSettings()
    output.outdir = str(folder)
    output.copy_summary_to_stdout = output.copy_detail_to_stdout = False
    settings.log_output = output
    settings.log_mode = loadgen.LoggingMode.EndOfTestOnly
    settings.log_mode_async_poll_interval_ms = _POLL_MS
    settings.enable_trace = True
    return settings


def _read_trace(path: Path, load: Load) -> list[_Query]:
    """Latency of every query: that of its last sample. LoadGen's trace is not always valid JSON: read line by line."""
    slowest: dict[int, _Query] = {}
    for number, (due_us, query_id, done_ns) in enumerate(_samples(path)):
        key = number if load.scenario == "offline" else query_id
        query = _Query(due_us, round(done_ns / 1e6, 5))
        if key not in slowest or slowest[key].latency_ms < query.latency_ms:
            slowest[key] = query
    return list(slowest.values())


def _samples(path: Path) -> Iterator[tuple[float, int, int]]:
    with path.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            match = _SAMPLE.match(line)
            if match:
                yield float(match[1]), int(match[2]), int(match[3])


def _read_complaint(path: Path) -> str:
    """Why LoadGen does not call the run valid; empty where it does."""
    text = path.read_text(encoding="utf-8", errors="replace")
    result = _RESULT.search(text)
    if result and result[1] == "VALID":
        return ""
    reasons = _COMPLAINTS.search(text)
    complaint = (
        " ".join(line.strip(" *") for line in reasons[1].splitlines()) if reasons else "too few queries or too short"
    )
    return f"LoadGen calls the run invalid: {complaint}"


def _nothing(*_: object) -> None:
    """The inputs are in memory before the run begins, and no query is left waiting."""
