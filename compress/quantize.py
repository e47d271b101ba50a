"""Post-training INT8: try candidates, judge each by fidelity and by the clock, ship what is faithful and faster.

Calibration sees training cases only, the choice among candidates validation cases only. Fidelity is the relative
logit error against the FP32 session (see `goldens`); latency is measured here, interleaved with FP32 of the same
backend. A candidate that is not kept is a value with a reason, not an exception. One that is kept gets its own
thresholds (see `redecide`), on all validation cases, because the task's were chosen on all.
"""

from __future__ import annotations

import time
from pathlib import Path
from statistics import median
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from medfm_compress.bench.evaluate import tabulate
from medfm_compress.compress import int8_onnxruntime, int8_openvino
from medfm_compress.compress.redecide import redecide
from medfm_compress.data.study import Case, Study
from medfm_compress.export.build import Export, make_variant, open_export, versions
from medfm_compress.export.cases import Progress, check_labels, network_inputs, sample_cases, unheard
from medfm_compress.export.onnx_export import INPUT
from medfm_compress.runtime.bundle import Bundle, rewrite_bundle, utc_date
from medfm_compress.runtime.errors import BundleRefused, InputError, StudyError
from medfm_compress.runtime.goldens import golden_files, read_golden_inputs, relative_logit_error, run_goldens
from medfm_compress.runtime.manifest import Backend, Manifest, Variant
from medfm_compress.runtime.sessions.protocol import Session
from medfm_compress.runtime.sessions.table import is_available

INSTRUCTION_SET = ("avx512_vnni|avx_vnni",)  # U8×S8 without VNNI saturates in 16 bits: a silent wrong answer
MIN_CALIBRATION_CASES = 8
_CHUNK = 64  # validation cases that are in memory at once, beyond those that judge
_NEAR = 1.05  # latencies within it are equal, so that fidelity decides among them


class QuantizeOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How to quantize.

    Attributes:
        samples: calibration cases, drawn from the training split, >= 8.
        validation_samples: cases that candidates are judged on, drawn from the validation split, >= 1.
        seed: of both draws.
        targets: backends to quantize for; empty is every one that the bundle has an FP32 variant for.
        error_limit: largest relative logit error on validation cases that is kept, > 0.
        keep_fp32: keep the FP32 variants of backends that got an INT8 one, as a fall-back for other CPUs.
        rounds: interleaved latency rounds, >= 5.
        threads: of the sessions that are timed, >= 1.
        rechoose: give each INT8 variant that is kept its own temperature and thresholds (see `redecide`).
    """

    samples: int = 300
    validation_samples: int = 512
    seed: int = 0
    targets: tuple[Backend, ...] = ()
    error_limit: float = 0.1
    keep_fp32: bool = False
    rounds: int = 40
    threads: int = 1
    rechoose: bool = True

    def __post_init__(self) -> None:
        least = {"samples": MIN_CALIBRATION_CASES, "validation_samples": 1, "rounds": 5, "threads": 1}
        for name, low in least.items():
            if getattr(self, name) < low:
                raise InputError(f"{name} is {getattr(self, name)}; it must be at least {low}")
        if not self.error_limit > 0:
            raise InputError(f"error_limit is {self.error_limit}; it must be above 0")


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """One way to run the network that was tried.

    Attributes:
        variant: name of the variant it would be.
        method: how it was made, e.g. ``nncf-minmax``; ``fp32`` for what it would replace.
        p50_ms: median session latency here.
        speedup: p50 of FP32 on the same backend / its own.
        relative_logit_error: against FP32 on validation cases.
        size_bytes: of its files.
        kept: it is in the new bundle.
        reason: why, or why not.
    """

    variant: str
    method: str
    p50_ms: float = 0.0
    speedup: float = 0.0
    relative_logit_error: float = 0.0
    size_bytes: int = 0
    kept: bool = False
    reason: str = ""


class Quantized(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome: the new bundle's manifest, and everything that was tried.

    Attributes:
        manifest: of the bundle that was written.
        candidates: in the order tried, FP32 of each backend first.
        applied: at least one INT8 variant is in the bundle; otherwise it holds what the source held.
        calibration_images: the training cases that were used.
    """

    manifest: Manifest
    candidates: tuple[Candidate, ...]
    applied: bool
    calibration_images: tuple[str, ...]


