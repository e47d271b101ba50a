"""TensorRT 8.6 without PyTorch: build an engine from ONNX, run it on buffers that are allocated once, time it.

Uses the bindings of TensorRT 8.6 and of the CUDA runtime alone. The builder takes neither cuBLAS nor cuDNN, so that an
offline machine without them can run it; what these would add in speed is not measured.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorrt as trt
from cuda.bindings import runtime as cudart

WORKSPACE_BYTES = 4 << 30
FLOAT32_LAYERS = ("NORMALIZATION", "SOFTMAX", "REDUCE")
FLOAT32_OPERATIONS = ("POW", "SQRT")
LOGGER = trt.Logger(trt.Logger.ERROR)


class BuildRefused(Exception):
    """TensorRT does not take the graph, in its own words."""


def check(result: Any) -> Any:
    """The values of a CUDA call; raises RuntimeError with the name of its error."""
    error, *values = result if isinstance(result, tuple) else (result,)
    if error != cudart.cudaError_t.cudaSuccess:
        raise RuntimeError(f"CUDA: {error.name}")
    return values[0] if len(values) == 1 else tuple(values)


def require_device() -> None:
    """Raises BuildRefused where CUDA finds no device: TensorRT itself does not say so."""
    error, count = cudart.cudaGetDeviceCount()
    if error != cudart.cudaError_t.cudaSuccess or not count:
        raise BuildRefused(f"no CUDA device ({error.name})")


def build(content: bytes, precision: str, largest_batch: int, cache: bytes, level: int) -> tuple[bytes, bytes]:
    """A serialized engine and the timing cache.

    Args:
        content: ONNX, with a dynamic batch.
        precision: ``fp32``, ``tf32``, ``fp16``, ``fp16-islands`` (normalisation, softmax, reductions and powers in
            FP32) or ``int8…`` (explicit Q/DQ; what has none may run in FP16).
        largest_batch: of the one optimisation profile, from 1; it is optimal for this batch.
        cache: timing cache of an earlier build, or empty.
        level: builder optimisation level, 0 to 5.

    Raises:
        BuildRefused: it cannot be parsed or built.
    """
    require_device()
    builder = trt.Builder(LOGGER)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH))
    parser = trt.OnnxParser(network, LOGGER)
    if not parser.parse(content):
        raise BuildRefused(str(parser.get_error(0)))
    config = builder.create_builder_config()
    config.builder_optimization_level = level
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, WORKSPACE_BYTES)
    sources = (trt.TacticSource.EDGE_MASK_CONVOLUTIONS, trt.TacticSource.JIT_CONVOLUTIONS)
    config.set_tactic_sources(sum(1 << int(source) for source in sources))
    timing_cache = config.create_timing_cache(cache)
    config.set_timing_cache(timing_cache, ignore_mismatch=False)
    set_precision(network, config, precision)
    profile = builder.create_optimization_profile()
    shape = tuple(network.get_input(0).shape)[1:]
    best = (largest_batch, *shape)
    profile.set_shape(network.get_input(0).name, (1, *shape), best, best)
    config.add_optimization_profile(profile)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise BuildRefused("the builder returned no engine")
    return bytes(engine), bytes(timing_cache.serialize())


def set_precision(network: Any, config: Any, precision: str) -> None:
    """Flags of the builder, and for ``fp16-islands`` the layers that stay in FP32."""
    if precision != "tf32":
        config.clear_flag(trt.BuilderFlag.TF32)
    if precision.startswith(("fp16", "int8")):
        config.set_flag(trt.BuilderFlag.FP16)
    if precision.startswith("int8"):
        config.set_flag(trt.BuilderFlag.INT8)
    if precision == "fp16-islands":
        config.set_flag(trt.BuilderFlag.OBEY_PRECISION_CONSTRAINTS)
        for number in range(network.num_layers):
            layer = network.get_layer(number)
            if stays_float32(layer) and layer.get_output(0).dtype == trt.float32:
                layer.precision = trt.float32
                layer.set_output_type(0, trt.float32)


def stays_float32(layer: Any) -> bool:
    """Whether FP16 may overflow or lose too much in it."""
    kind = layer.type.name
    if kind == "ELEMENTWISE":
        layer.__class__ = trt.IElementWiseLayer
        return layer.op.name in FLOAT32_OPERATIONS
    if kind == "UNARY":
        layer.__class__ = trt.IUnaryLayer
        return layer.op.name in FLOAT32_OPERATIONS
    return kind in FLOAT32_LAYERS


class Engine:
    """An engine with one input and one output ``[batch, outputs]``, buffers for the largest batch allocated once."""

    def __init__(self, serialized: bytes, largest_batch: int, sample: tuple[int, ...]) -> None:
        self._runtime = trt.Runtime(LOGGER)
        self.engine = self._runtime.deserialize_cuda_engine(serialized)
        if self.engine is None:
            raise BuildRefused("the engine cannot be deserialized")
        self.context = self.engine.create_execution_context()
        names = [self.engine.get_tensor_name(number) for number in range(self.engine.num_io_tensors)]
        modes = {self.engine.get_tensor_mode(name): name for name in names}
        self._input, self._output = modes[trt.TensorIOMode.INPUT], modes[trt.TensorIOMode.OUTPUT]
        self._sample, self._outputs = sample, int(tuple(self.engine.get_tensor_shape(self._output))[1])
        self._in = check(cudart.cudaMalloc(4 * largest_batch * int(np.prod(sample))))
        self._out = check(cudart.cudaMalloc(4 * largest_batch * self._outputs))
        self.context.set_tensor_address(self._input, self._in)
        self.context.set_tensor_address(self._output, self._out)
        self.stream = check(cudart.cudaStreamCreate())

    def run(self, images: np.ndarray) -> np.ndarray:
        """Logits float32 ``[n, outputs]`` of images float32 ``[n, *sample]``, copies included."""
        batch = np.ascontiguousarray(images, np.float32)
        self.context.set_input_shape(self._input, batch.shape)
        answer = np.empty((len(batch), self._outputs), np.float32)
        to, back = cudart.cudaMemcpyKind.cudaMemcpyHostToDevice, cudart.cudaMemcpyKind.cudaMemcpyDeviceToHost
        check(cudart.cudaMemcpyAsync(self._in, batch.ctypes.data, batch.nbytes, to, self.stream))
        self._enqueue()
        check(cudart.cudaMemcpyAsync(answer.ctypes.data, self._out, answer.nbytes, back, self.stream))
        check(cudart.cudaStreamSynchronize(self.stream))
        return answer

    def _enqueue(self) -> None:
        if not self.context.execute_async_v3(int(self.stream)):
            raise RuntimeError("TensorRT could not enqueue the inference")

    def wall_ms(self, images: np.ndarray, calls: int) -> list[float]:
        """Wall time of `run`, ms a call: host to device, inference, device to host."""
        return timed(lambda: self.run(images), calls)

    def device_ms(self, batch: int, calls: int) -> list[float]:
        """Time on the device by CUDA events, ms a call, without copies."""
        self.context.set_input_shape(self._input, (batch, *self._sample))
        first, last = check(cudart.cudaEventCreate()), check(cudart.cudaEventCreate())
        samples = []
        for _ in range(calls):
            check(cudart.cudaEventRecord(first, self.stream))
            self._enqueue()
            check(cudart.cudaEventRecord(last, self.stream))
            check(cudart.cudaEventSynchronize(last))
            samples.append(float(check(cudart.cudaEventElapsedTime(first, last))))
        for event in (first, last):
            check(cudart.cudaEventDestroy(event))
        return samples

    def graph_ms(self, batch: int, calls: int) -> list[float]:
        """Wall time of one replay of a CUDA graph of the inference, ms a call, without copies."""
        self.context.set_input_shape(self._input, (batch, *self._sample))
        self._enqueue()
        check(cudart.cudaStreamSynchronize(self.stream))
        mode = cudart.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        check(cudart.cudaStreamBeginCapture(self.stream, mode))
        self._enqueue()
        graph = check(cudart.cudaStreamEndCapture(self.stream))
        executable = check(cudart.cudaGraphInstantiate(graph, 0))

        def replay() -> None:
            check(cudart.cudaGraphLaunch(executable, self.stream))
            check(cudart.cudaStreamSynchronize(self.stream))

        samples = timed(replay, calls)
        check(cudart.cudaGraphExecDestroy(executable))
        check(cudart.cudaGraphDestroy(graph))
        return samples

    def close(self) -> None:
        """Give buffers, stream, context and engine back."""
        for pointer in (self._in, self._out):
            check(cudart.cudaFree(pointer))
        check(cudart.cudaStreamDestroy(self.stream))
        del self.context, self.engine


def timed(call: Callable[[], Any], calls: int) -> list[float]:
    """Wall time of ``calls`` calls in ms each, after as many as a quarter to warm up."""
    for _ in range(max(3, calls // 4)):
        call()
    samples = []
    for _ in range(calls):
        start = time.perf_counter()
        call()
        samples.append(1000 * (time.perf_counter() - start))
    return samples


def used_bytes() -> int:
    """Memory of the device in use, by whatever process."""
    free, total = check(cudart.cudaMemGetInfo())
    return int(total - free)


def digest(content: bytes) -> str:
    """sha256, shortened."""
    return hashlib.sha256(content).hexdigest()[:16]
