"""Learning rate: linear warm-up, then cosine (Loshchilov & Hutter 2017) to 1% of the peak."""

from __future__ import annotations

import math

FLOOR = 0.01


def rate(step: int, steps: int, warmup: float) -> float:
    """Factor in (0, 1] on the peak learning rate at ``step`` of ``steps``; ``warmup`` is a fraction of all steps."""
    rising = max(1, int(steps * warmup))
    if step < rising:
        return (step + 1) / rising
    return FLOOR + (1 - FLOOR) * 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))
