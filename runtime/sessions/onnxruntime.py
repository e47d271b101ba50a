"""ONNX Runtime: on the CPU fp32, and int8 where the graph itself is quantized; on a GPU by one of its providers.

On an x86 CPU without VNNI the kernels for U8 activations and S8 weights add products in 16 bits and saturate, a silent
wrong answer. There ``session.x64quantprecision`` makes ONNX Runtime turn weights beyond ±64 into U8 and take its exact
kernels (1.6 times slower on a ViT-S, so not where they are not needed).

A file in the ORT format was optimised when it was made (`export.ort_format`) and is not optimised again. The session
needs none of the file's bytes once it is open, and does not keep them.

The intra-op threads spin while a prediction runs (they wake microseconds apart) and stop spinning when it ends, so
that an idle device stays idle. Warnings and errors reach the caller as exceptions, never standard error.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

from medfm_compress.runtime.cpu import read_cpu
from medfm_compress.runtime.errors import BundleRefused, InputError, MissingDependency, refusing
from medfm_compress.runtime.regular_file import read_regular
from medfm_compress.runtime.sessions.devices import DEVICES
from medfm_compress.runtime.sessions.first_use import ALONE, FirstUse, importing
from medfm_compress.runtime.sessions.instruction_sets import multiplies_exactly
from medfm_compress.runtime.sessions.onnxruntime_providers import missing, provider_of, use
from medfm_compress.runtime.sessions.operators import is_ort_format, read_operators, read_self_contained
from medfm_compress.runtime.sessions.protocol import MAX_MODEL_BYTES, Array, Availability, SessionInfo, as_float32

BACKEND = "onnxruntime"
_CPU = "CPUExecutionProvider"
_FATAL = 4
_CONFIG = {"session.intra_op.allow_spinning": "1", "session.force_spinning_stop": "1"}
# Without a second try, which would print, and without settings that the model itself carries, whatever the environment.
_PLAIN_START = {"enable_fallback": 0, "read_config_from_model": 0}
_EXACT_CONFIG = {"session.x64quantprecision": "1"}
# Parsed where they are, not from one more copy. The binding frees them before initialisation, which does not read them
# (nor would their initializers be copied with "…for_initializers", which therefore crashes): a test overwrites them.
_ORT_FORMAT_CONFIG = {"session.use_ort_model_bytes_directly": "1"}
_INTEGER_OPERATORS = frozenset(  # of ONNX, and what ONNX Runtime makes of them
    (
        *("DequantizeLinear", "DynamicQuantizeLinear", "MatMulInteger", "ConvInteger", "QLinearConv", "QLinearMatMul"),
        *("QGemm", "QAttention", "MatMulIntegerToFloat", "DynamicQuantizeMatMul", "MatMulNBits"),
    )
)
_WITHOUT_EXACT_KERNEL = re.compile(
    r"NOT_IMPLEMENTED.*?\b(Q(?:Linear\w+|Gemm|Attention)|(?:MatMul|Conv)Integer\w*)\("
)  # as ONNX Runtime names an operator, its version in parentheses

Port = tuple[str, str, tuple[int | str | None, ...]]


class OnnxRuntimeSession:
    """A `Session` on ONNX Runtime; ``InferenceSession.run`` is thread-safe by itself."""

    def __init__(self, session: Any, info: SessionInfo) -> None:
        self._session = session
        self._first = FirstUse()
        self.info = info
        self.input_names: tuple[str, ...] = tuple(value.name for value in session.get_inputs())
        self.output_names: tuple[str, ...] = tuple(value.name for value in session.get_outputs())

    def run(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        """Run once; see `Session.run`.

        Raises:
            InputError: names or shapes the model does not have.
        """
        try:
            values = {name: as_float32(value) for name, value in inputs.items()}
            outputs = self._first(lambda: self._session.run(None, values))
        except Exception as exc:
            raise _as_input_error(exc, inputs) from exc
        return dict(zip(self.output_names, outputs, strict=True))

    @property
    def batch(self) -> int | None:
        """Images of every call, where the network fixes it; None where it is free."""
        return _side(self._session.get_inputs()[0].shape)

    def ports(self) -> tuple[tuple[Port, ...], tuple[Port, ...]]:
        """Inputs and outputs: name, type as ONNX Runtime spells it, and sides; a free side is a name or None."""
        ends = (self._session.get_inputs(), self._session.get_outputs())
        inputs, outputs = (tuple((end.name, end.type, tuple(end.shape)) for end in side) for side in ends)
        return inputs, outputs


def is_available(device: str = "cpu") -> Availability:
    """Whether ONNX Runtime can be imported and has a provider for ``device``."""
    try:
        onnxruntime = import_onnxruntime()
    except ImportError as exc:
        return Availability(ok=False, reason=f"onnxruntime cannot be imported ({exc}): pip install onnxruntime")
    reason = missing(onnxruntime, device)
    return Availability(ok=not reason, reason=reason, version=onnxruntime.__version__)


def open_session(model: str, threads: int, precision: str = "fp32", device: str = "cpu") -> OnnxRuntimeSession:
    """Open the ``.onnx`` or ``.ort`` file at path ``model``; see `from_bytes`."""
    return from_bytes([read_regular(model, MAX_MODEL_BYTES, "model")], threads, precision, device)


def from_bytes(
    files: Sequence[bytes], threads: int, precision: str = "fp32", device: str = "cpu"
) -> OnnxRuntimeSession:
    """Open a model held in memory.

    Args:
        files: one ONNX or ORT-format file with its weights inside.
        threads: intra-op threads, >= 1.
        precision: one that `devices.DEVICES` gives the device; it must be what the graph holds.
        device: a key of `onnxruntime_providers.PROVIDERS`.

    Raises:
        InputError: an option that this backend does not have.
        MissingDependency: ONNX Runtime, or its provider for the device, is not installed.
        BundleRefused: the model cannot be loaded, or is not what ``precision`` says, or another provider took it.
    """
    allowed = DEVICES["onnxruntime"].get(device, ())  # type: ignore[call-overload]
    if precision not in allowed:
        raise InputError(f"onnxruntime on {device} runs {', '.join(allowed) or 'nothing'}, not {precision!r}")
    if threads < 1 or len(files) != 1:
        raise InputError(f"onnxruntime takes one model file and at least 1 thread, got {len(files)} and {threads}")
    available = is_available(device)
    if not available.ok:
        raise MissingDependency(available.reason)
    _check_content(files[0], precision)
    with refusing(BundleRefused, "onnxruntime cannot load the model"):
        return _open(files[0], threads, precision, device)


def _open(model: bytes, threads: int, precision: str, device: str) -> OnnxRuntimeSession:
    with ALONE:
        session = _load(model, threads, precision, device)
    providers, wanted = session.get_providers(), provider_of(device).name
    if providers != list(dict.fromkeys((wanted, _CPU))):
        raise BundleRefused(f"onnxruntime runs the model on {providers}, not on {wanted}")
    running = session.get_session_options().intra_op_num_threads
    version = import_onnxruntime().__version__
    info = SessionInfo(backend=BACKEND, version=version, provider=wanted, precision=precision, threads=running)
    return OnnxRuntimeSession(session, info)


def import_onnxruntime() -> Any:
    """ONNX Runtime with its telemetry off.

    From 1.32 on, importing it already writes to ``~/.cache/Microsoft`` unless the environment forbids it beforehand.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    with importing():
        import onnxruntime

    onnxruntime.disable_telemetry_events()
    return onnxruntime


