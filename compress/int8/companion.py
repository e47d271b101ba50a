"""What ships with the best candidate: the same network for other CPUs, and in the form that starts fastest here.

U8×S8 products without VNNI are summed in pairs in 16 bits, which saturate silently (``vpmaddubsw``). Weights of 7 bits
keep every pair below 2¹⁵, at the price of a coarser grid. The optimised form is ONNX Runtime's own (see `ort_format`);
it holds for one class of CPU and one minor version, so the portable one stays behind it.
"""

from __future__ import annotations

import msgspec

from medfm_compress.compress.int8.judge import Judges
from medfm_compress.compress.int8.ladder import Builder, Group, Limits, Trial, judge_trial, objection, try_method
from medfm_compress.compress.int8.method import DoesNotApply
from medfm_compress.export.ort_format import optimise_export
from medfm_compress.runtime.image_spec import ImageSpec

WHY_REDUCED = "beside it for CPUs without VNNI"
WHY_PORTABLE = "beside the optimised form, for other CPUs and versions"
WHY_OPTIMISED = "the same network as optimised for this class of CPU"


def reduced_range(best: Trial, group: Group, builder: Builder, judges: Judges, limits: Limits) -> list[Trial]:
    """The trial with 7-bit weights of the INT8 candidate that ships, judged like any other; none for a float one."""
    if best.method is None:
        return []
    method = msgspec.structs.replace(best.method, reduced=True, rest="fp32")  # a CPU with bf16 has VNNI
    trial = try_method(method, group, builder, judges, limits)
    said = objection(trial, limits)
    trial.kept, trial.beside, trial.reason = not said, True, said or WHY_REDUCED
    return [trial]


def optimised(best: Trial, group: Group, spec: ImageSpec, judges: Judges, limits: Limits) -> list[Trial | DoesNotApply]:
    """ONNX Runtime's own form of the candidate that ships, in front of it; none for another backend."""
    if best.export is None or best.variant.backend != "onnxruntime":
        return []
    made = optimise_export(best.export, spec)
    name = f"{best.name}+optimised"
    if made.export is None:
        return [DoesNotApply(rung=name, reason=made.reason)]
    trial = Trial(name=name, method=best.method, variant=made.export.variant, export=made.export)
    trial.size_bytes = sum(map(len, made.export.contents))
    judge_trial(trial, group.reference, judges, limits)
    said = objection(trial, limits)
    trial.kept, trial.reason = not said, said or WHY_OPTIMISED
    if trial.kept:
        best.beside, best.reason = True, WHY_PORTABLE
    return [trial]
