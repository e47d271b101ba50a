"""How the variants of ``quantize`` decide beside FP32 on validation cases, in a line each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from medfm_compress.cli import console

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from medfm_compress.compress.quantization.thresholds import FollowedThreshold

_SHOWN = 3


def print_followed_thresholds(thresholds: Iterable[FollowedThreshold]) -> None:
    """Of each variant how many decisions differ from those of FP32, and which thresholds moved."""
    of_variant: dict[str, list[FollowedThreshold]] = {}
    for threshold in thresholds:
        of_variant.setdefault(threshold.variant, []).append(threshold)
    if of_variant:
        console.say("decisions on all labelled validation cases that differ from FP32's:")
    for variant, findings in of_variant.items():
        changed, decided = sum(finding.changed for finding in findings), sum(finding.cases for finding in findings)
        console.say(f"  {variant}: {changed} of {decided}; {_moved_in_words(findings)}")


def _moved_in_words(findings: Sequence[FollowedThreshold]) -> str:
    shown = [(one, f"{one.fp32_threshold:.4g}", f"{one.threshold:.4g}") for one in findings]
    moved = sorted((entry for entry in shown if entry[1] != entry[2]), key=lambda entry: -entry[0].changed)
    if not moved:
        return "thresholds are FP32's"
    words = [f"{one.finding} {before} -> {after}" for one, before, after in moved[:_SHOWN]]
    more = f" and {len(moved) - _SHOWN} more" if len(moved) > _SHOWN else ""
    return f"threshold of {', '.join(words)}{more}"
