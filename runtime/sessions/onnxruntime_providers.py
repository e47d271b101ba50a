"""ONNX Runtime's execution providers, by the device that a target names.

A GPU provider leaves to the CPU what it has no kernel for; a session in which the provider itself is missing is
refused (`onnxruntime._open`), since ONNX Runtime would otherwise run the whole network on the CPU without a word.

TensorRT-RTX's provider is a plug-in: a package of its own registers it with an installed ONNX Runtime from 1.23 on.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from medfm_compress.runtime.errors import InputError, MissingDependency
from medfm_compress.runtime.sessions.first_use import ALONE


class Provider(NamedTuple):
    """One execution provider: ONNX Runtime's name for it, its options, and what installs it."""

    name: str
    options: Mapping[str, str]
    needs: str


_GPU_BUILD = "pip install onnxruntime-gpu"
_PLUGIN = "onnxruntime_ep_nv_tensorrt_rtx"
PROVIDERS: Mapping[str, Provider] = MappingProxyType(
    {
        "cpu": Provider("CPUExecutionProvider", MappingProxyType({}), "pip install onnxruntime"),
        # TF32 has 10 bits of mantissa and would be taken for FP32 unasked
        "cuda": Provider("CUDAExecutionProvider", MappingProxyType({"use_tf32": "0"}), _GPU_BUILD),
        "tensorrt": Provider("TensorrtExecutionProvider", MappingProxyType({}), f"{_GPU_BUILD}, and TensorRT"),
        "tensorrt-rtx": Provider(
            "NvTensorRTRTXExecutionProvider",
            MappingProxyType({}),
            "pip install onnxruntime-ep-nv-tensorrt-rtx-cu13, beside onnxruntime",
        ),
    }
)
_IN_PRECISION: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {  # of the provider "tensorrt", whose networks are weakly typed
        "fp16": MappingProxyType({"trt_fp16_enable": "1"}),
        "bf16": MappingProxyType({"trt_bf16_enable": "1"}),
        "int8": MappingProxyType({"trt_int8_enable": "1"}),
        "int8-fp16": MappingProxyType({"trt_int8_enable": "1", "trt_fp16_enable": "1"}),
    }
)


def provider_of(device: str) -> Provider:
    """The provider that computes on ``device``.

    Raises:
        InputError: none does.
    """
    if device not in PROVIDERS:
        raise InputError(f"onnxruntime runs on {', '.join(PROVIDERS)}, not on {device!r}")
    return PROVIDERS[device]


def missing(onnxruntime: Any, device: str) -> str:
    """Why the provider of ``device`` cannot be used, and what would mend it; empty where it can."""
    provider = provider_of(device)
    if device == "tensorrt-rtx":
        try:
            _register_plugin(onnxruntime)
        except MissingDependency as exc:
            return str(exc)
        devices = {found.ep_name for found in onnxruntime.get_ep_devices()}
        return "" if provider.name in devices else f"{provider.name} finds no RTX GPU here"
    if provider.name in onnxruntime.get_available_providers():
        return ""
    return f"this onnxruntime build has no {provider.name}: {provider.needs}"


def use(onnxruntime: Any, options: Any, device: str, precision: str) -> list[Any]:
    """Put the plug-in into ``options`` where ``device`` is one; the argument ``providers`` of a session otherwise."""
    provider = provider_of(device)
    if device == "tensorrt-rtx":
        found = [each for each in onnxruntime.get_ep_devices() if each.ep_name == provider.name]
        options.add_provider_for_devices(found[:1], dict(provider.options))
        return []
    chosen = {**provider.options, **(_IN_PRECISION.get(precision, {}) if device == "tensorrt" else {})}
    return [(provider.name, chosen)] if chosen else [provider.name]


def _register_plugin(onnxruntime: Any) -> None:
    name = PROVIDERS["tensorrt-rtx"].name
    if not hasattr(onnxruntime, "register_execution_provider_library"):
        raise MissingDependency(f"onnxruntime {onnxruntime.__version__} takes no plug-ins; install 1.23 or newer")
    with ALONE:
        if any(found.ep_name == name for found in onnxruntime.get_ep_devices()):
            return
        try:
            library = importlib.import_module(_PLUGIN).get_library_path()
            onnxruntime.register_execution_provider_library(name, library)
        except Exception as exc:
            raise MissingDependency(f"{name} cannot be loaded ({exc}): {PROVIDERS['tensorrt-rtx'].needs}") from exc
