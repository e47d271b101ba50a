"""The CUDA driver by ctypes: what the device is, memory, copies, streams, graphs, events.

The driver's library comes with the driver, on a workstation as on a Jetson, so nothing has to be installed for it.
Names with ``_v2`` are the present ABI of a call whose first one took 32-bit sizes or another context rule (CUDA Driver
API, "Driver entry point access"). The device's primary context is used, which TensorRT's CUDA runtime uses too.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec

from medfm_compress.runtime.errors import Refused

NO_DRIVER = "no CUDA driver is loaded: install NVIDIA's driver, or run where there is a GPU"
_LIBRARIES = {"win32": "nvcuda.dll"}
_COMPUTE_CAPABILITY = (75, 76)  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, _MINOR
_THREAD_LOCAL_CAPTURE = 1  # CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
_OUT_OF_MEMORY = 2  # CUDA_ERROR_OUT_OF_MEMORY

Pointer = ctypes.c_uint64  # a CUdeviceptr has 64 bits on every platform
_VOID, _INT, _SIZE = ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t
_CALLS: dict[str, tuple[Any, ...]] = {
    "cuInit": (ctypes.c_uint,),
    "cuDriverGetVersion": (_VOID,),
    "cuDeviceGetCount": (_VOID,),
    "cuDeviceGet": (_VOID, _INT),
    "cuDeviceGetName": (_VOID, _INT, _INT),
    "cuDeviceGetAttribute": (_VOID, _INT, _INT),
    "cuDeviceTotalMem_v2": (_VOID, _INT),
    "cuDevicePrimaryCtxRetain": (_VOID, _INT),
    "cuCtxSetCurrent": (_VOID,),
    "cuMemGetInfo_v2": (_VOID, _VOID),
    "cuMemAlloc_v2": (_VOID, _SIZE),
    "cuMemFree_v2": (Pointer,),
    "cuMemHostAlloc": (_VOID, _SIZE, ctypes.c_uint),
    "cuMemFreeHost": (_VOID,),
    "cuMemcpyHtoDAsync_v2": (Pointer, _VOID, _SIZE, _VOID),
    "cuMemcpyDtoHAsync_v2": (_VOID, Pointer, _SIZE, _VOID),
    "cuStreamCreate": (_VOID, ctypes.c_uint),
    "cuStreamSynchronize": (_VOID,),
    "cuStreamDestroy_v2": (_VOID,),
    "cuStreamBeginCapture_v2": (_VOID, _INT),
    "cuStreamEndCapture": (_VOID, _VOID),
    "cuGraphInstantiateWithFlags": (_VOID, _VOID, ctypes.c_ulonglong),
    "cuGraphLaunch": (_VOID, _VOID),
    "cuGraphExecDestroy": (_VOID,),
    "cuGraphDestroy": (_VOID,),
    "cuEventCreate": (_VOID, ctypes.c_uint),
    "cuEventRecord": (_VOID, _VOID),
    "cuEventSynchronize": (_VOID,),
    "cuEventElapsedTime": (_VOID, _VOID, _VOID),
    "cuEventDestroy_v2": (_VOID,),
    "cuGetErrorName": (_INT, _VOID),
}


class CudaFailed(Refused):
    """A call of the CUDA driver that failed; the message has its name and the driver's word for the error."""


class OutOfGpuMemory(CudaFailed):
    """The GPU has no memory left."""