class _Trial(msgspec.Struct, kw_only=True):
    """A candidate under trial; ``export`` is None where it could not even be opened."""

    method: str
    variant: Variant
    export: Export | None = None
    p50_ms: float = 0.0
    error: float = 0.0
    reason: str = ""
    kept: bool = False
    logits: NDArray[np.float32] | None = None  # of an INT8 trial, on the cases that judge


class _Judges(NamedTuple):
    """Validation cases that candidates are judged on, and their inputs ``[n, C, H, W]``."""

    cases: tuple[Case, ...]
    inputs: NDArray[np.float32]


class _Kept(NamedTuple):
    """A kept INT8 trial and its logits on validation cases, in pieces."""

    trial: _Trial
    export: Export
    logits: list[NDArray[np.float32]]


def quantize_bundle(
    bundle_path: str | Path,
    study: Study,
    out_path: str | Path,
    options: QuantizeOptions | None = None,
    progress: Progress = unheard,
) -> Quantized:
    """Write a copy of a bundle with the best INT8 variant for each backend, where one is faithful and faster.

    Args:
        bundle_path: a bundle with an FP32 ONNX Runtime variant, whose graph is quantized.
        study: gives training cases to calibrate and validation cases to judge; test cases are not read.
        out_path: of the new bundle, written atomically; may be the source.
        options: see `QuantizeOptions`.
        progress: told what begins.

    Raises:
        InputError: no FP32 ONNX variant, an unknown target, labels that differ, or too few cases.
        StudyError: a case cannot be read; it is named.
    """
    options = options or QuantizeOptions()
    bundle = Bundle.open(bundle_path)
    task, spec = bundle.manifest.task, bundle.manifest.image_spec
    check_labels(study, task)
    onnx = _source_graph(bundle)
    references = _references(bundle, options)
    cases = sample_cases(study, "train", options.samples, options.seed)
    if len(cases) < MIN_CALIBRATION_CASES:
        raise StudyError(f"{len(cases)} training cases; calibration needs at least {MIN_CALIBRATION_CASES}")
    judging = sample_cases(study, "val", options.validation_samples, options.seed)
    progress(f"reading {len(cases)} training and {len(judging)} validation cases")
    calibration, judges = network_inputs(study, cases, spec), _Judges(judging, network_inputs(study, judging, spec))
    trials: list[_Trial] = []
    for reference in references:
        group = [reference, *_attempt(reference.variant.backend, onnx, calibration, options, progress)]
        _judge(group, judges.inputs, bundle, options)
        trials += group
    steps = _steps(trials, options, len(cases))
    if options.rechoose:
        progress("choosing thresholds of the INT8 variants on validation cases")
        steps += _redecide(trials, study, judges, bundle)
    manifest = _write(bundle, out_path, trials, steps)
    return Quantized(
        manifest=manifest,
        candidates=tuple(_candidate(trial, trials) for trial in trials),
        applied=any(trial.kept and trial.method != "fp32" for trial in trials),
        calibration_images=tuple(case.image for case in cases),
    )


def _source_graph(bundle: Bundle) -> bytes:
    for variant in bundle.manifest.variants:
        if variant.backend == "onnxruntime" and variant.precision == "fp32":
            return bundle.read(variant.files[0])
    raise InputError(f"{bundle.path.name} has no FP32 ONNX variant to quantize; export the model again")


