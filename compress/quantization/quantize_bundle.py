"""Post-training quantization of a bundle: calibrate once, search the candidates of every target, ship the best of each.

Calibration sees training cases only, the choice among candidates validation cases only. A candidate that is not kept
is a value with a reason, not an exception. One that is kept gets its own thresholds (see `recalibrate_variants`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from medfm_compress.bench.stats.pareto_front import front
from medfm_compress.bench.types.measurement import Measurement
from medfm_compress.bench.types.quantization_step import UNLABELLED, candidate_step, idle_candidate
from medfm_compress.bench.types.target import check_threads
from medfm_compress.compress.quantization.budget import Budget
from medfm_compress.compress.quantization.build_candidate import SAMPLE, GraphBuilder, portable
from medfm_compress.compress.quantization.calibrate import calibrate
from medfm_compress.compress.quantization.candidate import Candidate
from medfm_compress.compress.quantization.candidate_search import search_candidates
from medfm_compress.compress.quantization.candidate_trial import CandidateTrial, Limits, opened, trials_of
from medfm_compress.compress.quantization.companion_variants import CompanionBuilder
from medfm_compress.compress.quantization.final_choice import Attempts, choose_variants
from medfm_compress.compress.quantization.final_timing import Timer, final_plan, time_in_fresh_processes
from medfm_compress.compress.quantization.gpu_variants import BACKEND as TENSORRT
from medfm_compress.compress.quantization.gpu_variants import gpu_attempts, gpu_precisions
from medfm_compress.compress.quantization.heat_map_agreement import heat_map_lines
from medfm_compress.compress.quantization.kinds.table import judge_of
from medfm_compress.compress.quantization.kinds.validation_set import ValidationSet
from medfm_compress.compress.quantization.methods import DoesNotApply
from medfm_compress.compress.quantization.options import MIN_CALIBRATION_CASES, QuantizeOptions
from medfm_compress.compress.quantization.preference import Preferred, in_order
from medfm_compress.compress.quantization.recalibrate_variants import recalibrate_variants
from medfm_compress.compress.quantization.targets import make_group, variants_of
from medfm_compress.compress.quantization.thresholds import FollowedThreshold
from medfm_compress.compress.quantization.typicality_scores import score_files
from medfm_compress.data.study import Case, Study
from medfm_compress.export.build import Export, make_variant, versions
from medfm_compress.export.cases import case_inputs, check_labels, sample_cases
from medfm_compress.runtime.bundle.bundle import Bundle, rewrite_bundle, utc_date
from medfm_compress.runtime.bundle.manifest import Manifest, Variant
from medfm_compress.runtime.cpu import usable_cores
from medfm_compress.runtime.errors import InputError, StudyError
from medfm_compress.runtime.golden_cases import golden_files, read_golden_inputs, run_goldens
from medfm_compress.runtime.heap import release_unused_memory
from medfm_compress.runtime.image_spec import ImageSpec
from medfm_compress.runtime.network_inputs import NetworkInputs, images_of
from medfm_compress.runtime.progress import Progress, counted, no_progress
from medfm_compress.runtime.sessions.table import open_session_from_bytes

_CHUNK = 32  # cases that are in memory at once, beyond those that judge
_WEIGHT_BITS: Mapping[str, Literal[0, 4, 8]] = MappingProxyType({"": 0, "int8": 8, "int4": 4})
_STAYS = "no candidate may replace it"


class Quantized(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome: the new bundle's manifest, and everything that was tried.

    Attributes:
        manifest: of the bundle that was written.
        candidates: in the order tried, FP32 of each backend first.
        labelled: accuracy could be told; otherwise fidelity was judged by logits alone.
        applied: at least one faster variant is in the bundle; otherwise it holds what the source held.
        calibration_images: the training cases that were used.
        threads: that candidates were timed on.
        thresholds: how each variant that ships decides on validation cases beside FP32; none where there is no
            threshold to follow, or none was asked for.
    """

    manifest: Manifest
    candidates: tuple[Candidate, ...]
    applied: bool
    labelled: bool
    calibration_images: tuple[str, ...]
    threads: int = 1
    thresholds: tuple[FollowedThreshold, ...] = ()

    @property
    def judged_by(self) -> str:
        """What decided whether a candidate is faithful, in words."""
        return f"relative logit error and {judge_of(self.manifest.task).metric}" if self.labelled else UNLABELLED


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
    check_threads(options.threads)
    bundle = Bundle.open(bundle_path)
    check_labels(study, bundle.manifest.task)
    _source_variant(bundle)
    cpu, gpu = _by_device(options.targets)
    precisions = gpu_precisions(gpu, bundle.manifest.told)
    variants = variants_of(bundle, cpu) if cpu or not gpu else ()
    cases = sample_cases(study, "train", options.samples, options.seed)
    if len(cases) < MIN_CALIBRATION_CASES:
        raise StudyError(f"{len(cases)} training cases; calibration needs at least {MIN_CALIBRATION_CASES}")
    judging = _judging_cases(bundle, study, options)
    bare = not any(case.target for case in study.cases)
    calibrated = f"{len(cases)} {'images' if bare else 'training cases'}"
    if bare:
        taken = len(study.split("train") + study.split("val"))
        progress(f"took {taken} images below {study.root}: {len(cases)} calibrate, {len(judging)} judge")
    progress(f"calibrating on {calibrated}")
    builder = _calibrated(study, cases, bundle, progress)
    validation = _validation_set(bundle, study, judging, progress)
    spec = bundle.manifest.image_spec
    attempts = _attempted(bundle, variants, builder, validation, options, progress) if variants else ()
    if precisions:
        timer = _timer(spec, validation, options, progress)
        attempts += gpu_attempts(precisions, builder, validation, _limits(options, validation), progress, timer)
    shipping = [trial for trial in trials_of(attempts) if trial.kept]
    own_lines: list[str] = []
    thresholds: tuple[FollowedThreshold, ...] = ()
    if options.rechoose and not bare and judge_of(bundle.manifest.task).chooses_thresholds:
        progress("choosing thresholds of the new variants on validation cases")
        references = [trial for trial in trials_of(attempts) if trial.is_reference]
        recalibrated = recalibrate_variants(
            shipping, references, validation, spec, lambda: _source_graph(bundle), progress
        )
        own_lines, thresholds = recalibrated.lines, recalibrated.thresholds
        attempts = _without(attempts, recalibrated.overflowed)
        own = {trial.variant.name: trial for trial in recalibrated.trials}
        shipping = [own.get(trial.variant.name, trial) for trial in trials_of(attempts) if trial.kept]
    steps = [*_steps(attempts, options, calibrated, validation), *own_lines]
    scores = score_files(bundle, shipping, validation, lambda: _source_graph(bundle), progress)
    exports = [opened(trial) for trial in shipping if not trial.is_reference]
    steps += heat_map_lines(bundle, exports, images_of(validation.inputs))
    manifest = _write(bundle, out_path, shipping, attempts, steps, scores)
    return Quantized(
        manifest=manifest,
        candidates=_candidates(attempts),
        applied=any(not trial.is_reference for trial in shipping),
        labelled=validation.labelled,
        calibration_images=tuple(case.image for case in cases),
        threads=options.threads,
        thresholds=thresholds,
    )