class Gpu(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A GPU as its driver describes it.

    Attributes:
        name: marketing name.
        compute_capability: e.g. ``9.0``.
        memory_bytes: in all.
        driver: newest CUDA version that the driver serves, e.g. ``13.0``.
    """

    name: str
    compute_capability: str
    memory_bytes: int
    driver: str


class Driver:
    """The driver's library on one device, whose primary context every method makes current on the calling thread.

    Handles (streams, graphs, events) are integers, addresses of device memory likewise.
    """

    def __init__(self, library: str | None = None, device: int = 0) -> None:
        """Load ``library`` (the system's where None) and take ``device``.

        Raises:
            CudaFailed: no driver, no device, or one that is in use by nobody else.
        """
        try:
            self._library = ctypes.CDLL(library or _LIBRARIES.get(sys.platform, "libcuda.so.1"))
        except OSError:
            raise CudaFailed(NO_DRIVER) from None
        for name, arguments in _CALLS.items():
            function = getattr(self._library, name, None)
            if function is None:
                raise CudaFailed(f"the CUDA driver is too old: it has no {name}; install a newer one")
            function.argtypes, function.restype = arguments, ctypes.c_int
        self._call("cuInit", 0)
        if device >= self._int("cuDeviceGetCount"):
            raise CudaFailed(f"there is no CUDA device {device}; the driver lists {self._int('cuDeviceGetCount')}")
        self._device = self._int("cuDeviceGet", device)
        self._context = self._handle("cuDevicePrimaryCtxRetain", self._device)
        self.gpu = self._describe()

    def enter(self) -> None:
        """Make the device's primary context current on this thread."""
        self._call("cuCtxSetCurrent", self._context)

    def free_bytes(self) -> int:
        """Free memory of the device, whoever uses the rest."""
        self.enter()
        free, total = _SIZE(), _SIZE()
        self._call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
        return free.value

    def allocate(self, size: int) -> int:
        """Address of ``size`` bytes on the device."""
        self.enter()
        pointer = Pointer()
        self._call("cuMemAlloc_v2", ctypes.byref(pointer), size)
        return pointer.value

    def free(self, pointer: int) -> None:
        """Give device memory back."""
        self.enter()
        self._call("cuMemFree_v2", pointer)

    def allocate_host(self, size: int) -> int:
        """Address of ``size`` bytes of page-locked host memory, which copies to and fro at full speed."""
        self.enter()
        return self._handle("cuMemHostAlloc", size, 0)

    def free_host(self, pointer: int) -> None:
        """Give page-locked memory back."""
        self.enter()
        self._call("cuMemFreeHost", pointer)

    def copy_in(self, to: int, source: int, size: int, stream: int) -> None:
        """Copy host memory to the device, in the order of ``stream``."""
        self._call("cuMemcpyHtoDAsync_v2", to, source, size, stream)

    def copy_out(self, to: int, source: int, size: int, stream: int) -> None:
        """Copy device memory to the host, in the order of ``stream``."""
        self._call("cuMemcpyDtoHAsync_v2", to, source, size, stream)

    def create_stream(self) -> int:
        """A stream that does not wait for the default one."""
        self.enter()
        return self._handle("cuStreamCreate", 1)  # CU_STREAM_NON_BLOCKING

    def synchronize(self, stream: int) -> None:
        """Wait until all of ``stream`` is done."""
        self._call("cuStreamSynchronize", stream)

    def destroy_stream(self, stream: int) -> None:
        """Give a stream back."""
        self.enter()
        self._call("cuStreamDestroy_v2", stream)

    @contextmanager
    def capture(self, stream: int) -> Iterator[list[int]]:
        """Record what the block puts on ``stream`` instead of running it; the list then holds the executable graph."""
        self.enter()
        captured: list[int] = []
        self._call("cuStreamBeginCapture_v2", stream, _THREAD_LOCAL_CAPTURE)
        try:
            yield captured
        except BaseException:
            self._library.cuStreamEndCapture(stream, ctypes.byref(_VOID()))  # it must end; its error is not the cause
            raise
        graph = _VOID()
        self._call("cuStreamEndCapture", stream, ctypes.byref(graph))
        try:
            captured.append(self._handle("cuGraphInstantiateWithFlags", graph, 0))
        finally:
            self._call("cuGraphDestroy", graph)

    def launch(self, graph: int, stream: int) -> None:
        """Run an executable graph on ``stream``."""
        self._call("cuGraphLaunch", graph, stream)

    def destroy_graph(self, graph: int) -> None:
        """Give an executable graph back."""
        self.enter()
        self._call("cuGraphExecDestroy", graph)

    def create_event(self) -> int:
        """An event that measures time."""
        self.enter()
        return self._handle("cuEventCreate", 0)

    def record(self, event: int, stream: int) -> None:
        """Let ``event`` happen when ``stream`` comes to it."""
        self._call("cuEventRecord", event, stream)

    def elapsed_ms(self, first: int, last: int) -> float:
        """Device time between two recorded events, once the later has happened."""
        self._call("cuEventSynchronize", last)
        milliseconds = ctypes.c_float()
        self._call("cuEventElapsedTime", ctypes.byref(milliseconds), first, last)
        return milliseconds.value

    def destroy_event(self, event: int) -> None:
        """Give an event back."""
        self.enter()
        self._call("cuEventDestroy_v2", event)

    def _describe(self) -> Gpu:
        name = ctypes.create_string_buffer(256)
        self._call("cuDeviceGetName", name, len(name), self._device)
        major, minor = (self._int("cuDeviceGetAttribute", number, self._device) for number in _COMPUTE_CAPABILITY)
        memory = _SIZE()
        self._call("cuDeviceTotalMem_v2", ctypes.byref(memory), self._device)
        served = self._int("cuDriverGetVersion")
        return Gpu(
            name=name.value.decode("utf-8", "replace"),
            compute_capability=f"{major}.{minor}",
            memory_bytes=memory.value,
            driver=f"{served // 1000}.{served % 1000 // 10}",
        )

    def _int(self, name: str, *arguments: Any) -> int:
        """The integer that a call writes to its first argument."""
        value = _INT()
        self._call(name, ctypes.byref(value), *arguments)
        return value.value

    def _handle(self, name: str, *arguments: Any) -> int:
        """The handle that a call writes to its first argument."""
        value = _VOID()
        self._call(name, ctypes.byref(value), *arguments)
        return int(value.value or 0)

    def _call(self, name: str, *arguments: Any) -> None:
        code = getattr(self._library, name)(*arguments)
        if code == 0:
            return
        word = ctypes.c_char_p()
        self._library.cuGetErrorName(code, ctypes.byref(word))
        said = (word.value or b"unknown error").decode("ascii", "replace")
        if code == _OUT_OF_MEMORY:
            raise OutOfGpuMemory(f"the GPU has no memory left ({name}: {said}); close what else uses it")
        raise CudaFailed(f"{name} failed: {said} ({code})")
