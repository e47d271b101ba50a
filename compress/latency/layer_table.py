"""How long one layer takes on the target, timed in the engine that will run it and kept for the next time.

    t = (T(k copies) − T(1 copy)) / (k − 1),   at least 0

with ``T`` the time of one call of a graph of `layer_graphs`. Call overhead, input and output are in both and cancel.

Every time here, of layers and of whole networks, is a median by the stopwatch in this process (`bench.measure`'s
`stopwatch`). With one thread it is time of the processor, which does not count what other programs do in between; with
more it is time of the clock. It is lower than what fresh processes take; use the ratio of two of them.

What was timed is kept under the machine's fingerprint, the target and the layer, so that equal layers of all networks
share one entry and a second pruning times nothing.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import msgspec
import numpy as np

from medfm_compress.bench.measure.machine import describe_machine
from medfm_compress.bench.measure.stopwatch import Effort, interleaved_p50_ms
from medfm_compress.compress.latency.json_cache import JsonCache
from medfm_compress.compress.latency.latency_goal import LatencyGoal
from medfm_compress.compress.latency.layer_graphs import empty_graph, input_shape, layer_graph, projections
from medfm_compress.compress.latency.layer_shapes import LayerCall
from medfm_compress.compress.latency.network_latency import int8_method
from medfm_compress.compress.quantization.activation_statistics import Statistics, TensorStatistics
from medfm_compress.export.passes.read import parse_onnx
from medfm_compress.runtime.columns import Column
from medfm_compress.runtime.errors import BundleRefused, InputError
from medfm_compress.runtime.golden_columns import golden_columns
from medfm_compress.runtime.network_inputs import feed, with_columns
from medfm_compress.runtime.progress import Progress
from medfm_compress.runtime.sessions.protocol import Session
from medfm_compress.runtime.sessions.table import open_session_from_bytes
from medfm_compress.runtime.strict_json import digest

_FORMAT = "layer latencies, 3"  # changes with how a layer is timed, and forgets what was timed before
_LAYER = Effort(least_rounds=12, most_rounds=600, steady_s=0.06, seconds=0.24)
_NETWORK = Effort(least_rounds=12, most_rounds=600, steady_s=0.8, seconds=3.2)
_COPIES_MACS = 24e6  # about so many in all copies together, so that their time stands out from that of the call
_LEAST_COPIES, _MOST_COPIES = 2, 9
_TELL_EVERY_S = 10.0
_RANGE = 4.0  # of every activation in the made-up ranges for INT8


class Entry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What was timed of one layer.

    Attributes:
        single_ms: median of the graph with one copy.
        copies_ms: of the graph with ``copies`` copies; the same as ``single_ms`` where there is one only.
        copies: >= 1.
    """

    single_ms: float
    copies_ms: float
    copies: int

    @property
    def ms(self) -> float:
        """Time of one copy, >= 0; of the whole graph where there is one copy only."""
        if self.copies == 1:
            return self.single_ms
        return max((self.copies_ms - self.single_ms) / (self.copies - 1), 0.0)


class Timer(Protocol):
    """Times graphs on the goal's engine, in turns; ``graphs`` are serialized ONNX models of one input ``shape``."""

    def __call__(self, graphs: Sequence[bytes], shape: tuple[int, ...]) -> Sequence[float]:
        """One median in ms a graph."""
        ...


class LatencyTable:
    """Times of layers on one target, timed when they are first asked for."""

    def __init__(self, goal: LatencyGoal, record: Path, progress: Progress, timer: Timer | None = None) -> None:
        """Read the record.

        Args:
            goal: the target; its budget does not matter.
            record: JSON file; one that is missing, damaged or of another version holds nothing.
            progress: told what is timed.
            timer: other than the engine's own, for tests.
        """
        self._progress = progress
        self._timer = timer or EngineTimer(goal)
        self._conditions = [describe_machine().fingerprint, str(goal.target)]
        self._entries = JsonCache(record, _FORMAT, Entry)
        self.timed = 0  # entries that were not known before
        self._told_at = 0.0

    def ms(self, call: LayerCall) -> float:
        """Time in ms of one ``call``, which must be one that `LayerCall.at` gives and no ``norm``."""
        copies = _copies(call)
        entry = self._get(call, lambda: [layer_graph(call, 1), layer_graph(call, copies)], input_shape(call), copies)
        if call.kind != "attention":
            return entry.ms
        return max(entry.ms - sum(map(self.ms, projections(call))), 0.0)

    def floor_ms(self, shape: tuple[int, ...]) -> float:
        """Time of a network that does nothing but read an image ``[1, channels, height, width]``."""
        return self._get(shape, lambda: [empty_graph(shape)], shape, 1).ms

    def _get(self, layer: object, graphs: Callable[[], list[bytes]], shape: tuple[int, ...], copies: int) -> Entry:
        key = digest([*self._conditions, layer])
        if key not in self._entries:
            if not self.timed:
                self._progress("timing layers on the target, each for a fraction of a second")
                self._told_at = time.monotonic()
            medians = self._timer(graphs(), shape)
            self._put(key, Entry(single_ms=medians[0], copies_ms=medians[-1], copies=copies))
            if time.monotonic() - self._told_at >= _TELL_EVERY_S:
                self._told_at = time.monotonic()
                self._progress(f"timed {self.timed} layers so far")
        return self._entries[key]

    def _put(self, key: str, entry: Entry) -> None:
        """Keep an entry; where the file cannot be written, for this process only."""
        self.timed += 1
        try:
            self._entries[key] = entry
        except InputError as exc:
            if self.timed == 1:
                self._progress(f"what is timed is not kept for the next time: {exc}")


