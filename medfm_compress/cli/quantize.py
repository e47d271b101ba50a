"""``medfm-compress quantize``: a bundle becomes a smaller and faster one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medfm_compress.cli import console
from medfm_compress.cli.arguments import BundleOut, Images, MaybeStudy, Overwrite
from medfm_compress.cli.command import command
from medfm_compress.cli.followed_thresholds import print_followed_thresholds
from medfm_compress.cli.int8_summary import print_needed_instructions, print_no_int8, why_no_int8
from medfm_compress.cli.model_summary import is_of_processor, print_unlabelled
from medfm_compress.cli.next_command import after_quantize, print_next
from medfm_compress.cli.outputs import check_file_out
from medfm_compress.cli.teacher_options import TeacherLabels, TeacherOutputs, TeacherSpec, onnx_source
from medfm_compress.compress.quantization.options import MIN_CALIBRATION_CASES, QuantizeOptions
from medfm_compress.onnx_model import CaseSource

if TYPE_CHECKING:
    from medfm_compress.compress.quantization.candidate import Candidate
    from medfm_compress.compress.quantization.quantize_bundle import Quantized

Model = Annotated[Path, typer.Argument(help="The .medfm file, or an .onnx file.", metavar="MODEL")]


@command(skip=("threads",))
def quantize(
    model: Model,
    options: QuantizeOptions,
    out: BundleOut,
    study: MaybeStudy = None,
    images: Images = None,
    teacher_spec: TeacherSpec = None,
    teacher_labels: TeacherLabels = None,
    teacher_outputs: TeacherOutputs = None,
    overwrite: Overwrite = False,
) -> None:
    """Quantize a bundle or any ONNX file: of many candidates, the fastest within the limits of fidelity is kept.

    Training cases calibrate, validation cases judge. Without labels, of --images two of three calibrate.
    """
    check_file_out(out, ".medfm", overwrite)
    source = onnx_source(model, teacher_spec, teacher_labels, teacher_outputs)
    from medfm_compress import steps

    most = options.samples + options.validation_samples
    cases = CaseSource(study, images, MIN_CALIBRATION_CASES, most, options.seed)
    quantized = steps.quantize(cases, model, options, console.progress, out, source)
    console.emit(lambda: _as_json(quantized), lambda: _print_candidates(quantized, out, study))


def _as_json(quantized: Quantized) -> dict[str, Any]:
    return {
        "applied": quantized.applied,
        "model_digest": quantized.manifest.model_digest,
        "variants": [variant.name for variant in quantized.manifest.variants],
        "calibration_cases": len(quantized.calibration_images),
        "labelled": quantized.labelled,
        "judged_by": quantized.judged_by,
        "threads": quantized.threads,
        "candidates": [_known(candidate) for candidate in quantized.candidates if candidate.variant],
        "not_tried": [
            {"target": candidate.target, "method": candidate.method, "reason": candidate.reason}
            for candidate in quantized.candidates
            if not candidate.variant
        ],
        "thresholds": quantized.thresholds,
        "no_int8": why_no_int8(quantized.manifest),
    }


def _known(candidate: Candidate) -> dict[str, Any]:
    """A candidate's fields, null where nothing was timed or judged."""
    import msgspec

    fields = msgspec.structs.asdict(candidate)
    if not candidate.is_timed:
        fields |= dict.fromkeys(("p50_ms", "speedup"))
    if not candidate.speedup:
        fields["speedup"] = None
    if not candidate.is_judged:
        fields |= dict.fromkeys(("relative_logit_error", "accuracy_drop", "changed_decisions"))
    return fields


def _print_candidates(quantized: Quantized, out: Path, study: Path | None) -> None:
    from medfm_compress.bench.types.quantization_step import idle_candidate

    finally_timed = any(candidate.speedup_interval for candidate in quantized.candidates)
    backends = dict.fromkeys(_backend(candidate) for candidate in quantized.candidates)
    for backend in backends:
        tried = [candidate for candidate in quantized.candidates if _backend(candidate) == backend]
        headers = [backend, "p50 ms", "speed-up", "logit error", "agree", "MB", "outcome"]
        rows = [_row(candidate, finally_timed=finally_timed) for candidate in tried if candidate.variant]
        if quantized.labelled:  # AUROC decides, and is not what a table is read for
            headers, rows = _without_agreement(headers), [_without_agreement(row) for row in rows]
        console.table(headers, rows, left=(0, len(headers) - 1), sentences=True)
        for candidate in tried:
            if not candidate.variant:
                console.say(idle_candidate(candidate.method, candidate.reason))
        console.say()
    if any(candidate.pareto for candidate in quantized.candidates):
        console.say("* of all, no other is both faster by p50 and more faithful")
    candidates = quantized.candidates
    if finally_timed and any(map(_is_of_search, candidates)):
        console.say("~ timed in the search, p50 is FP32's over it; not comparable with the others, of fresh processes")
    if any(candidate.speedup_interval and is_of_processor(candidate.speedup_interval) for candidate in candidates):
        console.say("p50 is by the clock; a speed-up compares processor time, which other work here disturbs less")
    if quantized.threads > 1:
        console.say(f"timed on {quantized.threads} threads")
    if not quantized.applied:
        console.say("Nothing applied: no candidate is both faithful and faster than FP32; the bundle keeps FP32.")
    print_followed_thresholds(quantized.thresholds)
    print_no_int8(quantized.manifest)
    print_needed_instructions(quantized.manifest)
    if study is None:
        print_unlabelled(quantized.manifest)
        console.say(f"wrote {out}; a labelled study and a policy prove it: see 'medfm-compress bench --help'")
        return
    console.say(f"wrote {out}; its teacher and a policy prove it: see 'medfm-compress bench --help'")
    print_next(after_quantize(out, study, dense=quantized.manifest.task.is_dense))


def _without_agreement(row: list[str]) -> list[str]:
    return [*row[:4], *row[5:]]


def _backend(candidate: Candidate) -> str:
    return ":".join(candidate.target.split(":")[:2])


def _is_of_search(candidate: Candidate) -> bool:
    """Its speed-up is of the search's own process, where fresh ones timed others."""
    return bool(candidate.speedup) and not candidate.is_reference and candidate.speedup_interval is None


def _row(candidate: Candidate, *, finally_timed: bool) -> list[str]:
    outcome = candidate.reason  # of FP32, which is no candidate
    if not candidate.is_reference:
        outcome = f"{f'kept as {candidate.variant}' if candidate.kept else 'not kept'}: {candidate.reason}"
    about = "~" if finally_timed and _is_of_search(candidate) else ""
    p50_ms = f"{candidate.p50_ms:.2f}" if candidate.is_timed else "–"
    speedup = f"{about}{candidate.speedup:.2f}×" if candidate.speedup else "–"
    error = f"{candidate.relative_logit_error:.4f}" if candidate.is_judged else "–"
    agree = f"{1 - candidate.changed_decisions:.1%}" if candidate.is_judged else "–"
    size = f"{candidate.size_bytes / 1e6:.2f}" if candidate.size_bytes else "–"
    return [candidate.method + ("*" if candidate.pareto else ""), p50_ms, speedup, error, agree, size, outcome]
