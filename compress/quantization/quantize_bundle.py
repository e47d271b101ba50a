"""Post-training quantization of a bundle: calibrate once, search the candidates of every target, ship the best of each.

Calibration sees training cases only, the choice among candidates validation cases only. A candidate that is not kept
is a value with a reason, not an exception. One that is kept gets its own thresholds (see `recalibrate_thresholds`),
on all validation cases, because the task's were chosen on all.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Literal, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from medfm_compress.bench.evaluate.evaluate import tabulate
from medfm_compress.bench.stats.pareto_front import front
from medfm_compress.compress.quantization import companion_variants as companion
from medfm_compress.compress.quantization.build_candidate import SAMPLE, GraphBuilder, portable
from medfm_compress.compress.quantization.calibrate import calibrate
from medfm_compress.compress.quantization.candidate import Candidate
from medfm_compress.compress.quantization.candidate_search import CandidateTrial, Group, Limits, search_candidates
from medfm_compress.compress.quantization.fidelity import ValidationSet, case_logits
from medfm_compress.compress.quantization.methods import DoesNotApply
from medfm_compress.compress.quantization.options import MIN_CALIBRATION_CASES, QuantizeOptions
from medfm_compress.compress.quantization.targets import open_groups
from medfm_compress.compress.quantization.thresholds import recalibrate_thresholds
from medfm_compress.data.study import Case, Study
from medfm_compress.export.build import Export, make_variant, versions
from medfm_compress.export.cases import check_labels, network_inputs, sample_cases
from medfm_compress.runtime.bundle.bundle import Bundle, rewrite_bundle, utc_date
from medfm_compress.runtime.bundle.manifest import Manifest
from medfm_compress.runtime.cpu import usable_cores
from medfm_compress.runtime.errors import InputError, StudyError
from medfm_compress.runtime.golden_cases import golden_files, read_golden_inputs, run_goldens
from medfm_compress.runtime.image_spec import ImageSpec
from medfm_compress.runtime.progress import Progress, no_progress

_CHUNK = 32  # cases that are in memory at once, beyond those that judge
_WEIGHT_BITS: Mapping[str, Literal[0, 4, 8]] = MappingProxyType({"": 0, "int8": 8, "int4": 4})


class Quantized(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome: the new bundle's manifest, and everything that was tried.

    Attributes:
        manifest: of the bundle that was written.
        candidates: in the order tried, FP32 of each backend first.
        applied: at least one faster variant is in the bundle; otherwise it holds what the source held.
        calibration_images: the training cases that were used.
    """

    manifest: Manifest
    candidates: tuple[Candidate, ...]
    applied: bool
    calibration_images: tuple[str, ...]


class _Kept(NamedTuple):
    """A kept trial and its logits on validation cases, in pieces."""

    trial: CandidateTrial
    export: Export
    logits: list[NDArray[np.float32]]


def quantize_bundle(
    bundle_path: str | Path,
    study: Study,
    out_path: str | Path,
    options: QuantizeOptions | None = None,
    progress: Progress = no_progress,
) -> Quantized:
    """Write a copy of a bundle with the best variant for each target, where one is faithful and faster than FP32.

    Args:
        bundle_path: a bundle with an FP32 ONNX Runtime variant, whose graph is quantized.
        study: gives training cases to calibrate and validation cases to judge; test cases are not read.
        out_path: of the new bundle, written atomically; may be the source.
        options: see `QuantizeOptions`.
        progress: told what begins.

    Raises:
        InputError: no FP32 ONNX variant, an unknown target, labels that differ, a graph that cannot be quantized, or
            activations that are not finite.
        StudyError: too few cases, or one that cannot be read; it is named.
    """
    options = options or QuantizeOptions()
    bundle = Bundle.open(bundle_path)
    check_labels(study, bundle.manifest.task)
    onnx = _source_graph(bundle)
    groups = open_groups(bundle, options.targets, options.threads)
    cases = sample_cases(study, "train", options.samples, options.seed)
    if len(cases) < MIN_CALIBRATION_CASES:
        raise StudyError(f"{len(cases)} training cases; calibration needs at least {MIN_CALIBRATION_CASES}")
    builder = _calibrated(onnx, study, cases, bundle, progress)
    validation = _judges(bundle, study, options, progress)
    tried: list[CandidateTrial | DoesNotApply] = []
    for group in groups:
        tried += _climbed(group, builder, validation, bundle.manifest.image_spec, options, progress)
    steps = _steps(tried, options, len(cases))
    if options.rechoose:
        progress("choosing thresholds of the new variants on validation cases")
        steps += _recalibrate_thresholds(_trials(tried), validation, bundle)
    manifest = _write(bundle, out_path, _trials(tried), steps)
    return Quantized(
        manifest=manifest,
        candidates=_candidates(tried, groups),
        applied=any(trial.kept and trial.name != "fp32" for trial in _trials(tried)),
        calibration_images=tuple(case.image for case in cases),
    )