def _by_device(targets: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The targets whose variants run, and are timed, on a CPU, and those of TensorRT."""
    gpu = tuple(target for target in targets if target.split(":")[0] == TENSORRT)
    return tuple(target for target in targets if target not in gpu), gpu


def _source_graph(bundle: Bundle) -> bytes:
    return portable(bundle.read(_source_variant(bundle).files[0]))


def _source_variant(bundle: Bundle) -> Variant:
    for variant in bundle.manifest.variants:
        if variant.name == make_variant("onnxruntime", "fp32").name:
            return variant
    raise InputError(f"{bundle.path.name} has no FP32 ONNX variant to quantize; export the model again")


def _calibrated(study: Study, cases: tuple[Case, ...], bundle: Bundle, progress: Progress) -> GraphBuilder:
    onnx = _source_graph(bundle)
    release_unused_memory()  # that of the graph as it was read

    def stream() -> Iterator[NetworkInputs]:
        for start in counted(range(0, len(cases), _CHUNK), "calibrate", len(cases), progress, _CHUNK):
            yield _inputs(bundle, study, cases[start : start + _CHUNK])

    statistics = calibrate(onnx, stream(), threads=usable_cores())
    release_unused_memory()  # that of ONNX Runtime and of all activations
    return GraphBuilder(onnx, statistics, _inputs(bundle, study, cases[:SAMPLE]), bundle.manifest.task)


def _inputs(bundle: Bundle, study: Study, cases: Sequence[Case]) -> NetworkInputs:
    return case_inputs(study, cases, bundle.manifest.image_spec, bundle.manifest.told)


def _judging_cases(bundle: Bundle, study: Study, options: QuantizeOptions) -> tuple[Case, ...]:
    judge = judge_of(bundle.manifest.task)
    wanted = min(judge.wanted_cases(options), judge.most_cases(bundle.manifest.task, bundle.manifest.image_spec))
    return sample_cases(study, "val", wanted, options.seed)


def _validation_set(bundle: Bundle, study: Study, cases: tuple[Case, ...], progress: Progress) -> ValidationSet:
    task, spec = bundle.manifest.task, bundle.manifest.image_spec
    progress(f"reading {len(cases)} cases that judge")
    inputs = _inputs(bundle, study, cases)
    truth = judge_of(task).truth(study, cases, spec)
    return ValidationSet(study, cases, inputs, task, truth, bundle.manifest.told)


def _attempted(
    bundle: Bundle,
    variants: tuple[Variant, ...],
    builder: GraphBuilder,
    validation: ValidationSet,
    options: QuantizeOptions,
    progress: Progress,
) -> Attempts:
    """Everything that was tried on every target, FP32 of each first, and what became of it."""
    spec, limits = bundle.manifest.image_spec, _limits(options, validation)
    groups = [make_group(variant, tuple(map(bundle.read, variant.files)), options.threads) for variant in variants]
    searches = [
        search_candidates(group, builder, validation, _limits(options, validation), progress) for group in groups
    ]
    own_limits = _limits(options, validation)  # a search that used up its budget still owes companions
    companions = CompanionBuilder(builder, validation, spec, own_limits, options.optimised, options.reduced_range)

    def of_group(number: int, best: CandidateTrial, reference: CandidateTrial) -> Attempts:
        return companions.companions(best, reference, groups[number])

    targets = choose_variants(searches, of_group, _timer(spec, validation, options, progress), limits)
    return tuple(attempt for attempts in targets for attempt in _with_reference(attempts, keep=options.keep_fp32))


def _timer(spec: ImageSpec, validation: ValidationSet, options: QuantizeOptions, progress: Progress) -> Timer:
    def timer(trials: Sequence[CandidateTrial]) -> Sequence[Measurement]:
        progress(f"timing {len(trials)} variants of all targets in turns, each in a fresh process")
        plan = final_plan(trials, options.rounds, options.threads, options.time_budget_s)
        return time_in_fresh_processes(trials, spec, validation.task, plan, validation.columns)

    return timer


def _limits(options: QuantizeOptions, validation: ValidationSet) -> Limits:
    judge = judge_of(validation.task)
    return Limits(
        error=judge.error_limit(options),
        accuracy_drop=judge.limit(options),
        metric=judge.metric,
        rounds=options.rounds,
        threads=options.threads,
        budget=Budget(options.time_budget_s),
        weight_bits=_WEIGHT_BITS[options.weights_only],
        nncf=options.nncf,
        changed_decisions=judge.decision_limit(options, validation),
    )


def _with_reference(attempts: Attempts, *, keep: bool) -> Attempts:
    """The attempts on one target with the outcome of FP32: it stays where nothing replaces it, or as a fall-back."""
    reference, *others = trials_of(attempts)
    winner = next((trial for trial in others if trial.kept and not trial.companion_of), None)
    reason = _STAYS
    if winner is not None:
        reason = "kept as fall-back" if keep else f"replaced by {winner.variant.precision}"
    kept, is_fallback = keep or winner is None, winner is not None
    outcome = msgspec.structs.replace(reference, kept=kept, is_fallback=is_fallback, reason=reason)
    return (outcome, *attempts[1:])


def _without(attempts: Attempts, overflowed: Mapping[str, str]) -> Attempts:
    """``attempts`` without variants that overflow and what stands beside them; FP32 stays where nothing replaces it."""
    lost = {(t.variant.backend, t.name) for t in trials_of(attempts) if t.kept and t.variant.name in overflowed}

    def outcome(trial: CandidateTrial) -> CandidateTrial:
        backend = trial.variant.backend
        if not trial.kept or not {(backend, trial.name), (backend, trial.companion_of)} & lost:
            return trial
        reason = overflowed.get(trial.variant.name, "what it would stand beside does not ship")
        return msgspec.structs.replace(trial, kept=False, reason=reason)

    left = tuple(outcome(attempt) if isinstance(attempt, CandidateTrial) else attempt for attempt in attempts)
    shipped = {trial.variant.backend for trial in trials_of(left) if trial.kept and not trial.is_reference}
    return tuple(
        msgspec.structs.replace(attempt, kept=True, is_fallback=False, reason=_STAYS)
        if isinstance(attempt, CandidateTrial) and attempt.is_reference and attempt.variant.backend not in shipped
        else attempt
        for attempt in left
    )


def _write(
    bundle: Bundle,
    out_path: str | Path,
    shipping: Sequence[CandidateTrial],
    attempts: Attempts,
    steps: list[str],
    scores: Mapping[str, bytes],
) -> Manifest:
    variants, lines = _ordered(bundle, shipping, trials_of(attempts))
    files: dict[str, bytes] = dict(scores)
    inputs = read_golden_inputs(bundle)
    for trial in shipping:
        if not trial.is_reference:
            export = opened(trial)
            files |= export.files
            logits = {export.variant.name: _golden_logits(bundle, export, inputs)}
            files |= golden_files(inputs, logits, bundle.manifest.image_spec)
    old = bundle.manifest.provenance
    provenance = msgspec.structs.replace(old, steps=(*old.steps, *steps, *lines), libraries=versions(), date=utc_date())
    return rewrite_bundle(bundle, out_path, variants=variants, files=files, provenance=provenance)


def _golden_logits(bundle: Bundle, export: Export, inputs: NetworkInputs) -> NDArray[np.float32]:
    """Its own logits on the goldens; of an engine that the device builds those of the FP32 network."""
    if export.variant.device == "cpu":
        return run_goldens(export.session, inputs)
    return run_goldens(open_session_from_bytes("onnxruntime", [_source_graph(bundle)], 1, "fp32"), inputs)


def _ordered(
    bundle: Bundle, shipping: Sequence[CandidateTrial], trials: Sequence[CandidateTrial]
) -> tuple[tuple[Variant, ...], list[str]]:
    """The new bundle's variants, fastest first, fall-backs behind, then those that were no target; and what was level.

    The order is that of one interleaved run; where nothing new ships there was none, and the source's order stays.
    """
    if all(trial.is_reference for trial in shipping):
        return bundle.manifest.variants, []
    replaced = {trial.variant.name for trial in trials if trial.kept or trial.is_reference}
    untouched = [variant for variant in bundle.manifest.variants if variant.name not in replaced]
    order = in_order([trial for trial in shipping if not trial.is_fallback])
    order += in_order([trial for trial in shipping if trial.is_fallback])
    lines = [_level_line(place) for place in order if place.level]
    return (*(place.trial.variant for place in order), *untouched), lines


def _level_line(place: Preferred) -> str:
    others = ", ".join(trial.variant.name for trial in place.level)
    return f"quantize: {place.trial.variant.name} stands before {others}, level with it within noise"


def _steps(attempts: Attempts, options: QuantizeOptions, calibrated: str, validation: ValidationSet) -> list[str]:
    lines = [f"quantize: calibrated on {calibrated}, seed {options.seed}"]
    if options.threads > 1:
        lines.append(f"quantize: timed on {options.threads} threads")
    if not validation.labelled:
        unknown = judge_of(validation.task).metric
        lines.append(f"quantize: {UNLABELLED}, on {len(validation.cases)} images; {unknown} is not known")
    for attempt in attempts:
        if isinstance(attempt, DoesNotApply):
            lines.append(f"quantize: {idle_candidate(attempt.candidate, attempt.reason)}")
        elif not attempt.is_reference:
            lines.append(candidate_step(attempt.variant.name, attempt.name, attempt.reason, kept=attempt.kept))
    return lines


def _candidates(attempts: Attempts) -> tuple[Candidate, ...]:
    """Everything that was tried as values that outlive the sessions; the Pareto front is over all targets."""
    ran = [trial for trial in trials_of(attempts) if trial.ran]
    best = {id(ran[number]) for number in front([(trial.p50_ms, -trial.error) for trial in ran])}
    candidates, backend = [], ""
    for attempt in attempts:
        if isinstance(attempt, DoesNotApply):
            target = f"{backend}:cpu"
            candidates.append(Candidate(target=target, variant="", method=attempt.candidate, reason=attempt.reason))
            continue
        backend = attempt.variant.backend
        candidates.append(_candidate(attempt, pareto=id(attempt) in best))
    return tuple(candidates)


def _candidate(trial: CandidateTrial, *, pareto: bool) -> Candidate:
    return Candidate(
        target=trial.variant.target,
        variant=trial.variant.name,
        method=trial.name,
        p50_ms=trial.p50_ms,
        speedup=trial.speedup,
        speedup_interval=trial.speedup_interval,
        relative_logit_error=trial.error,
        accuracy_drop=trial.accuracy_drop,
        changed_decisions=trial.changed_decisions,
        size_bytes=trial.size_bytes,
        pareto=pareto,
        kept=trial.kept,
        reason=trial.reason,
    )
