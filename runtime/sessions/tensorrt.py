"""TensorRT on an NVIDIA GPU: an engine built here from the bundle's ONNX file, run without PyTorch.

Engines are neither portable nor alike: one belongs to a GPU, a driver and a TensorRT version, and two builds of one
file can differ. So it is built on the device that runs it, kept in the cache folder under everything that it depends
on, and never used before the golden cases passed on it (`Engine` replays all of them; one that fails is forgotten).

Buffers are allocated once, page-locked on the host's side. Copies and inference are captured into one CUDA graph,
which is used where it is the faster way. One inference at a time: a context is not for two threads.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import logging
import math
import statistics
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from medfm_compress.runtime.errors import BundleRefused, InputError, MissingDependency, refusing
from medfm_compress.runtime.regular_file import read_regular
from medfm_compress.runtime.sessions import compiled_cache
from medfm_compress.runtime.sessions.cuda_driver import CudaFailed, Driver
from medfm_compress.runtime.sessions.first_use import ALONE
from medfm_compress.runtime.sessions.operators import read_self_contained
from medfm_compress.runtime.sessions.protocol import MAX_MODEL_BYTES, Array, Availability, SessionInfo, as_float32
from medfm_compress.runtime.sessions.tensorrt_api import APIS, Bindings, import_tensorrt
from medfm_compress.runtime.sessions.tensorrt_build import Messages, build

BACKEND = "tensorrt"
PRECISIONS = tuple(APIS["11"].builder_flags)
_FLOAT_BYTES = 4
_TRIALS = 9  # of each way of launching, to choose between them
_log = logging.getLogger("medfm_compress.runtime")


class _Buffer:
    """One input or output, float32, on the device and page-locked on the host."""

    def __init__(self, driver: Driver, shape: tuple[int, ...]) -> None:
        self.bytes = _FLOAT_BYTES * math.prod(shape)
        self.device = driver.allocate(self.bytes)
        self.host = driver.allocate_host(self.bytes)
        memory = (ctypes.c_float * math.prod(shape)).from_address(self.host)
        self.values: NDArray[np.float32] = np.ctypeslib.as_array(memory).reshape(shape)


class _Deserialized(NamedTuple):
    """An engine, and what must live as long as it does: its runtime and their logger."""

    engine: Any
    keep: object


class TensorRtSession:
    """A `Session` on a TensorRT engine; calls from several threads are served one after the other.

    Attributes:
        compiled: where the engine is kept; None where it is not.
    """

    def __init__(
        self, driver: Driver, deserialized: _Deserialized, info: SessionInfo, compiled: Path | None, trt: Any
    ) -> None:
        self.info, self.compiled = info, compiled
        self._driver, self._keep = driver, deserialized
        engine = deserialized.engine
        self._alone = threading.Lock()
        self._context = engine.create_execution_context()
        if self._context is None:
            raise CudaFailed("TensorRT cannot make an execution context; the GPU may have no memory left")
        names = [engine.get_tensor_name(number) for number in range(engine.num_io_tensors)]
        inputs = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
        self.input_names = tuple(inputs)
        self.output_names = tuple(name for name in names if name not in inputs)
        self._buffers = {name: _Buffer(driver, _fixed_shape(engine, name, trt)) for name in names}
        for name, buffer in self._buffers.items():
            self._context.set_tensor_address(name, buffer.device)
        self._stream = driver.create_stream()
        self._graph = 0
        self._enqueue()  # TensorRT finishes its set-up in the first one, which must not be captured
        driver.synchronize(self._stream)
        self._capture()
        weakref.finalize(self, _give_back, driver, self._buffers, self._stream, self._graph)

    def run(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        """Run once; see `Session.run`.

        Raises:
            InputError: names or shapes that the engine does not have.
            CudaFailed: the GPU.
        """
        with self._alone:
            self._fill(inputs)
            self._launch()
            return {name: self._buffers[name].values.copy() for name in self.output_names}

    @property
    def batch(self) -> int:
        """Images of every call: an engine is built for one shape."""
        return int(self._buffers[self.input_names[0]].values.shape[0])

    def device_ms(self, inputs: Mapping[str, Array]) -> float:
        """Time on the device of one run, copies included, by CUDA events; ms."""
        driver = self._driver
        with self._alone:
            self._fill(inputs)
            first, last = driver.create_event(), driver.create_event()
            try:
                driver.record(first, self._stream)
                self._submit()
                driver.record(last, self._stream)
                return driver.elapsed_ms(first, last)
            finally:
                driver.destroy_event(first)
                driver.destroy_event(last)

    def _fill(self, inputs: Mapping[str, Array]) -> None:
        if set(inputs) != set(self.input_names):
            raise InputError(f"the model's inputs are {self.input_names}, got {tuple(inputs)}")
        for name, value in inputs.items():
            values = self._buffers[name].values
            if value.shape != values.shape:
                raise InputError(f"tensorrt cannot run on {name} of {value.shape}; the engine takes {values.shape}")
            np.copyto(values, as_float32(value))

    def _launch(self) -> None:
        self._driver.enter()
        self._submit()
        self._driver.synchronize(self._stream)

    def _submit(self) -> None:
        if self._graph:
            self._driver.launch(self._graph, self._stream)
        else:
            self._copy_and_run()

    def _copy_and_run(self) -> None:
        for name in self.input_names:
            buffer = self._buffers[name]
            self._driver.copy_in(buffer.device, buffer.host, buffer.bytes, self._stream)
        self._enqueue()
        for name in self.output_names:
            buffer = self._buffers[name]
            self._driver.copy_out(buffer.host, buffer.device, buffer.bytes, self._stream)

    def _enqueue(self) -> None:
        if not self._context.execute_async_v3(self._stream):
            raise CudaFailed("TensorRT could not start the inference")

    def _capture(self) -> None:
        """Keep a CUDA graph of a run where it can be captured and is faster than launching kernel by kernel."""
        plain = self._median_ms()
        try:
            with self._driver.capture(self._stream) as captured:
                self._copy_and_run()
        except CudaFailed as exc:
            _log.info("the inference cannot be captured into a CUDA graph: %s", exc)
            return
        self._graph = captured[0]
        if self._median_ms() > plain:
            self._driver.destroy_graph(self._graph)
            self._graph = 0

    def _median_ms(self) -> float:
        times = []
        for _ in range(_TRIALS):
            start = time.perf_counter()
            self._launch()
            times.append(1e3 * (time.perf_counter() - start))
        return statistics.median(times)


def is_available() -> Availability:
    """Whether TensorRT can be imported and a GPU is there."""
    try:
        bindings = import_tensorrt()
    except MissingDependency as exc:
        return Availability(ok=False, reason=str(exc))
    try:
        Driver()
    except CudaFailed as exc:
        return Availability(ok=False, reason=str(exc), version=bindings.version)
    return Availability(ok=True, version=bindings.version)


def open_session(model: str, threads: int, precision: str = "fp32", cache_dir: str | None = None) -> TensorRtSession:
    """Open the ``.onnx`` file at path ``model``; see `from_bytes`."""
    return from_bytes([read_regular(model, MAX_MODEL_BYTES, "model")], threads, precision, cache_dir)


def from_bytes(
    files: Sequence[bytes], threads: int, precision: str = "fp32", cache_dir: str | None = None
) -> TensorRtSession:
    """Open a model held in memory; see `open_listed`."""
    digests = [hashlib.sha256(file).hexdigest() for file in files]
    return open_listed(digests, lambda: files, threads, precision, cache_dir)


def open_listed(
    digests: Sequence[str], read: Callable[[], Sequence[bytes]], threads: int, precision: str, cache_dir: str | None
) -> TensorRtSession:
    """Open a model whose file's hex sha256 is known; it is not read where its engine lies in the cache.

    Args:
        digests: of one ONNX file, weights inside, every side fixed.
        read: gives its content.
        threads: of the host; noted, since the work is the GPU's.
        precision: one of `PRECISIONS`, as the file holds it.
        cache_dir: where engines are kept; without it every start builds anew, which takes seconds to minutes.

    Raises:
        InputError: a precision that the installed TensorRT does not run, or a cache folder that cannot be used.
        MissingDependency: TensorRT is not installed, or of an unknown version.
        CudaFailed: no driver, no GPU, one that is too old, or its memory does not suffice.
        BundleRefused: TensorRT does not take the file.
    """
    if precision not in PRECISIONS:
        raise InputError(f"tensorrt runs {', '.join(PRECISIONS)}, not {precision!r}")
    if threads < 1 or len(digests) != 1:
        raise InputError(f"tensorrt takes one model file and at least 1 thread, got {len(digests)} and {threads}")
    bindings, driver = import_tensorrt(), Driver()
    with ALONE, refusing(BundleRefused, "tensorrt cannot load the model"):
        driver.enter()
        kept = None if cache_dir is None else _places(bindings, driver, digests, precision, cache_dir)
        engine = _load(bindings, kept)
        if engine is None:
            engine = _build(bindings, read()[0], precision, kept)
        info = SessionInfo(
            backend=BACKEND,
            version=bindings.version,
            provider=f"CUDA {driver.gpu.name}",
            precision=precision,
            threads=threads,
        )
        return TensorRtSession(driver, engine, info, kept and kept.engine.path, bindings.module)


class _Places(NamedTuple):
    """Where an engine is kept, and where what its build learned of the device, which helps every later build there."""

    engine: compiled_cache.Place
    timings: compiled_cache.Place


def _places(bindings: Bindings, driver: Driver, digests: Sequence[str], precision: str, folder: str) -> _Places:
    device = (driver.gpu.name, driver.gpu.compute_capability, driver.gpu.driver)
    place = partial(compiled_cache.place, folder, version=bindings.version, device=device)
    return _Places(
        engine=place(backend=BACKEND, digests=digests, configuration={"precision": precision}),
        timings=place(backend=f"{BACKEND}-timings", digests=(), configuration={}),
    )


def _load(bindings: Bindings, kept: _Places | None) -> _Deserialized | None:
    """The kept engine; None where there is none, it is damaged, or TensorRT does not want it."""
    content = _content(kept and kept.engine)
    if not content:
        return None
    engine = _deserialize(bindings, content)
    if engine is None:
        _log.warning("tensorrt does not take the engine from the cache; building again")
    return engine


def _content(kept: compiled_cache.Place | None) -> bytes:
    """What is kept there; empty where that is nothing."""
    blob = None if kept is None else compiled_cache.load(kept)
    if blob is None:
        return b""
    with blob.memory as memory:
        return memory[: compiled_cache.blob_bytes(blob)]


def _build(bindings: Bindings, onnx: bytes, precision: str, kept: _Places | None) -> _Deserialized:
    read_self_contained(onnx, "tensorrt cannot load the model")
    start = time.perf_counter()
    built = build(bindings, onnx, precision, timings=_content(kept and kept.timings))
    _log.info("tensorrt built an engine of %d bytes in %.1f s", len(built.engine), time.perf_counter() - start)
    engine = _deserialize(bindings, built.engine)
    if engine is None:
        raise BundleRefused(f"TensorRT {bindings.version} does not take the engine that it has built")
    if kept is not None:
        compiled_cache.store(kept.engine, built.engine)
        if built.timings:
            compiled_cache.store(kept.timings, built.timings)
    return engine


def _deserialize(bindings: Bindings, content: bytes) -> _Deserialized | None:
    messages = Messages(bindings.module)
    runtime = bindings.module.Runtime(messages.logger)
    engine = runtime.deserialize_cuda_engine(content)
    return None if engine is None else _Deserialized(engine, (runtime, messages))


def _fixed_shape(engine: Any, name: str, trt: Any) -> tuple[int, ...]:
    shape, kind = tuple(engine.get_tensor_shape(name)), engine.get_tensor_dtype(name)
    if kind != trt.float32 or min(shape, default=0) < 1:
        raise BundleRefused(f"{name} of the engine is {kind} {shape}; it must be float32 with every side fixed")
    return shape


def _give_back(driver: Driver, buffers: Mapping[str, _Buffer], stream: int, graph: int) -> None:
    with contextlib.suppress(CudaFailed):  # at exit the driver may be gone, and its memory with it
        if graph:
            driver.destroy_graph(graph)
        driver.destroy_stream(stream)
        for buffer in buffers.values():
            driver.free(buffer.device)
            driver.free_host(buffer.host)
