"""How the report calls its models."""

from __future__ import annotations

from medfm_compress.bench.report import TEACHER, Report


def model_name(report: Report, name: str) -> str:
    """``Teacher (vit_small)`` for the teacher, every other model by the name of its evaluation or measurement."""
    return f"Teacher ({report.teacher_name})" if name == TEACHER else name


def name_with_origin(report: Report, name: str) -> str:
    """Likewise, and which models are not in the bundle."""
    return model_name(report, name) + (" (not in the bundle)" if name in report.external_models else "")


def shortened(name: str, longest: int) -> str:
    """``name`` in at most ``longest`` characters."""
    return name if len(name) <= longest else name[: longest - 1] + "…"
