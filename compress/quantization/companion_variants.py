"""What ships with the best candidate: the same network for other CPUs, and in the form that starts fastest here.

U8×S8 products without VNNI are summed in pairs in 16 bits, which saturate silently (``vpmaddubsw``). Weights of 7 bits
keep every pair below 2¹⁵, at the price of a coarser grid. The optimised form is ONNX Runtime's own (see `ort_format`);
it holds for one class of CPU and one minor version, so the portable one stays behind it.
"""

from __future__ import annotations

import msgspec

from medfm_compress.bench.measure.restricted_isa import Isa, Model, p50_ms_on
from medfm_compress.compress.quantization.candidate_search import (
    Builder,
    CandidateTrial,
    Group,
    Limits,
    measure_fidelity,
    rejection_reason,
    try_method,
)
from medfm_compress.compress.quantization.fidelity import ValidationSet
from medfm_compress.compress.quantization.methods import DoesNotApply
from medfm_compress.export.ort_format import optimise_export
from medfm_compress.runtime.image_spec import ImageSpec

_LESSER: tuple[tuple[Isa, tuple[str, ...]], ...] = (("AVX2", ()), ("AVX512_CORE", ("avx512bw",)))
WHY_REDUCED = "beside it for CPUs without VNNI"
WHY_PORTABLE = "beside the optimised form, for other CPUs and versions"
WHY_OPTIMISED = "the same network as optimised for this class of CPU"


def reduced_range(
    best: CandidateTrial, group: Group, builder: Builder, validation: ValidationSet, limits: Limits
) -> list[CandidateTrial]:
    """The trial with 7-bit weights of the INT8 candidate that ships, judged like any other; none for a float one."""
    if best.method is None or best.method.weight_bits:
        return []
    method = msgspec.structs.replace(best.method, reduced=True, rest="fp32")  # a CPU with bf16 has VNNI
    trial = try_method(method, group, builder, validation, limits)
    said = rejection_reason(trial, limits) or _slow_without_vnni(trial, group, validation, limits)
    trial.kept, trial.is_fallback, trial.reason = not said, True, said or WHY_REDUCED
    return [trial]


def _slow_without_vnni(trial: CandidateTrial, group: Group, validation: ValidationSet, limits: Limits) -> str:
    """Why a variant for lesser CPUs would not pay there, as far as that can be measured here; empty where it does.

    OpenVINO's kernels can be kept to fewer instructions. Where INT8 pays with AVX-512 only, the variant asks for that.
    """
    reference = group.reference
    if trial.export is None or reference.export is None or trial.variant.backend != "openvino":
        return ""
    models = [Model(each.contents, each.variant.precision) for each in (reference.export, trial.export)]
    for isa, needs in _LESSER:
        fp32, int8 = p50_ms_on(isa, models, validation.inputs[:1].shape, limits.rounds, limits.threads)
        if int8 < fp32:
            trial.variant = msgspec.structs.replace(
                trial.variant, instruction_set=(*trial.variant.instruction_set, *needs)
            )
            trial.export = msgspec.structs.replace(trial.export, variant=trial.variant)
            return ""
    return "not faster than FP32 without VNNI"


def optimised(
    best: CandidateTrial, group: Group, spec: ImageSpec, validation: ValidationSet, limits: Limits
) -> list[CandidateTrial | DoesNotApply]:
    """ONNX Runtime's own form of the candidate that ships, in front of it; none for another backend."""
    if best.export is None or best.variant.backend != "onnxruntime":
        return []
    made = optimise_export(best.export, spec)
    name = f"{best.name}+optimised"
    if made.export is None:
        return [DoesNotApply(candidate=name, reason=made.reason)]
    trial = CandidateTrial(name=name, method=best.method, variant=made.export.variant, export=made.export)
    trial.size_bytes = sum(map(len, made.export.contents))
    measure_fidelity(trial, group.reference, validation, limits)
    said = rejection_reason(trial, limits)
    trial.kept, trial.reason = not said, said or WHY_OPTIMISED
    if trial.kept:
        best.is_fallback, best.reason = True, WHY_PORTABLE
    return [trial]