def _source_graph(bundle: Bundle) -> bytes:
    for variant in bundle.manifest.variants:
        if variant.name == make_variant("onnxruntime", "fp32").name:
            return portable(bundle.read(variant.files[0]))
    raise InputError(f"{bundle.path.name} has no FP32 ONNX variant to quantize; export the model again")


def _calibrated(onnx: bytes, study: Study, cases: tuple[Case, ...], bundle: Bundle, progress: Progress) -> GraphBuilder:
    spec = bundle.manifest.image_spec
    progress(f"calibrating on {len(cases)} training cases")

    def stream() -> Iterator[NDArray[np.float32]]:
        for start in range(0, len(cases), _CHUNK):
            yield network_inputs(study, cases[start : start + _CHUNK], spec)

    statistics = calibrate(onnx, stream(), threads=usable_cores(), progress=progress)
    return GraphBuilder(onnx, statistics, network_inputs(study, cases[:SAMPLE], spec))


def _judges(bundle: Bundle, study: Study, options: QuantizeOptions, progress: Progress) -> ValidationSet:
    cases = sample_cases(study, "val", options.validation_samples, options.seed)
    progress(f"reading {len(cases)} validation cases")
    inputs = network_inputs(study, cases, bundle.manifest.image_spec)
    return ValidationSet(study=study, cases=cases, inputs=inputs, task=bundle.manifest.task)


def _climbed(
    group: Group,
    builder: GraphBuilder,
    validation: ValidationSet,
    spec: ImageSpec,
    options: QuantizeOptions,
    progress: Progress,
) -> list[CandidateTrial | DoesNotApply]:
    limits = Limits(
        error=options.error_limit,
        auroc_drop=options.auroc_limit,
        rounds=options.rounds,
        threads=options.threads,
        deadline=time.monotonic() + options.time_budget_s,
        weight_bits=_WEIGHT_BITS[options.weights_only],
    )
    tried = search_candidates(group, builder, validation, limits, progress)
    kept = [trial for trial in _trials(tried) if trial.kept]
    reference = group.reference
    if kept and options.optimised:
        tried += companion.optimised(kept[0], group, spec, validation, limits)
    if kept and options.reduced_range:
        tried += companion.reduced_range(kept[0], group, builder, validation, limits)
    reference.kept, reference.is_fallback = options.keep_fp32 or not kept, bool(kept)
    reference.reason = _reference_reason(kept, keep=options.keep_fp32)
    return tried


def _reference_reason(kept: list[CandidateTrial], *, keep: bool) -> str:
    if not kept:
        return "no candidate may replace it"
    return "kept as fall-back" if keep else f"replaced by {kept[0].variant.precision}"


def _recalibrate_thresholds(trials: list[CandidateTrial], validation: ValidationSet, bundle: Bundle) -> list[str]:
    """Decide every kept trial anew on all labelled validation cases; the lines for the provenance."""
    task = bundle.manifest.task
    labelled = np.array([bool(case.target) for case in validation.cases])
    kept = [
        _Kept(trial, trial.export, [trial.logits[labelled]])
        for trial in trials
        if trial.kept and trial.export is not None and trial.logits is not None
    ]
    cases = _complete(kept, validation, bundle)
    lines = []
    for trial, export, logits in kept if cases else ():
        evaluation = tabulate(np.concatenate(logits), validation.study, cases, task, name=trial.variant.name)
        decided = recalibrate_thresholds(trial.variant, evaluation, task)
        trial.variant, trial.export = decided.variant, msgspec.structs.replace(export, variant=decided.variant)
        lines += [f"quantize: {trial.variant.name}: {line}" for line in decided.lines]
    return lines