def _references(bundle: Bundle, options: QuantizeOptions) -> list[_Trial]:
    """The FP32 variants that INT8 would replace, opened."""
    variants = [v for v in bundle.manifest.variants if v.precision == "fp32" and v.device == "cpu"]
    known = tuple(dict.fromkeys(v.backend for v in variants))
    missing = [target for target in options.targets if target not in known]
    if missing:
        raise InputError(f"{bundle.path.name} has no FP32 variant for {missing[0]}; it has {', '.join(known)}")
    chosen = [v for v in variants if v.backend in (options.targets or known) and is_available(v.backend).ok]
    if not chosen:
        raise InputError(f"none of {', '.join(known)} can run here; install one of them")
    return [
        _Trial(method="fp32", variant=v, export=open_export(v, tuple(map(bundle.read, v.files)), options.threads))
        for v in chosen
    ]


def _attempt(
    backend: Backend, onnx: bytes, calibration: NDArray[np.float32], options: QuantizeOptions, progress: Progress
) -> list[_Trial]:
    attention = int8_onnxruntime.has_attention(onnx)
    methods = (
        tuple(int8_openvino.ESTIMATORS) if backend == "openvino" else int8_onnxruntime.candidates(attention=attention)
    )
    trials = []
    for method in methods:
        progress(f"quantizing for {backend}: {method}")
        trial = _Trial(method=method, variant=make_variant(backend, "int8", INSTRUCTION_SET))
        try:
            trial.export = open_export(
                trial.variant, _contents(backend, method, onnx, calibration, attention=attention), options.threads
            )
        except BundleRefused as exc:
            trial.reason = f"cannot be run: {exc}"
        trials.append(trial)
    return trials


def _contents(
    backend: Backend, method: str, onnx: bytes, calibration: NDArray[np.float32], *, attention: bool
) -> tuple[bytes, ...]:
    if backend == "openvino":
        return int8_openvino.quantize_openvino(onnx, calibration, method, attention=attention)
    return (int8_onnxruntime.quantize_onnxruntime(onnx, calibration, method),)


def _judge(group: list[_Trial], validation: NDArray[np.float32], bundle: Bundle, options: QuantizeOptions) -> None:
    """Fill in error, latency, ``kept`` and ``reason`` of one backend's trials, the FP32 reference first."""
    opened = [(trial, trial.export.session) for trial in group if trial.export is not None]
    wanted = run_goldens(opened[0][1], validation)
    for trial, session in opened[1:]:
        trial.logits = run_goldens(session, validation)
        trial.error = relative_logit_error(trial.logits, wanted, bundle.manifest.task)
    latencies = interleaved_p50_ms([session for _, session in opened], validation[:1], options.rounds)
    for (trial, _), p50 in zip(opened, latencies, strict=True):
        trial.p50_ms = p50
    eligible = [trial for trial, _ in opened[1:] if not _objection(trial, group[0], options)]
    if eligible:
        near = min(trial.p50_ms for trial in eligible) * _NEAR
        best = min((trial for trial in eligible if trial.p50_ms <= near), key=lambda trial: trial.error)
        best.kept = True
    for trial, _ in opened[1:]:
        trial.reason = _objection(trial, group[0], options) or (
            "fastest within the error limit" if trial.kept else "another candidate is faster or more faithful"
        )
    group[0].kept = options.keep_fp32 or not eligible
    group[0].reason = _reference_reason(options, replaced=bool(eligible))


def _objection(trial: _Trial, reference: _Trial, options: QuantizeOptions) -> str:
    """Why a trial may not ship; empty where it may. No figure of the clock, so that bundles stay comparable."""
    if not trial.error <= options.error_limit:
        return f"relative logit error {trial.error:.3g} is above the limit {options.error_limit:g}"
    if trial.p50_ms >= reference.p50_ms:
        return "not faster than FP32 on the measuring machine"
    return ""


def _reference_reason(options: QuantizeOptions, *, replaced: bool) -> str:
    if not replaced:
        return "no INT8 candidate may replace it"
    return "kept as fall-back" if options.keep_fp32 else "replaced by INT8"


def interleaved_p50_ms(sessions: list[Session], image: NDArray[np.float32], rounds: int) -> list[float]:
    """Median latency in ms of each session on one input ``[1, C, H, W]``, one call each a round."""
    warm_up = 5
    samples: list[list[float]] = [[] for _ in sessions]
    for number in range(warm_up + rounds):
        for session, values in zip(sessions, samples, strict=True):
            start = time.perf_counter()
            session.run({INPUT: image})
            if number >= warm_up:
                values.append((time.perf_counter() - start) * 1e3)
    return [median(values) for values in samples]


