"""Which devices a backend drives, and in which precisions."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from medfm_compress.runtime.bundle.manifest import Backend, Device, Precision
from medfm_compress.runtime.sessions.instruction_sets import FULL_RANGE

_IN_THE_GRAPH: tuple[Precision, ...] = ("fp32", "fp16", "bf16", "int8", "int8-fp16", "fp8", "fp8-fp16")
"""Of TensorRT: what runs is what the graph's types and Q/DQ say."""

DEVICES: Mapping[Backend, Mapping[Device, tuple[Precision, ...]]] = MappingProxyType(
    {
        "onnxruntime": MappingProxyType(
            {
                "cpu": tuple(FULL_RANGE["onnxruntime"]),
                "cuda": ("fp32", "fp16"),
                "tensorrt": _IN_THE_GRAPH,
                "tensorrt-rtx": _IN_THE_GRAPH,
            }
        ),
        "openvino": MappingProxyType({"cpu": tuple(FULL_RANGE["openvino"])}),
        "tensorrt": MappingProxyType({"cuda": _IN_THE_GRAPH}),
    }
)


def obstacle(backend: str, device: str, precision: str) -> str:
    """Why no variant can be of these three together, as a phrase; empty where one can."""
    if backend not in DEVICES:
        return f"needs backend {backend}, which this version does not have"
    devices: Mapping[str, tuple[str, ...]] = DEVICES[backend]  # type: ignore[index, assignment]
    if device not in devices:
        return f"needs device {device}, which {backend} does not drive here; it drives {', '.join(devices)}"
    if precision not in devices[device]:
        return f"is declared {precision}, a precision in which {backend} does not run on {device}"
    return ""
