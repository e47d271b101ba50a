"""A GPU that is none: the driver of `cuda_stub.c`, and bindings of TensorRT whose engines ONNX Runtime runs.

What the sessions do around TensorRT (cache, buffers, graphs, qualification, refusals) runs as it does on a GPU. What
TensorRT itself does is not simulated: that is for the tests with its own bindings, and for a GPU.
"""

from __future__ import annotations

import ctypes
import enum
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from medfm_compress.runtime.sessions import cuda_driver

FLAWED = b"flawed"


def compile_driver(folder: Path) -> Path:
    """Compile the stub; skips where there is no C compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler for the stub of the CUDA driver")
    library = folder / "libcuda_stub.so"
    source = Path(__file__).with_name("cuda_stub.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(source)], check=True)
    return library


def bindings(library: Path, version: str = "11.4.0") -> ModuleType:
    """A module that can stand for ``tensorrt``; ``builds`` counts its engines, ``flaw`` is added to their outputs."""
    stub = ctypes.CDLL(str(library))
    module = ModuleType("tensorrt")
    module.__version__ = version
    module.builds, module.flaw, module.refusal, module.said, module.timings = 0, 0.0, "", "", []
    for name, members in (
        ("NetworkDefinitionCreationFlag", ("EXPLICIT_BATCH", "STRONGLY_TYPED")),
        ("BuilderFlag", ("TF32", "FP16", "INT8", "OBEY_PRECISION_CONSTRAINTS")),
        ("MemoryPoolType", ("WORKSPACE",)),
        ("TensorIOMode", ("INPUT", "OUTPUT")),
        ("LayerType", ("CONSTANT", "SHAPE")),
    ):
        setattr(module, name, enum.IntEnum(name, members, start=0))
    module.float32, module.float16 = "float32", "float16"

    class ILogger:
        Severity = enum.IntEnum("Severity", ("INTERNAL_ERROR", "ERROR", "WARNING", "INFO"), start=0)

    module.ILogger = ILogger
    for name, kind in (("Builder", _builder(module)), ("OnnxParser", _parser(module)), ("Runtime", _runtime(stub))):
        setattr(module, name, kind)
    return module


def _builder(module: ModuleType) -> Any:
    class TimingCache:
        def __init__(self, content: bytes) -> None:
            self.content = content

        def serialize(self) -> bytes:
            return self.content + b"+"

    class Config:
        def __init__(self) -> None:
            self.flags = {"TF32"}

        def set_memory_pool_limit(self, pool: Any, size: int) -> None:
            assert size > 0

        def clear_flag(self, flag: Any) -> None:
            self.flags.discard(flag.name)

        def set_flag(self, flag: Any) -> None:
            self.flags.add(flag.name)

        def create_timing_cache(self, content: bytes) -> TimingCache:
            return TimingCache(content)

        def set_timing_cache(self, cache: TimingCache, *, ignore_mismatch: bool) -> None:
            assert not ignore_mismatch
            module.timings.append(cache.content)

    class Network:
        num_layers = 0
        num_inputs = 0
        content = b""

    class Builder:
        def __init__(self, logger: Any) -> None:
            self.logger = logger

        def create_network(self, flags: int) -> Network:
            return Network()

        def create_builder_config(self) -> Config:
            return Config()

        def build_serialized_network(self, network: Network, config: Config) -> bytes | None:
            if module.said:
                self.logger.log(module.ILogger.Severity.ERROR, module.said)
                return None
            module.builds += 1
            assert "TF32" not in config.flags
            return np.float64(module.flaw).tobytes() + network.content

    return Builder


def _parser(module: ModuleType) -> Any:
    class Error:
        def desc(self) -> str:
            return module.refusal

        def node(self) -> int:
            return 3

        def node_name(self) -> str:
            return "/blocks.2/attn/Einsum"

        def node_operator(self) -> str:
            return "Einsum"

    class OnnxParser:
        num_errors = 1

        def __init__(self, network: Any, logger: Any) -> None:
            self.network = network

        def parse(self, content: bytes) -> bool:
            self.network.content = content
            return not module.refusal

        def get_error(self, index: int) -> Error:
            return Error()

    return OnnxParser


def _runtime(stub: ctypes.CDLL) -> Any:
    import onnxruntime

    class Context:
        def __init__(self, engine: Any) -> None:
            self.engine, self.addresses = engine, {}
            self.kernel = ctypes.CFUNCTYPE(None)(self.compute)

        def set_tensor_address(self, name: str, address: int) -> None:
            self.addresses[name] = address

        def execute_async_v3(self, stream: int) -> bool:
            return stub.stub_enqueue(self.kernel) == 0

        def array(self, name: str) -> Any:
            shape = self.engine.get_tensor_shape(name)
            size = int(np.prod(shape))
            return np.frombuffer((ctypes.c_float * size).from_address(self.addresses[name]), np.float32).reshape(shape)

        def compute(self) -> None:
            inputs = {name: self.array(name) for name in self.engine.inputs}
            for name, value in zip(self.engine.outputs, self.engine.session.run(None, inputs), strict=True):
                self.array(name)[:] = value + np.float32(self.engine.flaw) * np.arange(value.shape[-1])

    class Engine:
        def __init__(self, content: bytes) -> None:
            self.flaw = float(np.frombuffer(content[:8])[0])
            self.session = onnxruntime.InferenceSession(content[8:], providers=["CPUExecutionProvider"])
            self.inputs = {end.name: tuple(end.shape) for end in self.session.get_inputs()}
            self.outputs = {end.name: tuple(end.shape) for end in self.session.get_outputs()}
            self.names = [*self.inputs, *self.outputs]
            self.num_io_tensors = len(self.names)

        def create_execution_context(self) -> Context:
            return Context(self)

        def get_tensor_name(self, number: int) -> str:
            return self.names[number]

        def get_tensor_mode(self, name: str) -> int:
            return int(name in self.outputs)

        def get_tensor_shape(self, name: str) -> tuple[int, ...]:
            return (self.inputs | self.outputs)[name]

        def get_tensor_dtype(self, name: str) -> str:
            return "float32"

    class Runtime:
        def __init__(self, logger: Any) -> None:
            pass

        def deserialize_cuda_engine(self, content: bytes) -> Engine | None:
            try:
                return Engine(bytes(content))
            except Exception:  # noqa: BLE001 - TensorRT gives None for what it does not want
                return None

    return Runtime


def install(library: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Put the driver, TensorRT and NVML in place here and in every process that is started from here.

    The GPU holds 300 MB of each process; ``STUB_THROTTLE`` in the environment are its throttle reasons.

    Returns:
        The bindings of this process.
    """
    (folder / "libcuda.so.1").symlink_to(library)
    (folder / "tensorrt.py").write_text(
        "import sys, pathlib, simulated_gpu\n"
        f"sys.modules[__name__] = simulated_gpu.bindings(pathlib.Path({str(library)!r}))\n"
    )
    (folder / "pynvml.py").write_text(_NVML)
    paths = [str(folder), str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
    monkeypatch.setenv("LD_LIBRARY_PATH", str(folder))
    module = bindings(library)
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    monkeypatch.setitem(cuda_driver._LIBRARIES, sys.platform, str(library))
    return module


_NVML = """
import os
from types import SimpleNamespace
class NVMLError(Exception): pass
def nvmlInit(): pass
def nvmlShutdown(): pass
def nvmlDeviceGetCount(): return 1
def nvmlDeviceGetHandleByIndex(index): return index
def nvmlDeviceGetComputeRunningProcesses(device): return [SimpleNamespace(pid=os.getpid(), usedGpuMemory=300_000_000)]
def nvmlDeviceGetTotalEnergyConsumption(device): raise NVMLError("not supported")
def nvmlDeviceGetClockInfo(device, kind): return 1980
def nvmlDeviceGetPowerUsage(device): return 400_000
def nvmlDeviceGetTemperature(device, sensor): return 60
def nvmlDeviceGetCurrentClocksEventReasons(device): return int(os.environ.get("STUB_THROTTLE", "0"))
"""