def _complete(kept: list[_Kept], validation: ValidationSet, bundle: Bundle) -> tuple[Case, ...]:
    """Append the logits of the labelled validation cases that did not judge; all the cases, in the logits' order."""
    judged = {case.image for case in validation.cases}
    rest = tuple(case for case in validation.study.split("val") if case.target and case.image not in judged)
    for start in range(0, len(rest) if kept else 0, _CHUNK):
        inputs = network_inputs(validation.study, rest[start : start + _CHUNK], bundle.manifest.image_spec)
        for each in kept:
            each.logits.append(case_logits(each.export.session, inputs))
    return (*(case for case in validation.cases if case.target), *rest)


def _write(bundle: Bundle, out_path: str | Path, trials: list[CandidateTrial], steps: list[str]) -> Manifest:
    shipped = [(trial, trial.export) for trial in trials if trial.kept and trial.export is not None]
    replaced = {trial.variant.name for trial in trials if trial.kept or trial.name == "fp32"}
    untouched = [variant for variant in bundle.manifest.variants if variant.name not in replaced]
    ordered = [export.variant for _, export in sorted(shipped, key=lambda pair: (pair[0].is_fallback, pair[0].p50_ms))]
    files: dict[str, bytes] = {}
    inputs = read_golden_inputs(bundle)
    for trial, export in shipped:
        if trial.name != "fp32":
            files |= export.files
            logits = {export.variant.name: run_goldens(export.session, inputs)}
            files |= golden_files(inputs, logits, bundle.manifest.image_spec)
    old = bundle.manifest.provenance
    provenance = msgspec.structs.replace(old, steps=(*old.steps, *steps), libraries=versions(), date=utc_date())
    return rewrite_bundle(bundle, out_path, variants=(*ordered, *untouched), files=files, provenance=provenance)


def _steps(tried: list[CandidateTrial | DoesNotApply], options: QuantizeOptions, calibrated: int) -> list[str]:
    lines = [f"quantize: calibrated on {calibrated} training cases, seed {options.seed}"]
    for trial in _trials(tried):
        if trial.name != "fp32":
            outcome = "kept" if trial.kept else "refused"
            lines.append(f"quantize: {trial.variant.name} by {trial.name} {outcome}: {trial.reason}")
    return lines


def _candidates(tried: list[CandidateTrial | DoesNotApply], groups: tuple[Group, ...]) -> tuple[Candidate, ...]:
    """Everything that was tried as values that outlive the sessions; the Pareto front is over all targets."""
    ran = [trial for trial in _trials(tried) if trial.ran]
    best = {id(ran[number]) for number in front([(trial.p50_ms, -trial.error) for trial in ran])}
    found, backend = [], ""
    for each in tried:
        if isinstance(each, DoesNotApply):
            found.append(Candidate(target=f"{backend}:cpu", variant="", method=each.candidate, reason=each.reason))
            continue
        backend = each.variant.backend
        found.append(_candidate(each, pareto=id(each) in best))
    return tuple(found)


def _candidate(trial: CandidateTrial, *, pareto: bool) -> Candidate:
    return Candidate(
        target=trial.variant.target,
        variant=trial.variant.name,
        method=trial.name,
        p50_ms=trial.p50_ms,
        speedup=trial.speedup,
        relative_logit_error=trial.error,
        auroc_drop=trial.auroc_drop,
        size_bytes=trial.size_bytes,
        pareto=pareto,
        kept=trial.kept,
        reason=trial.reason,
    )


def _trials(tried: list[CandidateTrial | DoesNotApply]) -> list[CandidateTrial]:
    return [each for each in tried if isinstance(each, CandidateTrial)]
