"""One line of a bundle's provenance: a candidate of the quantization, whether it ships, and why; written and read."""

from __future__ import annotations

import re
from typing import NamedTuple

UNLABELLED = "no labels: judged by relative logit error and agreement of decisions alone"
"""In the steps of a bundle that was made with images of which nobody says what they show."""
FURTHER = "further candidates"
"""Stands for all that a search had no time left for."""
_IDLE, _NOT_TRIED = "does not apply", "were not tried"
_NOT_KEPT = ("not kept", "refused")  # the latter in bundles of before
_REFUSED = re.compile(
    rf"quantize: (?P<variant>.+?) by (?P<method>.+?) (?:{'|'.join(_NOT_KEPT)}): (?P<reason>.+)", flags=re.DOTALL
)


class RefusedCandidate(NamedTuple):
    """A candidate that was built and does not ship: the variant that it would have been, how it was made, why not."""

    variant: str
    method: str
    reason: str


def candidate_step(variant: str, method: str, reason: str, *, kept: bool) -> str:
    """``quantize: openvino-cpu-bf16 by bf16 kept: fastest within the limits``."""
    return f"quantize: {variant} by {method} {'kept' if kept else _NOT_KEPT[0]}: {reason}"


def idle_candidate(method: str, reason: str) -> str:
    """``bf16 does not apply: this CPU lacks avx512_bf16``; `FURTHER` were not tried."""
    return f"{method} {_NOT_TRIED if method == FURTHER else _IDLE}: {reason}"


def keeps_out(step: str) -> bool:
    """Whether ``step`` says why a candidate does not ship."""
    return any(f" {word}: " in step for word in (*_NOT_KEPT, _IDLE, _NOT_TRIED))


def refused_candidate(step: str) -> RefusedCandidate | None:
    """The candidate that ``step`` says was refused; None where it says anything else."""
    match = _REFUSED.fullmatch(step)
    return RefusedCandidate(**match.groupdict()) if match else None
