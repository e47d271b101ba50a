"""``medfm-compress quantize``: a bundle becomes a smaller and faster one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer

from medfm_compress.cli import console
from medfm_compress.runtime.errors import InputError

if TYPE_CHECKING:
    from medfm_compress.compress.quantization.candidate import Candidate
    from medfm_compress.compress.quantization.quantize_bundle import Quantized


def quantize(
    bundle: Annotated[Path, typer.Argument(help="A .medfm file with FP32 variants.")],
    study: Annotated[Path, typer.Option(help="Study: training cases calibrate, validation cases judge.")],
    out: Annotated[Path, typer.Option(help="The .medfm file to write.")],
    targets: Annotated[
        str,
        typer.Option(help="Where it will run, e.g. openvino:cpu,onnxruntime:cpu; empty is all it has."),
    ] = "",
    samples: Annotated[int, typer.Option(help="Calibration cases.")] = 300,
    seed: Annotated[int, typer.Option(help="Which cases are drawn.")] = 0,
    error_limit: Annotated[float, typer.Option(help="Largest relative logit error on validation cases.")] = 0.03,
    auroc_limit: Annotated[float, typer.Option(help="Largest fall of AUROC on validation cases.")] = 0.02,
    time_budget: Annotated[
        float, typer.Option(help="Seconds a target after which no candidate is begun; 0 tries one INT8 candidate.")
    ] = 300.0,
    weights_only: Annotated[
        str, typer.Option(help="int8 or int4: compress weights only, for size instead of speed.")
    ] = "",
    threads: Annotated[int, typer.Option(help="Threads of the sessions that are timed.")] = 1,
    keep_fp32: Annotated[bool, typer.Option("--keep-fp32", help="Keep FP32 as fall-back for other CPUs.")] = False,
    reduced_range: Annotated[bool, typer.Option(help="Ship 7-bit weights beside, for CPUs without VNNI.")] = True,
    optimised: Annotated[bool, typer.Option(help="Ship ONNX Runtime's graph as optimised for this CPU class.")] = True,
    rechoose: Annotated[
        bool, typer.Option(help="Choose thresholds anew for each new variant, on validation cases.")
    ] = True,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Quantize a bundle: of many candidates for each target, the fastest within the limits of fidelity is kept."""
    from medfm_compress import steps
    from medfm_compress.compress.quantization.quantize_bundle import QuantizeOptions

    options = QuantizeOptions(
        samples=samples,
        seed=seed,
        targets=tuple(part.strip() for part in targets.split(",") if part.strip()),
        error_limit=error_limit,
        auroc_limit=auroc_limit,
        time_budget_s=time_budget,
        weights_only=_bits(weights_only),
        threads=threads,
        keep_fp32=keep_fp32,
        reduced_range=reduced_range,
        optimised=optimised,
        rechoose=rechoose,
    )
    quantized = steps.quantize(study, bundle, options, console.progress, out)
    if json:
        console.emit_json(_as_json(quantized))
    else:
        _tell(quantized, out)


def _bits(text: str) -> Literal["", "int8", "int4"]:
    if text not in ("", "int8", "int4"):
        raise InputError(f"--weights-only is {text!r}; it must be int8 or int4")
    return cast(Literal["", "int8", "int4"], text)


def _as_json(quantized: Quantized) -> dict[str, Any]:
    return {
        "applied": quantized.applied,
        "model_digest": quantized.manifest.model_digest,
        "variants": [variant.name for variant in quantized.manifest.variants],
        "calibration_cases": len(quantized.calibration_images),
        "candidates": quantized.candidates,
    }


def _tell(quantized: Quantized, out: Path) -> None:
    backends = dict.fromkeys(_backend(candidate) for candidate in quantized.candidates)
    for backend in backends:
        tried = [candidate for candidate in quantized.candidates if _backend(candidate) == backend]
        headers = [backend, "p50 ms", "speed-up", "logit error", "MB", "outcome"]
        console.table(headers, [_row(candidate) for candidate in tried if candidate.variant], left=(0, 5))
        for candidate in tried:
            if not candidate.variant:
                console.say(f"{candidate.method} does not apply: {candidate.reason}")
        console.say()
    console.say("* of all, no other is both faster and more faithful")
    if not quantized.applied:
        console.say("Nothing applied: no candidate is both faithful and faster than FP32; the bundle keeps FP32.")
    console.say(f"wrote {out}")


def _backend(candidate: Candidate) -> str:
    return ":".join(candidate.target.split(":")[:2])


def _row(candidate: Candidate) -> list[str]:
    outcome = f"{'kept' if candidate.kept else 'not kept'}: {candidate.reason}"
    if not candidate.p50_ms:
        return [candidate.method, *["–"] * 4, outcome]
    return [
        candidate.method + ("*" if candidate.pareto else ""),
        f"{candidate.p50_ms:.2f}",
        f"{candidate.speedup:.2f}×",
        f"{candidate.relative_logit_error:.4f}",
        f"{candidate.size_bytes / 1e6:.2f}",
        outcome,
    ]
