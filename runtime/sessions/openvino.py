"""OpenVINO on the CPU: fp32, bf16, fp16, and int8 where the graph is quantized.

The float part of ``int8`` runs in fp32, that of ``int8-bf16`` in bf16. The precision is always set and read back:
OpenVINO's own default is bf16 on one CPU and fp32 on another. One stream and one infer request a thread, for latency.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib
import logging
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from medfm_compress.runtime.cpu import read_cpu
from medfm_compress.runtime.errors import BundleRefused, InputError, MissingDependency, refusing
from medfm_compress.runtime.regular_file import read_regular
from medfm_compress.runtime.sessions import compiled_cache
from medfm_compress.runtime.sessions.first_use import ALONE, FirstUse, importing
from medfm_compress.runtime.sessions.operators import is_ort_format, read_self_contained
from medfm_compress.runtime.sessions.protocol import MAX_MODEL_BYTES, Array, Availability, SessionInfo, as_float32

BACKEND = "openvino"
FLOAT_TYPES = {
    "fp32": "f32",
    "bf16": "bf16",
    "fp16": "f16",
    "int8": "f32",
    "int8-bf16": "bf16",
    "int8-weights": "f32",  # weights that are widened again before they are used
    "int4-weights": "f32",
}

_INTEGER_TYPES = frozenset({"i8", "u8"})
_XML = b"<"
_log = logging.getLogger("medfm_compress.runtime")
_TELEMETRY = "openvino_telemetry"
_TOOLS = "openvino.tools"  # half of the time that importing OpenVINO takes, and nothing a device needs


class OpenVinoSession:
    """A `Session` on OpenVINO; each thread has an infer request of its own."""

    def __init__(self, compiled: Any, info: SessionInfo, keep: object = None) -> None:
        self._compiled = compiled
        self._keep = keep  # memory that the compiled model refers to
        self._requests = threading.local()
        self._first = FirstUse()
        self.info = info
        self.input_names: tuple[str, ...] = tuple(port.get_any_name() for port in compiled.inputs)
        self.output_names: tuple[str, ...] = tuple(port.get_any_name() for port in compiled.outputs)

    def run(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        """Run once; see `Session.run`.

        Raises:
            InputError: names or shapes the model does not have.
        """
        if set(inputs) != set(self.input_names):
            raise InputError(f"the model's inputs are {self.input_names}, got {tuple(inputs)}")
        arrays = {name: as_float32(value) for name, value in inputs.items()}
        try:
            outputs = self._first(lambda: self._request().infer(arrays, share_inputs=True))
        except Exception as exc:
            shapes = {name: value.shape for name, value in inputs.items()}
            raise InputError(f"openvino cannot run on inputs {shapes}: {_last_line(exc)}") from exc
        return {name: outputs[index] for index, name in enumerate(self.output_names)}

    @property
    def batch(self) -> int | None:
        """Images of every call, where the network fixes it; None where it is free."""
        shape = self._compiled.input(0).partial_shape
        return shape[0].get_length() if len(shape) and shape[0].is_static else None

    def _request(self) -> Any:
        request = getattr(self._requests, "request", None)
        if request is None:
            request = self._requests.request = self._compiled.create_infer_request()
        return request


def is_available() -> Availability:
    """Whether OpenVINO can be imported and has its CPU plugin."""
    with ALONE:
        return _availability()


def _availability() -> Availability:
    try:
        openvino = import_openvino()
    except ImportError as exc:
        return Availability(
            ok=False, reason=f"openvino cannot be imported ({exc}): pip install 'medfm-compress[openvino]'"
        )
    version = str(openvino.__version__).partition("-")[0]
    try:
        openvino.Core().get_property("CPU", "FULL_DEVICE_NAME")  # loads this plugin; listing the devices loads them all
    except RuntimeError:
        return Availability(ok=False, reason="this OpenVINO has no CPU device", version=version)
    return Availability(ok=True, version=version)


def open_session(model: str, threads: int, precision: str = "fp32", cache_dir: str | None = None) -> OpenVinoSession:
    """Open the ``.onnx`` file, or the ``.xml`` with the ``.bin`` beside it, at path ``model``; see `from_bytes`."""
    path = Path(model)
    paths = [path, path.with_suffix(".bin")] if path.suffix == ".xml" else [path]
    files = [read_regular(path, MAX_MODEL_BYTES, "model") for path in paths]
    return from_bytes(files, threads, precision, cache_dir)


def from_bytes(
    files: Sequence[bytes], threads: int, precision: str = "fp32", cache_dir: str | None = None
) -> OpenVinoSession:
    """Open a model held in memory.

    Args:
        files: one ONNX file, or an IR's ``.xml`` and ``.bin``.
        threads: inference threads, >= 1.
        precision: one of ``FLOAT_TYPES``.
        cache_dir: where compiled models may be kept for a faster start (see `compiled_cache`); none keeps nothing.

    Raises:
        InputError: an option that this backend does not have, more threads than it uses on this machine, or a cache
            folder that cannot be used.
        MissingDependency: OpenVINO is not installed.
        BundleRefused: the model cannot be loaded, or runs in another precision or on another device.
    """
    digests = [hashlib.sha256(file).hexdigest() for file in files] if cache_dir else [""] * len(files)
    return open_listed(digests, lambda: files, threads, precision, cache_dir)


def open_listed(
    digests: Sequence[str],
    read: Callable[[], Sequence[bytes]],
    threads: int,
    precision: str,
    cache_dir: str | None,
) -> OpenVinoSession:
    """Open a model whose files' hex sha256 are known, without reading them where it lies compiled in the cache.

    Args:
        digests: one for each file, in order.
        read: gives the files' contents; they must have these digests.
        threads: see `from_bytes`, also for what is raised.
        precision: likewise.
        cache_dir: likewise.
    """
    if precision not in FLOAT_TYPES:
        raise InputError(f"openvino runs {', '.join(FLOAT_TYPES)}, not {precision!r}")
    if threads < 1 or len(digests) not in (1, 2):
        raise InputError(
            f"openvino takes one or two model files and at least 1 thread, got {len(digests)} and {threads}"
        )
    available = is_available()
    if not available.ok:
        raise MissingDependency(available.reason)
    configuration = compile_properties(threads, precision)
    with ALONE, refusing(BundleRefused, "openvino cannot load the model"):
        if cache_dir is None:
            compiled, keep = _compile(read(), configuration)
        else:
            compiled, keep = _compile_or_load(digests, read, configuration, cache_dir)
        return OpenVinoSession(compiled, _read_back(compiled, precision, threads, available.version), keep)


def import_openvino() -> Any:
    """Import OpenVINO without its telemetry, which otherwise reports home the moment it is imported.

    OpenVINO falls back to a stub where ``openvino_telemetry`` cannot be imported, so it is hidden for the time of the
    import; so is its model converter, which can be imported later. Nothing changes where OpenVINO was imported before.
    """
    loaded = sys.modules.get(BACKEND)
    if loaded is not None:
        return loaded
    with importing(), _hidden(_TELEMETRY), _hidden(_TOOLS):
        return importlib.import_module(BACKEND)


@contextmanager
def _hidden(module: str) -> Iterator[None]:
    """Make ``import module`` fail inside the block, unless it is imported already."""
    if module in sys.modules:
        yield
        return
    sys.modules[module] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        sys.modules.pop(module, None)


def compile_properties(threads: int, precision: str) -> dict[str, str]:
    """Properties that every model is compiled with; `export.difference` compiles parts with the same.

    One stream: with two, OpenVINO 2026.4 computes garbage in every other opening of some networks with INT8 weights.
    """
    return {
        "INFERENCE_PRECISION_HINT": FLOAT_TYPES[precision],
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": "1",
        "INFERENCE_NUM_THREADS": str(threads),
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0",  # else activations behind INT8 weights are rounded too, unasked
    }


def _check_content(files: Sequence[bytes]) -> None:
    """Refuse what OpenVINO would complete from elsewhere, or take for another kind of file than we do.

    One file must be an ONNX with all weights inside. Two must be an IR: its constants are offsets into the second
    file, which OpenVINO gets as memory and checks them against, and its XML reader (pugixml) knows no entities.
    """
    if len(files) == 2:
        if not files[0].startswith(_XML):
            raise BundleRefused("openvino cannot load the model: the first of its two files is not an IR's XML")
        return
    if is_ort_format(files[0]):  # or an ONNX file that spells so where we, but not OpenVINO, look for it
        raise BundleRefused("openvino cannot load the model: it is in ONNX Runtime's own format")
    read_self_contained(files[0], "openvino cannot load the model")


def _compile(files: Sequence[bytes], configuration: Mapping[str, str]) -> tuple[Any, object]:
    """The compiled model, and the memory that must live as long as it does."""
    _check_content(files)
    core = import_openvino().Core()
    try:
        if len(files) == 1 or not files[1]:
            return core.compile_model(core.read_model(*files), "CPU", dict(configuration)), None
        model = core.read_model(files[0].decode(), _in_place(files[1]))
        return core.compile_model(model, "CPU", dict(configuration)), files[1]
    except (RuntimeError, TypeError, ValueError) as exc:
        raise BundleRefused(f"openvino cannot load the model: {_last_line(exc)}") from exc


def _in_place(weights: bytes) -> Any:
    """A tensor on the very bytes of ``weights``, which the caller keeps; of plain bytes OpenVINO makes a copy.

    OpenVINO wants memory that may be written, and does not write constants.
    """
    address = np.frombuffer(weights, np.uint8).ctypes.data
    view = np.ctypeslib.as_array((ctypes.c_ubyte * len(weights)).from_address(address))
    return import_openvino().Tensor(view, shared_memory=True)


def _compile_or_load(
    digests: Sequence[str], read: Callable[[], Sequence[bytes]], configuration: Mapping[str, str], folder: str
) -> tuple[Any, object]:
    """The compiled model, and the memory that must live as long as it does."""
    kept = _place(digests, configuration, folder)
    blob = compiled_cache.load(kept)
    if blob is not None:
        imported = _import(blob, configuration)
        if imported is not None:
            return imported
    compiled, keep = _compile(read(), configuration)
    try:
        exported = compiled.export_model().getvalue()
    except RuntimeError as exc:
        _log.warning("the compiled model is not kept: %s", _last_line(exc))
    else:
        compiled_cache.store(kept, exported)
    return compiled, keep


def _place(digests: Sequence[str], configuration: Mapping[str, str], folder: str) -> compiled_cache.Place:
    cpu, version = read_cpu(), str(import_openvino().__version__)
    return compiled_cache.place(folder, BACKEND, digests, version, configuration, (cpu.model, sorted(cpu.flags)))


def _import(blob: compiled_cache.Blob, configuration: Mapping[str, str]) -> tuple[Any, object] | None:
    """Import an intact blob; None where OpenVINO does not want it, e.g. because its environment changed."""
    openvino = import_openvino()
    tensor = openvino.Tensor(
        np.frombuffer(blob.memory, np.uint8, compiled_cache.blob_bytes(blob)), shared_memory=True
    )  # OpenVINO keeps pointers into it
    try:
        compiled = openvino.Core().import_model(tensor, "CPU", dict(configuration))
    except (RuntimeError, TypeError, ValueError) as exc:
        _log.warning("openvino does not import the compiled model (%s); compiling again", _last_line(exc))
        return None
    compiled_cache.release(blob)
    return compiled, tensor


def _read_back(compiled: Any, precision: str, threads: int, version: str) -> SessionInfo:
    """What the compiled model says of itself; raises BundleRefused where that is not what was asked."""
    kind = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    devices = list(compiled.get_property("EXECUTION_DEVICES"))
    running = int(compiled.get_property("INFERENCE_NUM_THREADS"))
    if kind != FLOAT_TYPES[precision] or devices != ["CPU"]:
        raise BundleRefused(f"openvino runs the model in {kind} on {devices}, asked was {precision} on CPU")
    if running != threads:
        raise InputError(f"openvino runs the model on {running} threads here, not {threads}; ask for {running}")
    integers = _runs_integers(compiled)
    widened = precision.endswith("-weights")  # OpenVINO then names a product after the type of its weights
    if integers != precision.startswith("int8") and not widened:
        arithmetic = "integer" if integers else "no integer"
        raise BundleRefused(f"the model is declared {precision}, yet openvino runs {arithmetic} operators in it")
    return SessionInfo(backend=BACKEND, version=version, provider=devices[0], precision=precision, threads=running)


def _runs_integers(compiled: Any) -> bool:
    """Whether any matrix product or convolution really runs in 8 bits, from the graph as it is executed."""
    for node in compiled.get_runtime_model().get_ops():
        about = node.get_rt_info()
        layer = str(about["layerType"].value) if "layerType" in about else ""
        kind = str(about["runtimePrecision"].value) if "runtimePrecision" in about else ""
        if kind in _INTEGER_TYPES and layer in ("Convolution", "MatMul", "FullyConnected", "GroupConvolution"):
            return True
    return False


def _last_line(exc: Exception) -> str:
    lines = [line.strip() for line in str(exc).splitlines() if line.strip()]
    return (lines[-1] if lines else type(exc).__name__)[:300]
