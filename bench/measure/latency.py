"""Time several models against each other: each in a fresh process, in interleaved rounds, raw samples kept.

After every model is open and warm, each round asks each in turn for its calls, in an order that is drawn (B A C, C A B,
…, see `stopwatch.drawn_order`), and only the one that is asked runs. Whatever drifts on the machine (clock, heat,
neighbours) then meets all of them alike, and ratios are taken round by round (see `speedup`).

Warm is: the medians of two successive windows of 8 calls differ by at most 3% of the earlier one.
`Measurement.warm_up_stable` says whether that was reached within ``Plan.warm_up_s``; where it was not, the samples were
taken all the same.

From file to prediction is timed apart from the session, over files that the system has in its cache after the warm-up,
and split at the borders of its stages: the stages of a call add up to it exactly. The clock is read twice a call, which
costs under a microsecond; ``docs/results/measuring.md`` has the figures.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import time
from collections.abc import Sequence
from typing import Annotated

import msgspec
from msgspec import Meta

from medfm_compress.bench.measure.energy import COUNTERS
from medfm_compress.bench.measure.opened_model import device_of
from medfm_compress.bench.measure.requests import STAGES, Open, Reply, Time, TimeBatch, WarmUp
from medfm_compress.bench.measure.stopwatch import drawn_order
from medfm_compress.bench.measure.worker_process import Worker
from medfm_compress.bench.types.measurement import BatchTiming, Measurement
from medfm_compress.runtime.columns import Column
from medfm_compress.runtime.constraints import check
from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.image_spec import ImageSpec
from medfm_compress.runtime.progress import Progress, counted, no_progress
from medfm_compress.runtime.sessions.protocol import SessionInfo, SessionRef
from medfm_compress.runtime.task import Task

_DIGITS = 5
BATCHES = (1, 2, 4, 8, 16, 32, 64)
"""Of a sweep over batches."""


class ModelUnderTest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What to measure.

    Attributes:
        name: unique among the models.
        session: how its process opens it.
        spec: its input; also the preprocessing of the end-to-end time.
        task: what its logits mean; also the activation of the end-to-end time.
        columns: that it takes beside the image.
        size_bytes: of the files it needs.
        files: image files for the end-to-end time; without any, that is not measured.
        environment: variables that its process has besides, e.g. ``ONEDNN_MAX_CPU_ISA``.
    """

    name: str
    session: SessionRef
    spec: ImageSpec
    task: Task
    size_bytes: int = 0
    columns: tuple[Column, ...] = ()
    files: tuple[str, ...] = ()
    environment: dict[str, str] = {}


