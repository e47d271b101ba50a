"""Which CPU instructions a variant needs, by backend and precision, and where that is known from.

Flags are Linux's (see `cpu`). Each entry must be met; ``a|b`` is met by either, ``!a`` by a CPU without ``a``.

*U8 × S8.* Without VNNI, x86 multiplies unsigned by signed bytes with ``vpmaddubsw``, which adds pairs of products in
16 bits and saturates: 255·127·2 > 32767. oneDNN documents it ("Nuances of int8 computations") for everything up to
AVX-512 without VNNI, and OpenVINO's kernels do it; ONNX Runtime's do it unless told otherwise (see
`sessions.onnxruntime`). Weights of a reduced range, within ±64, cannot saturate: 255·64·2 < 32767. Arm multiplies bytes
of either sign into 16 bits and widens before it adds, in MLAS as in the Arm Compute Library.
``experiments/int8_without_vnni.py`` shows all of it.

*bf16, fp16.* OpenVINO emulates neither at a gain, so the instructions themselves are asked for. It has no bf16 on Arm.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from medfm_compress.runtime.bundle.manifest import Backend, Precision
from medfm_compress.runtime.cpu import Cpu, missing_flags

InstructionSet = tuple[str, ...]

U8S8: InstructionSet = ("avx512_vnni|avx_vnni|amx_int8|asimd",)
AMX_INT8: InstructionSet = ("amx_int8",)
BF16: InstructionSet = ("avx512_bf16|amx_bf16",)
FP16: InstructionSet = ("avx512_fp16|amx_fp16|asimdhp",)
ANY: InstructionSet = ()

_WEIGHTS: Mapping[Precision, InstructionSet] = {"int8-weights": ANY, "int4-weights": ANY}
_ORT: Mapping[Precision, InstructionSet] = {"fp32": ANY, "int8": U8S8, **_WEIGHTS}
_OV: Mapping[Precision, InstructionSet] = {
    "fp32": ANY,
    "bf16": BF16,
    "fp16": FP16,
    "int8": U8S8,
    "int8-bf16": (*U8S8, *BF16),
    **_WEIGHTS,
}
# ONNX Runtime is exact without VNNI, but then slower than what the variant was measured and chosen for.
FULL_RANGE: Mapping[Backend, Mapping[Precision, InstructionSet]] = MappingProxyType(
    {"onnxruntime": MappingProxyType(_ORT), "openvino": MappingProxyType(_OV), "tensorrt": MappingProxyType({})}
)
"""What a variant needs whose weights use all 8 bits; of a reduced range it needs the same without `U8S8`."""


def instructions(backend: Backend, precision: str, *, reduced: bool = False) -> InstructionSet:
    """The instruction set of a variant; ``reduced`` where its 8-bit weights lie within ±64.

    Unknown combinations need nothing: they are refused when the session is opened.
    """
    needed: InstructionSet = FULL_RANGE[backend].get(precision, ANY)  # type: ignore[call-overload]
    return tuple(need for need in needed if not (reduced and need in U8S8))


def lacking(backend: Backend, needed: InstructionSet, cpu: Cpu) -> InstructionSet:
    """What ``cpu`` lacks of ``needed`` so that an engine would compute something else, and not only be slow.

    Without bf16 or fp16 OpenVINO computes in another precision, without VNNI it saturates. ONNX Runtime is told to
    multiply exactly, and has a form of its own for a class of CPU (see `ort_format`). What else is asked for is speed.
    """
    decisive = (*U8S8, *BF16, *FP16) if backend == "openvino" else ANY
    return tuple(need for need in missing_flags(needed, cpu) if need in decisive)


def favours_symmetric(backend: Backend, cpu: Cpu) -> bool:
    """Whether activations without a zero point are multiplied faster on ``cpu``: by OpenVINO with AMX.

    Its matrix unit takes signed bytes as they are, and a zero point costs a correction of every result. VNNI alone
    takes unsigned bytes, so there the signed ones cost a correction (``experiments/symmetric_activations.py``).
    """
    return backend == "openvino" and not missing_flags(AMX_INT8, cpu)


def multiplies_exactly(cpu: Cpu) -> bool:
    """Whether U8 × S8 products cannot saturate on ``cpu``; False where its flags cannot be read."""
    return not missing_flags(U8S8, cpu)
