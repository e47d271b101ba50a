"""Build a TensorRT engine from a strongly typed ONNX file, in memory, on the machine that will run it.

Precision stands in the file (casts, Q/DQ), not in the builder: what is FP16 there runs in FP16 and nothing else does.
TF32 is switched off, which TensorRT would take for FP32 unasked. A network with a free side gets one optimisation
profile; one that the profile does not cover is refused before the build.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from medfm_compress.runtime.errors import BundleRefused, InputError, in_one_line
from medfm_compress.runtime.sessions.cuda_driver import OutOfGpuMemory
from medfm_compress.runtime.sessions.tensorrt_api import Bindings

WORKSPACE_BYTES = 2 << 30
_FREE = -1  # how TensorRT writes a side that is not fixed

Shape = tuple[int, ...]


class Profile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Shapes of one input that an engine serves: from ``smallest`` to ``largest``, fastest at ``best``."""

    smallest: Shape
    best: Shape
    largest: Shape


class Built(msgspec.Struct, frozen=True, kw_only=True):
    """A serialized engine, and what the build learned of the device's kernels (a timing cache)."""

    engine: bytes
    timings: bytes


class Messages:
    """What TensorRT says during a build: errors and warnings, never on standard error."""

    def __init__(self, trt: Any) -> None:
        self.lines: list[str] = []
        lines, loudest = self.lines, trt.ILogger.Severity.WARNING

        class Logger(trt.ILogger):  # type: ignore[misc, name-defined]
            def __init__(self) -> None:
                trt.ILogger.__init__(self)

            def log(self, severity: Any, message: str) -> None:
                if int(severity) <= int(loudest):
                    lines.append(message)

        self.logger = Logger()

    def last(self) -> str:
        """The last thing said, on one line."""
        return in_one_line(self.lines[-1]) if self.lines else "it gives no reason"


def build(
    bindings: Bindings,
    onnx: bytes,
    precision: str,
    *,
    profiles: Mapping[str, Profile] | None = None,
    workspace_bytes: int = WORKSPACE_BYTES,
    timings: bytes = b"",
) -> Built:
    """The engine of ``onnx`` for the current device.

    Args:
        bindings: TensorRT.
        onnx: a whole file, weights inside.
        precision: of `Api.builder_flags`.
        profiles: input → shapes, for inputs with a free side.
        workspace_bytes: scratch memory that a kernel may use.
        timings: of an earlier build on this device, or empty.

    Raises:
        InputError: a precision that this version does not run, or a free side without a profile.
        OutOfGpuMemory: the device's memory does not suffice.
        BundleRefused: TensorRT does not take the file; the message names the node where TensorRT does.
    """
    trt, api = bindings.module, bindings.api
    if precision not in api.builder_flags:
        raise InputError(f"TensorRT {bindings.version} runs {', '.join(api.builder_flags)}, not {precision!r}")
    said = Messages(trt)
    builder = trt.Builder(said.logger)
    flags = sum(1 << int(getattr(trt.NetworkDefinitionCreationFlag, name)) for name in api.creation_flags)
    network = builder.create_network(flags)
    parser = trt.OnnxParser(network, said.logger)
    if not parser.parse(onnx):
        raise BundleRefused(f"TensorRT {bindings.version} does not take the network: {_first_error(bindings, parser)}")
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace_bytes)
    config.clear_flag(trt.BuilderFlag.TF32)
    for name in api.builder_flags[precision]:
        config.set_flag(getattr(trt.BuilderFlag, name))
    if api.typed_layers:
        _bind_types(trt, network)
    _add_profile(builder, network, config, profiles or {})
    cache = config.create_timing_cache(timings)
    if cache is not None:
        config.set_timing_cache(cache, ignore_mismatch=False)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise _refusal(bindings, said)
    return Built(engine=bytes(engine), timings=b"" if cache is None else bytes(cache.serialize()))


def _first_error(bindings: Bindings, parser: Any) -> str:
    if not parser.num_errors:
        return "it gives no reason"
    error = parser.get_error(0)
    said = in_one_line(error.desc())
    if bindings.api.named_errors:
        return f"node {error.node_name() or error.node()} ({error.node_operator() or 'unknown operator'}): {said}"
    return f"node {error.node()}: {said}" if error.node() >= 0 else said


def _bind_types(trt: Any, network: Any) -> None:
    """Hold every layer to the type of its first output, where that is a float type (weakly typed versions)."""
    floats = (trt.float32, trt.float16)
    for number in range(network.num_layers):
        layer = network.get_layer(number)
        if layer.type in (trt.LayerType.CONSTANT, trt.LayerType.SHAPE) or not layer.num_outputs:
            continue
        kind = layer.get_output(0).dtype
        if kind in floats:
            layer.precision = kind
            layer.set_output_type(0, kind)


def _add_profile(builder: Any, network: Any, config: Any, profiles: Mapping[str, Profile]) -> None:
    inputs = [network.get_input(number) for number in range(network.num_inputs)]
    free = [tensor for tensor in inputs if _FREE in tuple(tensor.shape)]
    if not free:
        return
    profile = builder.create_optimization_profile()
    for tensor in free:
        served = profiles.get(tensor.name)
        shape = tuple(tensor.shape)
        if served is None:
            raise InputError(f"input {tensor.name} of {shape} has a free side; give the shapes that it will have")
        for wanted in (served.smallest, served.best, served.largest):
            fits = len(wanted) == len(shape) and all(side in (_FREE, w) for side, w in zip(shape, wanted, strict=True))
            if not fits:
                raise InputError(f"shape {wanted} does not fit input {tensor.name} of {shape}")
        profile.set_shape(tensor.name, served.smallest, served.best, served.largest)
    config.add_optimization_profile(profile)


def _refusal(bindings: Bindings, said: Messages) -> Exception:
    told = " ".join(said.lines).lower()
    if "out of memory" in told or "outofmemory" in told or "insufficient memory" in told:
        return OutOfGpuMemory(
            f"the GPU's memory does not suffice to build the engine ({said.last()}); close what else uses it"
        )
    return BundleRefused(f"TensorRT {bindings.version} cannot build the network: {said.last()}")
