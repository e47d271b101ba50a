"""``medfm-compress quantize``: a bundle becomes a smaller and faster one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medfm_compress.cli import console

if TYPE_CHECKING:
    from medfm_compress.compress.quantize import Candidate, Quantized


def quantize(
    bundle: Annotated[Path, typer.Argument(help="A .medfm file with FP32 variants.")],
    study: Annotated[Path, typer.Option(help="Study: training cases calibrate, validation cases judge.")],
    out: Annotated[Path, typer.Option(help="The .medfm file to write.")],
    samples: Annotated[int, typer.Option(help="Calibration cases.")] = 300,
    seed: Annotated[int, typer.Option(help="Which cases are drawn.")] = 0,
    keep_fp32: Annotated[bool, typer.Option("--keep-fp32", help="Keep FP32 as fall-back for other CPUs.")] = False,
    rechoose: Annotated[
        bool, typer.Option(help="Choose thresholds anew for each INT8 variant, on validation cases.")
    ] = True,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Quantize a bundle to INT8; only candidates that are faithful and faster than FP32 are kept."""
    from medfm_compress import steps
    from medfm_compress.compress.quantize import QuantizeOptions

    options = QuantizeOptions(samples=samples, seed=seed, keep_fp32=keep_fp32, rechoose=rechoose)
    quantized = steps.quantize(study, bundle, options, console.progress, out)
    if json:
        console.emit_json(_as_json(quantized))
    else:
        _tell(quantized, out)


def _as_json(quantized: Quantized) -> dict[str, Any]:
    return {
        "applied": quantized.applied,
        "model_digest": quantized.manifest.model_digest,
        "variants": [variant.name for variant in quantized.manifest.variants],
        "calibration_cases": len(quantized.calibration_images),
        "candidates": quantized.candidates,
    }


def _tell(quantized: Quantized, out: Path) -> None:
    headers = ["variant", "method", "p50 ms", "speed-up", "logit error", "MB", "outcome"]
    console.table(headers, [_row(candidate) for candidate in quantized.candidates])
    if not quantized.applied:
        console.say("INT8 did not apply: no candidate is both faithful and faster than FP32; the bundle keeps FP32.")
    console.say(f"wrote {out}")


def _row(candidate: Candidate) -> list[str]:
    outcome = f"{'kept' if candidate.kept else 'refused'}: {candidate.reason}"
    figures = ["–"] * 4
    if candidate.p50_ms:
        figures = [
            f"{candidate.p50_ms:.2f}",
            f"{candidate.speedup:.2f}×",
            f"{candidate.relative_logit_error:.4f}",
            f"{candidate.size_bytes / 1e6:.2f}",
        ]
    return [candidate.variant, candidate.method, *figures, outcome]
