"""A session with its preprocessing and its input: what a measuring process runs and times."""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from medfm_compress.bench.measure.energy import EnergyCounter, find_counter
from medfm_compress.bench.measure.gpu_memory import gpu_bytes_in_use
from medfm_compress.bench.measure.gpu_state import gpu_states
from medfm_compress.bench.measure.load_scenario import Load, LoadPlan
from medfm_compress.bench.measure.requests import Evaluate, Open, Reply, Time, TimeBatch, WarmUp
from medfm_compress.bench.measure.stopwatch import is_stable, timed_ms, without_collector
from medfm_compress.bench.types.gpu_state import GpuState
from medfm_compress.runtime.bundle.manifest import ANOMALY_MAP
from medfm_compress.runtime.errors import InputError, in_one_line
from medfm_compress.runtime.fill_columns import fill_columns, keywords_of
from medfm_compress.runtime.golden_columns import golden_columns, golden_values
from medfm_compress.runtime.images.pixels import Pixels
from medfm_compress.runtime.network_inputs import NetworkInputs, feed, with_columns
from medfm_compress.runtime.sessions.onnxruntime_providers import PROVIDERS
from medfm_compress.runtime.sessions.protocol import Batched, DeviceTimed, Session, SessionInfo

_DISCARDED_CALLS, _DISCARDED_S = 2, 0.02  # of a turn, at its beginning: whichever ends sooner
_DEVICE_CALLS = 10  # of a turn, timed by the device's own events


