"""How the report writes numbers and names, on every page, in Markdown and on the terminal."""

from __future__ import annotations

import math
import re

from medfm_compress.bench.types.interval import Interval
from medfm_compress.bench.types.metric import LOWER_IS_BETTER, Metric

METRIC_NAMES: dict[Metric, str] = {
    "auroc": "AUROC",
    "auprc": "AUPRC",
    "accuracy": "Accuracy",
    "balanced_accuracy": "Balanced accuracy",
    "sensitivity": "Sensitivity",
    "specificity": "Specificity",
    "ppv": "PPV",
    "npv": "NPV",
    "f1": "F1 score",
    "brier": "Brier score",
    "log_loss": "Log loss",
    "ece": "ECE",
    "dice": "Dice",
    "iou": "IoU",
    "surface_dice": "Surface Dice",
    "hd95": "HD95",
    "lesion_sensitivity": "Lesion sensitivity",
    "small_lesion_sensitivity": "Sensitivity, small lesions",
    "false_positives_per_image": "False positives per image",
    "pixel_auroc": "Pixel AUROC",
    "pro": "Per-region overlap",
}
_HASH = re.compile(r"(?<![0-9A-Za-z])[0-9A-Fa-f]{40,}(?![0-9A-Za-z])")
_SHORT = 12
BACKEND_NAMES = {
    "onnxruntime": "ONNX Runtime",
    "openvino": "OpenVINO",
    "tensorrt": "TensorRT",
    "torch": "PyTorch",
    "torch-compile": "compiled PyTorch",
}
DEVICE_NAMES = {"cpu": "CPU", "cuda": "CUDA", "tensorrt": "TensorRT", "tensorrt-rtx": "TensorRT-RTX"}


def printable(text: str, kept: str = "") -> str:
    """``text`` without control characters and what turns the direction of writing, but for those in ``kept``."""
    return "".join(char for char in text if char.isprintable() or char in kept)


def number(value: float, digits: int = 3) -> str:
    """``0.953``; a true minus sign; a dash where it is not finite."""
    if not math.isfinite(value):
        return "–"
    return f"{value:.{digits}f}".replace("-", "−")


def signed(value: float, digits: int = 3) -> str:
    """``+0.004``, ``−0.012`` or ``0.000``."""
    if not math.isfinite(value):
        return "–"
    text = f"{value:+.{digits}f}"
    return text[1:] if not float(text) else text.replace("-", "−")


def bounds(interval: Interval, digits: int = 3, *, sign: bool = False) -> str:
    """``0.931 to 0.972``: words and not a dash, which a minus sign would sit beside."""
    write = signed if sign else number
    return f"{write(interval.low, digits)} to {write(interval.high, digits)}"


def milliseconds(value: float) -> str:
    """Three significant digits: ``0.312``, ``4.07``, ``25.3``, ``1,204``."""
    if not math.isfinite(value):
        return "–"
    digits = 0 if value >= 100 else 1 if value >= 10 else 2 if value >= 1 else 3
    return f"{value:,.{digits}f}"


def factor(value: float) -> str:
    """``15.4×``."""
    if not math.isfinite(value):
        return "–"
    return f"{value:.0f}×" if value >= 100 else f"{value:.1f}×" if value >= 2 else f"{value:.2f}×"


def megabytes(value: float) -> str:
    """Decimal megabytes, ``5.12 MB``; a dash for 0, which means "not known"."""
    if value <= 0:
        return "–"
    size = value / 1e6
    digits = 0 if size >= 100 else 1 if size >= 10 else 2
    return f"{size:,.{digits}f} MB"


def short_digest(digest: str) -> str:
    """The first 12 digits of a hash, for reading; the whole stands in the provenance."""
    return digest[:_SHORT] or "–"


def find_hashes(text: str) -> list[str]:
    """The hashes that stand in ``text``: words of 40 hexadecimal digits (SHA-1, a git commit) or more."""
    return _HASH.findall(text)


def short_hashes(text: str) -> str:
    """``text`` with every hash in it cut to its first 12 digits."""
    return _HASH.sub(lambda match: match[0][:_SHORT], text)


def target_name(target: str) -> str:
    """``onnxruntime:cpu:int8:2`` as ``ONNX Runtime · CPU · INT8 · 2 threads``."""
    parts = target.split(":")
    if len(parts) != 4:
        return target
    backend, device, precision, threads = parts
    plural = "thread" if threads == "1" else "threads"
    chip = DEVICE_NAMES.get(device, device.upper())
    return f"{BACKEND_NAMES.get(backend, backend)} · {chip} · {precision.upper()} · {threads} {plural}"


def date_name(stamp: str) -> str:
    """``2026-11-23T19:28:00Z`` as ``2026-11-23, 19:28 UTC``; anything else as it is."""
    day, separator, clock = stamp.partition("T")
    return f"{day}, {clock[:5]} UTC" if separator and len(clock) >= 5 else stamp


def counted(count: int, singular: str, plural: str = "") -> str:
    """``1 case``, ``1,204 cases``."""
    return f"{count:,} {singular if count == 1 else plural or singular + 's'}"


def margin_text(metric: Metric, margin: float) -> str:
    """``−0.02``: how far the bundle may fall; ``+0.02`` for errors, of which less is better."""
    return f"+{margin:g}" if metric in LOWER_IS_BETTER else f"−{margin:g}"


def percent(share: float) -> str:
    """``93.4%``; a dash where it is not finite."""
    return f"{100 * share:.1f}%" if math.isfinite(share) else "–"


def versions(libraries: dict[str, str]) -> str:
    """``numpy 2.3.4, openvino 2025.4.0``."""
    return ", ".join(f"{name} {version}" for name, version in libraries.items())