def default_record() -> Path:
    """Where the times of layers are kept for all networks: in the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    folder = Path(base) if Path(base).is_absolute() else Path.home() / ".cache"
    return folder / "medfm-compress" / "layer-latency.json"


def measure_ms(
    files: Sequence[bytes], goal: LatencyGoal, shape: tuple[int, ...], columns: Sequence[Column] = ()
) -> float:
    """Median time in ms of a whole network, on the same clock as its layers.

    Args:
        files: what the goal's engine opens, see `network_latency.engine_files`.
        goal: the target.
        shape: of the image, ``[1, channels, height, width]``.
        columns: beside it.
    """
    target = goal.target
    session = open_session_from_bytes(goal.backend, files, target.threads, target.precision, device=target.device)
    return interleaved_p50_ms([_calling(session, shape, columns)], _NETWORK, _clock(goal))[0]


class EngineTimer:
    """Opens graphs as the product would and times them in turns."""

    def __init__(self, goal: LatencyGoal) -> None:
        self._goal = goal

    def __call__(self, graphs: Sequence[bytes], shape: tuple[int, ...]) -> Sequence[float]:
        """One median in ms a graph; see `Timer`."""
        calls = [_calling(self._opened(graph), shape) for graph in graphs]
        return interleaved_p50_ms(calls, _LAYER, _clock(self._goal))

    def _opened(self, graph: bytes) -> Session:
        """A session in the goal's precision, or in its float part where the placement leaves the layer in float."""
        backend, target = self._goal.backend, self._goal.target
        if not target.precision.startswith("int8"):
            return open_session_from_bytes(backend, [graph], target.threads, target.precision, device=target.device)
        files = int8_files(graph, self._goal)
        try:
            return open_session_from_bytes(backend, files, target.threads, target.precision)
        except BundleRefused:
            precision = "bf16" if target.precision == "int8-bf16" else "fp32"
            return open_session_from_bytes(backend, files, target.threads, precision)


def int8_files(graph: bytes, goal: LatencyGoal) -> tuple[bytes, ...]:
    """A graph with the product's own Q/DQ; its ranges are made up, and balanced, on which the time hardly depends.

    With AMX it does a little: four layers of 1,536 to 384 took 1.05 to 1.07 times as long behind a skewed range.
    """
    from medfm_compress.compress.quantization.build_candidate import GraphBuilder

    model = parse_onnx(graph)
    names = [value.name for value in model.graph.input] + [name for node in model.graph.node for name in node.output]
    made_up = TensorStatistics(low=-_RANGE, high=_RANGE, mean_low=-_RANGE, mean_high=_RANGE, counts=None, bound=_RANGE)
    statistics: Statistics = dict.fromkeys(names, made_up)
    nothing = np.zeros((0, 1, 1, 1), np.float32)
    return GraphBuilder(graph, statistics, nothing).build(goal.backend, int8_method(goal))


def _clock(goal: LatencyGoal) -> Callable[[], float]:
    """Time of the processor for one thread of a CPU, which no other program's work lengthens; else time of day."""
    return time.process_time if goal.target.threads == 1 and goal.target.device == "cpu" else time.perf_counter


def _calling(session: Session, shape: tuple[int, ...], columns: Sequence[Column] = ()) -> Callable[[], object]:
    images = np.random.default_rng(0).standard_normal(shape, np.float32)
    noise = feed(session.input_names, with_columns(images, golden_columns(columns, len(images))))
    return lambda: session.run(noise)


def _copies(call: LayerCall) -> int:
    """How many copies stand beside each other: more of small layers."""
    height, width = ((call.size[i] + call.padding[i] + call.padding[i + 2]) // call.stride[i] for i in (0, 1))
    macs = call.batch * height * width * call.kernel[0] * call.kernel[1] * call.inputs * call.outputs / call.groups
    if call.kind == "transposed":  # every pixel that is read meets the whole kernel
        macs = call.batch * np.prod([*call.size, *call.kernel]) * call.inputs * call.outputs / call.groups
    if call.kind == "linear":
        macs = call.rows * call.inputs * call.outputs
    if call.kind == "attention":
        macs = call.batch * call.outputs * (call.key_dim + call.head_dim) * call.rows**2
    return int(np.clip(round(_COPIES_MACS / max(macs, 1)), _LEAST_COPIES, _MOST_COPIES))