class OpenedModel:
    """An opened session with its preprocessing and its input."""

    def __init__(self, request: Open) -> None:
        self._session: Session = request.session.open()
        self._on_gpu = device_of(self._session.info) != "cpu"
        self._energy: EnergyCounter | None = None
        self._spec, self._task, self._files = request.spec, request.task, request.files
        self._columns, self._values = request.columns, golden_values(request.columns, 0)
        self._output = self._session.output_names[0]
        self._input = self._made_up(1)
        if self._files:
            self.predict(self._files[0])
        else:
            self.run(self._input)

    def run(self, inputs: NetworkInputs) -> NDArray[Any]:
        """Logits ``[1, labels]`` of one image ``[1, C, H, W]``, and of the columns beside it."""
        return self._session.run(feed(self._session.input_names, inputs))[self._output]

    def _made_up(self, count: int, seed: int = 0) -> NetworkInputs:
        images = np.random.default_rng(seed).standard_normal((count, *self._spec.shape[1:]), dtype=np.float32)
        return with_columns(images, golden_columns(self._columns, count, seed))

    def predict(self, file: str) -> tuple[float, ...]:
        """The whole way of one image file, and how many ms each of `STAGES` took."""
        from medfm_compress.runtime.preprocess import preprocess
        from medfm_compress.runtime.read_image import read_image

        stamps = [time.perf_counter_ns()]
        pixels = read_image(file, self._spec.dicom, keywords_of(self._columns))
        stamps.append(time.perf_counter_ns())
        if self._spec.tiles:
            stamps += self._by_tiles(pixels)
        else:
            beside = fill_columns(self._columns, self._values, {}).inputs
            values = with_columns(preprocess(pixels, self._spec), beside)
            stamps.append(time.perf_counter_ns())
            logits = self.run(values)
            stamps.append(time.perf_counter_ns())
            self._conclude(logits, pixels)
            stamps.append(time.perf_counter_ns())
        return tuple((later - earlier) / 1e6 for earlier, later in itertools.pairwise(stamps))

    def _by_tiles(self, pixels: Pixels) -> tuple[int, int, int]:
        """Stamps behind preprocessing, inference and the rest, which go tile by tile: all of it is the inference."""
        from medfm_compress.runtime.segmentation.segment import segment

        before = time.perf_counter_ns()
        beside = fill_columns(self._columns, self._values, {}).inputs
        segment(lambda tile: self.run(with_columns(tile, beside)), pixels, self._task, self._spec)
        after = time.perf_counter_ns()
        return before, after, after

    def _conclude(self, logits: NDArray[Any], pixels: Pixels) -> None:
        """What follows from logits: probabilities and decisions, or the label map at the image's own size."""
        from medfm_compress.runtime.activation import decisions, probabilities
        from medfm_compress.runtime.segmentation.segment import of_logits

        if self._task.is_dense:
            of_logits(logits, self._task, self._spec, *pixels.shape[:2])
        else:
            decisions(probabilities(logits, self._task), self._task)

    def answer(self, request: WarmUp | Time | TimeBatch | Evaluate | Load) -> Reply:
        """Do what ``request`` says."""
        if isinstance(request, WarmUp):
            return self._warm_up(request)
        if isinstance(request, Time):
            return self._time(request)
        if isinstance(request, TimeBatch):
            return self._time_batch(request)
        if isinstance(request, Load):
            return self._serve(request)
        return self._evaluate(request)

    def opened(self) -> Reply:
        """What runs, after the first prediction."""
        return Reply(info=self._session.info, peak_rss_bytes=peak_rss_bytes())

    def _once(self) -> None:
        self.run(self._input)

    def _warm_up(self, request: WarmUp) -> Reply:
        samples: list[float] = []
        stable, deadline = False, time.monotonic() + request.limit_s
        with without_collector():
            while not stable and (not samples or time.monotonic() < deadline):
                samples += timed_ms(self._once, 1)
                if len(samples) % request.window == 0:
                    stable = is_stable(samples, request.window, request.tolerance)
        median = float(np.median(samples[-request.window :]))
        whole = [sum(self.predict(file)) for file in self._files]
        return Reply(calls=len(samples), stable=stable, median_ms=median, mean_file_ms=float(np.mean(whole or [0])))

    def _time(self, request: Time) -> Reply:
        counter = self._energy = self._energy or find_counter(on_gpu=self._on_gpu)
        # A GPU's state is read amid the calls, too: between two halves, so that reading it lengthens none of them.
        halves = (request.calls - request.calls // 2, request.calls // 2) if self._on_gpu else (request.calls,)
        session_ms: list[float] = []
        spent_mj: list[float | None] = []
        states, processor_s = self._gpu_states(), 0.0
        with without_collector():  # around all of it: a collection would count as processor time of the calls
            for calls in halves:
                # Another process had the caches a moment ago: the first calls of a turn are not samples.
                self._discard()
                before, start_s = counter.read(), time.process_time()
                session_ms += timed_ms(self._once, calls)
                processor_s += time.process_time() - start_s
                spent_mj.append(counter.spent_mj(before, counter.read()))
                states += self._gpu_states()
            stages_ms = [self.predict(file) for _ in range(request.passes) for file in self._files]
        known_mj = [energy for energy in spent_mj if energy is not None]
        return Reply(
            session_ms=session_ms,
            cpu_ms=round(1e3 * processor_s / request.calls, 5),
            stages_ms=stages_ms,
            peak_rss_bytes=peak_rss_bytes(),
            gpu_bytes=gpu_bytes_in_use() if self._on_gpu else 0,
            energy_mj=sum(known_mj) if len(known_mj) == len(spent_mj) else None,
            energy_source=counter.source,
            device_ms=self._device_ms(min(request.calls, _DEVICE_CALLS)),
            gpu_states=states,
        )

    def _discard(self) -> None:
        deadline = time.monotonic() + _DISCARDED_S
        for _ in range(_DISCARDED_CALLS):
            self._once()
            if time.monotonic() > deadline:  # a call that long has made the caches its own
                break

    def _gpu_states(self) -> list[GpuState]:
        return list(gpu_states()) if self._on_gpu else []

    def _device_ms(self, calls: int) -> list[float]:
        """Times of ``calls`` runs by the device's own clock; empty where it has none."""
        session = self._session
        if not isinstance(session, DeviceTimed):
            return []
        times = [session.device_ms(feed(self._session.input_names, self._input)) for _ in range(calls)]
        return [round(value, 5) for value in times if value is not None]

    def _time_batch(self, request: TimeBatch) -> Reply:
        fixed = self._session.batch if isinstance(self._session, Batched) else None
        if fixed not in (None, request.batch):
            return Reply(reason=f"its batch is fixed at {fixed}")
        images = self._made_up(request.batch)
        samples: list[float] = []
        try:
            outputs = self.run(images)
            if len(outputs) != request.batch:
                return Reply(reason=f"it gives {len(outputs)} outputs for {request.batch} images")
            timed_ms(lambda: self.run(images), _DISCARDED_CALLS)
            deadline = time.monotonic() + request.limit_s
            with without_collector():
                while not samples or (len(samples) < request.calls and time.monotonic() < deadline):
                    samples += timed_ms(lambda: self.run(images), 1)
        except Exception as exc:  # noqa: BLE001 - whatever an engine raises, e.g. that its memory does not suffice
            return Reply(reason=in_one_line(exc))
        return Reply(session_ms=samples)

    def _serve(self, request: Load) -> Reply:
        from medfm_compress.bench.measure.load_drive import drive
        from medfm_compress.bench.measure.load_system_under_test import Library

        most = request.plan.samples_per_query if request.scenario in ("multi-stream", "offline") else 1
        library = Library(self._inputs(request.plan), self.run, most)
        with without_collector():
            outcome = drive(library, request)
        outcome = msgspec.structs.replace(outcome, batched=library.batch > 1, made_up=not self._files)
        return Reply(load=outcome)

    def _inputs(self, plan: LoadPlan) -> NetworkInputs:
        """What queries ask about: the files, preprocessed, or made-up values."""
        from medfm_compress.runtime.preprocess import preprocess
        from medfm_compress.runtime.read_image import read_image

        if not self._files:
            return self._made_up(plan.inputs, plan.seed)
        images = [preprocess(read_image(file, self._spec.dicom), self._spec) for file in self._files]
        return with_columns(np.concatenate(images), golden_columns(self._columns, len(images)))

    def _evaluate(self, request: Evaluate) -> Reply:
        inputs = np.load(request.inputs, mmap_mode="r", allow_pickle=False)
        logits = np.load(request.outputs, mmap_mode="r+", allow_pickle=False)
        columns = _columns_in(request.columns, [column.name for column in self._columns])
        maps: list[NDArray[np.float32]] = []
        for row in range(request.start, request.stop):
            image = np.array(inputs[row : row + 1], dtype=np.float32)
            case = with_columns(image, {name: rows[row : row + 1] for name, rows in columns.items()})
            answers = self._session.run(feed(self._session.input_names, case))
            found = answers[self._output]
            if request.maps and ANOMALY_MAP in answers:
                maps.append(np.asarray(answers[ANOMALY_MAP], np.float32)[0, 0])
            if found.shape != (1, *logits.shape[1:]):
                raise InputError(f"the session gives logits {found.shape}; the task needs {(1, *logits.shape[1:])}")
            logits[row - request.first] = found[0]
        logits.flush()
        if maps:
            np.save(request.maps, np.stack(maps))
        return Reply(calls=request.stop - request.start)


def _columns_in(file: str, names: Sequence[str]) -> dict[str, NDArray[np.float32]]:
    """The arrays of an ``.npz`` file; none where none is named."""
    if not file:
        return {}
    with np.load(file, allow_pickle=False) as stored:
        return {name: np.asarray(stored[name], np.float32) for name in names}


def peak_rss_bytes() -> int:
    """Peak resident memory of this process in bytes; 0 where the system does not tell.

    ``VmHWM`` comes first: ``ru_maxrss`` survives ``exec`` and would report the parent's peak.
    """
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
    except OSError:
        pass
    try:
        import resource
    except ImportError:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def device_of(info: SessionInfo) -> str:
    """The device of a target, from the provider that the engine names; ``cpu``, ``cuda`` and so on."""
    for device, provider in PROVIDERS.items():
        if info.provider == provider.name:
            return device
    return "cuda" if info.provider.lower().startswith(("cuda", "gpu")) else "cpu"