def session_options(onnxruntime: Any, threads: int) -> Any:
    """The ``SessionOptions`` of every session; `export.ort_format` optimises with the same."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.enable_mem_pattern = False  # 6 MB on a ViT-S, and no faster with it on a fixed shape
    options.log_severity_level = _FATAL
    exact = {} if multiplies_exactly(read_cpu()) else _EXACT_CONFIG
    for key, value in {**_CONFIG, **exact}.items():
        options.add_session_config_entry(key, value)
    return options


def _load(model: bytes, threads: int, precision: str, device: str) -> Any:
    onnxruntime = import_onnxruntime()
    options = session_options(onnxruntime, threads)
    if is_ort_format(model):
        for key, value in _ORT_FORMAT_CONFIG.items():
            options.add_session_config_entry(key, value)
    providers = use(onnxruntime, options, device, precision)
    try:
        session = onnxruntime.InferenceSession(model, options, providers=providers, **_PLAIN_START)
    except Exception as exc:
        raise BundleRefused(
            f"onnxruntime cannot load the model: {reason_in_words(exc, is_exact=multiplies_exactly(read_cpu()))}"
        ) from exc
    with contextlib.suppress(AttributeError):  # gone from the versions that never fall back
        session.disable_fallback()
    if hasattr(session, "_model_bytes"):
        session._model_bytes = None  # kept for the fall-back only: the size of the model in memory
    return session


def reason_in_words(exc: Exception, *, is_exact: bool) -> str:
    """The first line of an error of loading, or what lies behind it where kernels are kept to the exact ones.

    Args:
        exc: what ONNX Runtime raised.
        is_exact: whether the CPU multiplies exactly of itself (`instruction_sets.multiplies_exactly`).
    """
    reason = _first_line(exc)
    found = _WITHOUT_EXACT_KERNEL.search(reason)
    if found is None or is_exact:
        return reason
    return (
        f"it multiplies signed by signed bytes ({found[1]}), which a CPU without VNNI, as this one, would do wrongly; "
        "quantize it with unsigned activations (QUInt8), or in QDQ form"
    )


def _check_content(model: bytes, precision: str) -> None:
    operators = read_self_contained(model, "onnxruntime cannot load the model")
    quantized = bool(operators.kinds & _INTEGER_OPERATORS)
    if quantized != precision.startswith(("int", "fp8")):
        held = "integer" if quantized else "no integer"
        raise BundleRefused(f"the model is declared {precision}, yet its graph has {held} operators")


def holds_integers(model: bytes) -> bool:
    """Whether the graph of an ONNX or ORT-format file has operators of a quantized network; False for another file."""
    try:
        return bool(read_operators(model).kinds & _INTEGER_OPERATORS)
    except ValueError:
        return False


def _as_input_error(exc: Exception, inputs: Mapping[str, Array]) -> InputError:
    shapes = {name: value.shape for name, value in inputs.items()}
    return InputError(f"onnxruntime cannot run on inputs {shapes}: {_first_line(exc)}")


def _side(shape: Sequence[int | str | None]) -> int | None:
    """The first side, where it is a number."""
    return shape[0] if shape and isinstance(shape[0], int) else None


def _first_line(exc: Exception) -> str:
    return " ".join(str(exc).split())[:300] or type(exc).__name__
