"""Whether a device's images still come from where the reference's came from, with an error rate that holds for ever.

    p_t = (#{i : x_i < x_t} + u_t #{i : x_i = x_t}) / (n + t)          u_t ~ U(0, 1), i over n reference cases and 1 … t
    f_ε(p) = 1 + ε (2p − 1)                                            pays where values rise (ε > 0) or fall
    g_ε(p) = 1 + ε (2 |2p − 1| − 1)                                    pays where they spread or draw together
    S_t = (S_{t−1} + π_t) f(p_t),   E_t = 1 − Σ_{s ≤ t} π_s + mean over bets of S_t

x is the number of the value's bin. As long as reference and device are exchangeable (no order of them is more likely
than another), the p_t are independent and uniform (Vovk, Gammerman and Shafer, Algorithmic Learning in a Random World,
2nd ed. 2022, ch. 8; that bins are made of the reference alone leaves a departure of order 1/n), every f and g has mean
1, and E is a martingale that starts at 1. Ville's inequality:

    P(E_t ≥ 1/α for any t, ever) ≤ α

So it may be looked at after every image, every week or never, and stopped at any time, and α holds for all looks
together. The capital is staked in portions, π at the start of every 50 images, 1 / (b (b + 1)) of it with block b, so
that a change that comes late is found too (a mixture over the time of change; Shin, Ramdas and Rinaldo, E-detectors,
2023). Several features share α evenly: each gives an alarm at their number / α.

Exchangeable is what independent images of one kind are. Several images of a patient in a row are not, and would make
false alarms the rule (docs/results/monitoring.md): only the first image of an examination takes part, on the device as
in the reference.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import msgspec
import numpy as np
from numpy.typing import NDArray

from medfm_compress.runtime.monitor.histogram import Count

STAKES = (-0.9, -0.4, 0.4, 0.9)
BETS = 2 * len(STAKES)
BLOCK = 50
MAX_CAPITAL = 1e12
"""An alarm is given long before, and what is larger would leave the range of a float some day."""

_Bet = Annotated[float, msgspec.Meta(ge=0, le=MAX_CAPITAL)]
_STAKES = np.array(STAKES)


class Capital(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What was won so far.

    Attributes:
        images: t.
        bets: S of each bet, divided by their number.
    """

    images: Count = 0
    bets: Annotated[tuple[_Bet, ...], msgspec.Meta(min_length=BETS, max_length=BETS)] = (0.0,) * BETS

    @property
    def evidence(self) -> float:
        """E: how many times what was staked; at most α of all devices without drift ever see 1 / α."""
        return unstaked(self.images) + sum(self.bets)


def add(capital: Capital, reference: Sequence[int], before: Sequence[int], position: int, u: float) -> Capital:
    """The capital after one more image.

    Args:
        capital: before it.
        reference: counts of the reference, by bin.
        before: counts of the device's images so far, this one not among them.
        position: the bin of this image.
        u: drawn from U(0, 1).
    """
    both = [a + b for a, b in zip(reference, before, strict=True)]
    p = (sum(both[:position]) + u * (both[position] + 1)) / (sum(both) + 1)
    bets = staked(np.array(capital.bets), np.array(p), capital.images)
    return Capital(images=capital.images + 1, bets=tuple(bets.tolist()))


def staked(bets: NDArray[np.float64], p: NDArray[np.float64], images: int) -> NDArray[np.float64]:
    """Bets ``[…, 8]`` after a p-value ``[…]``, with ``images`` before it."""
    return np.minimum((bets + _portion(images) / BETS) * payoffs(p), MAX_CAPITAL)


def payoffs(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """What each bet multiplies its stake by, ``[…, 8]``, for p-values ``[…]`` in [0, 1]."""
    place = 2 * p[..., None] - 1
    return np.concatenate([1 + _STAKES * place, 1 + _STAKES * (2 * np.abs(place) - 1)], axis=-1)


def unstaked(images: int) -> float:
    """1 − Σ π after ``images``: 1, then 1 / (b + 1) once block b has begun."""
    return 1 / (1 + -(-images // BLOCK))


def _portion(images: int) -> float:
    """π for the image that follows ``images`` others."""
    return unstaked(images) - unstaked(images + 1)