def _redecide(trials: list[_Trial], study: Study, judges: _Judges, bundle: Bundle) -> list[str]:
    """Decide every kept INT8 trial anew on all labelled validation cases; the lines for the provenance."""
    task = bundle.manifest.task
    labelled = np.array([bool(case.target) for case in judges.cases])
    kept = [
        _Kept(trial, trial.export, [trial.logits[labelled]])
        for trial in trials
        if trial.kept and trial.export is not None and trial.logits is not None
    ]
    cases = _complete(kept, study, judges, bundle)
    lines = []
    for trial, export, logits in kept if cases else ():
        evaluation = tabulate(np.concatenate(logits), study, cases, task, name=trial.variant.name)
        decided = redecide(trial.variant, evaluation, task)
        trial.variant, trial.export = decided.variant, msgspec.structs.replace(export, variant=decided.variant)
        lines += [f"quantize: {trial.variant.name}: {line}" for line in decided.lines]
    return lines


def _complete(kept: list[_Kept], study: Study, judges: _Judges, bundle: Bundle) -> tuple[Case, ...]:
    """Append the logits of the labelled validation cases that did not judge; all the cases, in the logits' order."""
    judged = {case.image for case in judges.cases}
    rest = tuple(case for case in study.split("val") if case.target and case.image not in judged)
    for start in range(0, len(rest) if kept else 0, _CHUNK):
        inputs = network_inputs(study, rest[start : start + _CHUNK], bundle.manifest.image_spec)
        for each in kept:
            each.logits.append(run_goldens(each.export.session, inputs))
    return (*(case for case in judges.cases if case.target), *rest)


def _write(bundle: Bundle, out_path: str | Path, trials: list[_Trial], steps: list[str]) -> Manifest:
    shipped = [trial.export for trial in trials if trial.kept and trial.export is not None]
    latency = {id(trial.export): trial.p50_ms for trial in trials}
    decided = {trial.variant.name for trial in trials if trial.kept or trial.method == "fp32"}
    untouched = [variant for variant in bundle.manifest.variants if variant.name not in decided]
    ordered = [export.variant for export in sorted(shipped, key=lambda export: latency[id(export)])]
    files: dict[str, bytes] = {}
    inputs = read_golden_inputs(bundle)
    for export in shipped:
        if export.variant.precision == "int8":
            files |= export.files
            logits = {export.variant.name: run_goldens(export.session, inputs)}
            files |= golden_files(inputs, logits, bundle.manifest.image_spec)
    old = bundle.manifest.provenance
    provenance = msgspec.structs.replace(old, steps=(*old.steps, *steps), libraries=versions(), date=utc_date())
    return rewrite_bundle(bundle, out_path, variants=(*ordered, *untouched), files=files, provenance=provenance)


def _steps(trials: list[_Trial], options: QuantizeOptions, calibrated: int) -> list[str]:
    lines = [f"quantize: calibrated on {calibrated} training cases, seed {options.seed}"]
    for trial in trials:
        if trial.method != "fp32":
            outcome = "kept" if trial.kept else "refused"
            lines.append(f"quantize: {trial.variant.name} by {trial.method} {outcome}: {trial.reason}")
    return lines


def _candidate(trial: _Trial, trials: list[_Trial]) -> Candidate:
    same = [t for t in trials if t.method == "fp32" and t.variant.backend == trial.variant.backend]
    return Candidate(
        variant=trial.variant.name,
        method=trial.method,
        p50_ms=trial.p50_ms,
        speedup=same[0].p50_ms / trial.p50_ms if trial.p50_ms else 0.0,
        relative_logit_error=trial.error,
        size_bytes=sum(map(len, trial.export.contents)) if trial.export else 0,
        kept=trial.kept,
        reason=trial.reason,
    )
