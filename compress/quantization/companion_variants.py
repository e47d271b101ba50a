"""What ships with the best candidate: the same network for other CPUs, and in the form that starts fastest here.

U8×S8 products without VNNI are summed in pairs in 16 bits, which saturate silently (``vpmaddubsw``). Weights of 7 bits
keep every pair below 2¹⁵, at the price of a coarser grid. The optimised form is ONNX Runtime's own (see `ort_format`);
it holds for one class of CPU and one minor version, so the portable one stays behind it.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from medfm_compress.bench.measure.latency import Plan
from medfm_compress.bench.measure.restricted_isa import Isa, Model, speedup_on
from medfm_compress.compress.quantization.candidate_search import Builder, Group, judge, open_method
from medfm_compress.compress.quantization.candidate_trial import Attempt, CandidateTrial, Limits, rejection_reason
from medfm_compress.compress.quantization.kinds.validation_set import ValidationSet
from medfm_compress.compress.quantization.methods import DoesNotApply
from medfm_compress.export.build import Export
from medfm_compress.export.ort_format import optimise_export
from medfm_compress.runtime.columns import Column
from medfm_compress.runtime.image_spec import ImageSpec

_PLAN = Plan(rounds=8, turn_ms=10.0, min_calls=1, warm_up_s=0.3)  # a sign is wanted, no figure
_LESSER: tuple[tuple[Isa, tuple[str, ...]], ...] = (("AVX2", ()), ("AVX512_CORE", ("avx512bw",)))


@dataclass(frozen=True)
class CompanionBuilder:
    """Makes companions, and judges them like any other candidate.

    Attributes:
        builder: makes INT8 graphs.
        validation: validation cases.
        spec: of the input.
        limits: of fidelity.
        optimised: make ONNX Runtime's own form.
        reduced_range: make the form with 7-bit weights.
    """

    builder: Builder
    validation: ValidationSet
    spec: ImageSpec
    limits: Limits
    optimised: bool = True
    reduced_range: bool = True

    def companions(self, best: CandidateTrial, reference: CandidateTrial, group: Group) -> tuple[Attempt, ...]:
        """What may ship beside ``best``; a ``reason`` says why one may not, and fresh processes have the last word.

        Args:
            best: the candidate.
            reference: FP32 of its target, with its logits.
            group: the target.
        """
        forms = self._optimised(best, reference) if self.optimised else ()
        return (*forms, *(self._reduced(best, reference, group) if self.reduced_range else ()))

    def _reduced(self, best: CandidateTrial, reference: CandidateTrial, group: Group) -> tuple[Attempt, ...]:
        """The trial with 7-bit weights of an INT8 candidate; none for a float one, or one that has such weights."""
        if best.method is None or best.method.weight_bits or best.method.reduced:
            return ()
        # A CPU with bf16 or AMX, where what stays in float and what has no zero point pay, has VNNI.
        method = msgspec.structs.replace(best.method, reduced=True, rest="fp32", symmetric="none")
        trial = open_method(method, group, self.builder, self.limits)
        trial = judge(_beside(trial, best), reference, self.validation)
        if rejection_reason(trial, self.limits):
            return (trial,)
        return (self._for_lesser_cpus(trial, reference),)

    def _for_lesser_cpus(self, trial: CandidateTrial, reference: CandidateTrial) -> CandidateTrial:
        """``trial`` asking for the instructions that it pays on, as far as that can be measured here.

        OpenVINO's kernels can be kept to fewer instructions. Where INT8 pays with AVX-512 only, the variant asks for
        that; where it pays on neither, ``reason`` says so.
        """
        if trial.export is None or reference.export is None or trial.variant.backend != "openvino":
            return trial
        columns = self.validation.columns
        models = _model_of(reference.export, columns), _model_of(trial.export, columns)
        plan = msgspec.structs.replace(_PLAN, threads=self.limits.threads)
        for isa, needs in _LESSER:
            if speedup_on(isa, models, self.spec, self.validation.task, plan).low > 1:
                instruction_set = (*trial.variant.instruction_set, *needs)
                variant = msgspec.structs.replace(trial.variant, instruction_set=instruction_set)
                export = msgspec.structs.replace(trial.export, variant=variant)
                return msgspec.structs.replace(trial, variant=variant, export=export)
        return msgspec.structs.replace(trial, reason="not faster than FP32 without VNNI")

    def _optimised(self, best: CandidateTrial, reference: CandidateTrial) -> tuple[Attempt, ...]:
        """ONNX Runtime's own form of a candidate; none for another backend."""
        if best.export is None or best.variant.backend != "onnxruntime":
            return ()
        optimised = optimise_export(best.export, self.spec, columns=self.validation.columns)
        name = f"{best.name}+optimised"
        if optimised.export is None:
            return (DoesNotApply(candidate=name, reason=optimised.reason),)
        trial = CandidateTrial(
            name=name,
            method=best.method,
            variant=optimised.export.variant,
            export=optimised.export,
            size_bytes=sum(map(len, optimised.export.contents)),
        )
        if optimised.is_identical:
            return (_judged_as(best, _beside(trial, best)),)
        return (judge(_beside(trial, best), reference, self.validation),)


def _judged_as(best: CandidateTrial, trial: CandidateTrial) -> CandidateTrial:
    """``trial``, which gives what ``best`` gives to the last bit, with the judgement on ``best``: not asked again."""
    judged = msgspec.structs.replace(trial, logits=best.logits, features=best.features, error=best.error)
    return msgspec.structs.replace(judged, accuracy_drop=best.accuracy_drop, changed_decisions=best.changed_decisions)


def _model_of(export: Export, columns: tuple[Column, ...]) -> Model:
    return Model(export.contents, export.variant.precision, columns)


def _beside(trial: CandidateTrial, best: CandidateTrial) -> CandidateTrial:
    """``trial`` as companion of ``best``, whose speed is taken for its own until fresh processes time both."""
    if trial.export is None:
        return msgspec.structs.replace(trial, companion_of=best.name)
    return msgspec.structs.replace(
        trial,
        companion_of=best.name,
        p50_ms=best.p50_ms,
        speedup=best.speedup,
        search_interval=best.speedup_interval or best.search_interval,
        pace=best.pace,
    )
