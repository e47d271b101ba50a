"""Which variant of a bundle any ONNX Runtime can run, wherever it is installed."""

from __future__ import annotations

from medfm_compress.runtime.bundle.bundle import Bundle
from medfm_compress.runtime.bundle.manifest import Variant
from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.sessions.operators import is_ort_format, read_operators

_ONNX = ("", "ai.onnx")


def portable_variant(bundle: Bundle, name: str = "") -> Variant:
    """The variant called ``name``, or the first in the bundle's order that is portable and has no bad verdict.

    Unasked, no variant is taken that is right on some CPUs only: the file cannot look where it runs.

    Raises:
        InputError: there is none; with the reason of each.
    """
    if name:
        variant = bundle.variant(name)
        reason = _obstacle(bundle, variant)
        if reason:
            raise InputError(f"variant {name} of {bundle.path.name} {reason}; name another variant")
        return variant
    reasons = []
    for variant in bundle.manifest.variants:
        reason = _obstacle(bundle, variant) or _needs(variant)
        if not reason:
            return variant
        reasons.append(f"{variant.name} {reason}")
    bound = [variant.name for variant in bundle.manifest.variants if not _obstacle(bundle, variant)]
    advice = [f"name one that is right on such CPUs alone: --variant {bound[0]}"] if bound else []
    if not any(
        variant.precision == "fp32" and variant.backend == "onnxruntime" for variant in bundle.manifest.variants
    ):
        advice.insert(0, "keep the FP32 one with quantize --keep-fp32")
    why = "; ".join(reasons + ([", or ".join(advice)] if advice else []))
    raise InputError(f"{bundle.path.name} has no variant for a self-contained file: {why}")


def _obstacle(bundle: Bundle, variant: Variant) -> str:
    """Why ``variant`` cannot be part of a self-contained file; empty where it can."""
    if variant.backend != "onnxruntime":
        return f"runs on {variant.backend} and is no ONNX"
    verdict = bundle.verdict(variant.name)
    if verdict is not None and verdict.outcome != "pass":
        return f"has the verdict {verdict.outcome}"
    model = bundle.read(variant.files[0])
    if is_ort_format(model):
        return "is in ONNX Runtime's own format, for one kind of CPU"
    try:
        operators = read_operators(model)
    except ValueError as exc:
        raise InputError(f"{bundle.path.name}: {variant.files[0]} is no ONNX: {exc}") from None
    if operators.external:
        return "keeps weights in another file"
    foreign = sorted(operators.domains - {*_ONNX})
    return f"has operators of {', '.join(foreign)}, which are not ONNX's own" if foreign else ""


def _needs(variant: Variant) -> str:
    return f"needs CPU instructions {', '.join(variant.instruction_set)}" if variant.instruction_set else ""