class Plan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How long to measure.

    Attributes:
        rounds: interleaved rounds; intervals of ratios need at least 6.
        turn_ms: a model's turn in a round is as many calls as fit in it, within ``min_calls`` and ``max_calls``;
            where it has files, a second such turn goes from file to prediction.
        min_calls: fewest calls of a turn.
        max_calls: most calls of a turn.
        threads: of every engine, and CPUs of its process.
        warm_up_s: longest warm-up of each model.
        timeout_s: longest wait for an answer of a model's process.
    """

    rounds: Annotated[int, Meta(ge=1, le=100_000)] = 20
    turn_ms: Annotated[float, Meta(gt=0, extra={"unit": "ms"})] = 200.0
    min_calls: Annotated[int, Meta(ge=1)] = 5
    max_calls: int = 100
    threads: Annotated[int, Meta(ge=1)] = 1
    warm_up_s: Annotated[float, Meta(gt=0, extra={"unit": "s"})] = 10.0
    timeout_s: Annotated[float, Meta(gt=0, le=86_400, extra={"unit": "s"})] = 300.0

    def __post_init__(self) -> None:
        check(self)
        if self.max_calls < self.min_calls:
            raise InputError(f"max_calls is {self.max_calls}; it must be at least min_calls, {self.min_calls}")


DEFAULT_PLAN = Plan()


def measure(
    models: Sequence[ModelUnderTest],
    plan: Plan = DEFAULT_PLAN,
    progress: Progress | None = None,
    batches: Sequence[int] = (),
) -> tuple[Measurement, ...]:
    """Measure ``models`` against each other, in rounds of a turn each, in an order drawn for every round.

    Args:
        models: at least one; names must differ.
        plan: how long, and on how many threads.
        progress: called with one line at every step, in the order in which things run.
        batches: sizes in rising order, each timed once after the rounds, a turn a model.

    Returns:
        One measurement a model, each with ``rounds * calls_per_round`` samples.

    Raises:
        InputError: nothing to measure, equal names, or a model that cannot run, dies or hangs.
    """
    names = [model.name for model in models]
    if not names or len(set(names)) != len(names):
        raise InputError(f"models are {names}; there must be at least one, each with a name of its own")
    progress = progress or no_progress
    with contextlib.ExitStack() as stack:
        runs = [_Run(stack, model, plan, progress) for model in models]
        orders = itertools.islice(drawn_order(len(runs)), plan.rounds)
        for order in counted(orders, "rounds of timing", plan.rounds, progress):
            for number in order:
                runs[number].take_turn()
        for batch in batches:
            progress(f"batches of {batch}")
            for run in runs:
                run.take_batch(batch)
        return tuple(run.measurement() for run in runs)


class _Run:
    """One model's process and what it has delivered so far."""

    def __init__(self, stack: contextlib.ExitStack, model: ModelUnderTest, plan: Plan, progress: Progress) -> None:
        self.model, self._plan = model, plan
        progress(f"open {model.name}")
        self._worker = stack.enter_context(Worker(model.name, plan.threads, plan.timeout_s, model.environment))
        opened = self._worker.ask(open_request(model))
        self._first_ms = 1000 * (time.perf_counter() - self._worker.started)
        self._info = checked_info(opened, model.name, plan.threads)
        progress(f"warm up {model.name}")
        self._warm = self._worker.ask(WarmUp(limit_s=plan.warm_up_s))
        files = len(model.files)
        self._calls = _fitting(plan, self._warm.median_ms)
        self._passes = math.ceil(_fitting(plan, self._warm.mean_file_ms) / files) if files else 0
        self._turns: list[Reply] = []
        self._batches: list[BatchTiming] = []

    def take_turn(self) -> None:
        """One round's calls."""
        self._turns.append(self._worker.ask(Time(calls=self._calls, passes=self._passes)))

    def take_batch(self, batch: int) -> None:
        """Time ``batch`` images at once; after one that cannot run, no larger one is tried."""
        if self._batches and self._batches[-1].reason:
            return
        request = TimeBatch(batch=batch, calls=self._plan.max_calls, limit_s=self._plan.turn_ms / 1000)
        reply = self._worker.ask(request)
        timing = BatchTiming(batch=batch, session_ms=tuple(reply.session_ms), reason=reply.reason)
        self._batches.append(timing)

    def measurement(self) -> Measurement:
        """Everything delivered."""
        stages = [stages for turn in self._turns for stages in turn.stages_ms]
        return Measurement(
            name=self.model.name,
            target=target_of(self._info),
            session_ms=tuple(sample for turn in self._turns for sample in turn.session_ms),
            cpu_ms=tuple(turn.cpu_ms for turn in self._turns),
            end_to_end_ms=tuple(round(sum(call), _DIGITS) for call in stages),
            stages_ms={
                stage: tuple(round(call[position], _DIGITS) for call in stages)
                for position, stage in enumerate(STAGES)
                if stages
            },
            first_prediction_ms=round(self._first_ms, 2),
            peak_rss_bytes=max(turn.peak_rss_bytes for turn in self._turns),
            size_bytes=self.model.size_bytes,
            warm_up_calls=self._warm.calls,
            warm_up_stable=self._warm.stable,
            calls_per_round=self._calls,
            peak_gpu_bytes=max(turn.gpu_bytes for turn in self._turns),
            energy_mj=self._energy_mj(),
            energy_source=self._energy_source(),
            device_ms=tuple(sample for turn in self._turns for sample in turn.device_ms),
            gpu_states=tuple(state for turn in self._turns for state in turn.gpu_states),
            batches=tuple(self._batches),
        )

    def _energy_mj(self) -> float | None:
        """Of one call, over all turns; none where a turn has no figure or the counter stood still."""
        spent = [turn.energy_mj for turn in self._turns if turn.energy_mj is not None]
        total = sum(spent)
        return total / (len(spent) * self._calls) if len(spent) == len(self._turns) and total > 0 else None

    def _energy_source(self) -> str:
        source = self._turns[-1].energy_source
        if self._energy_mj() is not None or source not in COUNTERS:
            return source
        failed = any(turn.energy_mj is None for turn in self._turns)
        return f"the {source} counter {'failed' if failed else 'does not move'}"


def _fitting(plan: Plan, call_ms: float) -> int:
    """Calls of ``call_ms`` that make a turn."""
    return min(max(int(plan.turn_ms / max(call_ms, 1e-3)), plan.min_calls), plan.max_calls)


def open_request(model: ModelUnderTest) -> Open:
    """What its process must be told first."""
    return Open(session=model.session, spec=model.spec, task=model.task, columns=model.columns, files=model.files)


def checked_info(opened: Reply, name: str, threads: int) -> SessionInfo:
    """What ``opened`` says it runs on; raises InputError where the threads are not those of the plan."""
    if opened.info is None:
        raise InputError(f"{name} does not say what it runs on")
    if opened.info.threads != threads:
        raise InputError(
            f"{name} runs on {opened.info.threads} threads and the plan says {threads}; open it with {threads}, "
            "otherwise nothing can be compared"
        )
    return opened.info


def target_of(info: SessionInfo) -> str:
    """``backend:device:precision:threads`` of what really runs."""
    return f"{info.backend}:{device_of(info)}:{info.precision}:{info.threads}"
