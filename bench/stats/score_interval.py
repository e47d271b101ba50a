"""Score interval and test of a paired difference of any metric, from each patient's effect on it.

A loss that sits in few patients is easily absent from a sample: where 2% of the ill are no longer seen, 100 ill
patients hold none of them in 13% of studies, and the sample's variance then says that nothing could be lost. Tango's
score for two proportions does not fall for that, since it takes the variance under the *supposed* difference δ, from
the likeliest distribution that has this δ, discordant pairs included of which the sample has none. Here is the same for
every metric that patients move by a bounded amount.

Let θ̂ be the estimate of second − first, u_k the effect of patient k of C on it (C times its influence, mean 0), w < 0
the effect of a patient whom the second model loses entirely, and s = θ̂ − δ > 0. Under δ the mean of e_k = u_k + s must
be 0, and the likeliest distribution on {e_1, …, e_C, w + s} has the weights of empirical likelihood::

    p_k = 1 / (C (1 + λ e_k)) ,   λ the root of Σ e_k / (1 + λ e_k) = 0, at most 1 / |w + s|

At that bound the lost patient, of whom the sample has none, takes the weight that is left. Either way the variance
under δ is Σ p e² = s / λ, so that the score, with its square's mean 1, is::

    T(δ)² = s² / (s / (λ C)) = C λ s

and the interval holds every δ with T(δ)² <= z². At the bound this is s = z² |w| / (C + z²), below which the interval
never falls: its floor. For two proportions (u_k = −1 − θ̂, −θ̂, 1 − θ̂) it is Tango's interval, exactly; for several
images a patient, u_k are sums over a patient's images. The upper end mirrors the lower one.

Sources: Tango, Statistics in Medicine 17 (1998) 891–908; empirical likelihood: Owen, Empirical Likelihood (2001),
chapter 2; influence of a patient: Davison, Hinkley, Bootstrap Methods (1997), section 2.7. λ is also the largest safe
bet against δ (Waudby-Smith, Ramdas, JRSS B 86 (2024) 1–27).
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from medfm_compress.bench.types.interval import Interval
from medfm_compress.runtime.errors import InputError

Floats = NDArray[np.float64]

STEPS = 60
METHOD = "score over patients, as Tango's"
_NORMAL = NormalDist()


class Effects(NamedTuple):
    """What patients do to an estimate: the paired difference of two models, or the value of one.

    Attributes:
        estimate: e.g. second − first.
        patients: [C], C times each patient's influence on it; their mean is 0.
        worst: the same of a patient who is lost entirely, < 0.
        best: of one who is gained entirely, > 0.
    """

    estimate: float
    patients: Floats
    worst: float
    best: float

    def mirrored(self) -> Effects:
        """The same of −estimate."""
        return Effects(-self.estimate, -self.patients, -self.best, -self.worst)

    @property
    def standard_error(self) -> float | None:
        """Of the estimate, not restricted to any supposed value; None where no patient moves it."""
        error = math.sqrt(float((self.patients**2).sum())) / len(self.patients)
        return error if error > 0 else None


def paired_shares(gained: int, lost: int, pairs: int) -> Effects:
    """Of the difference of two shares of right decisions, one case a patient.

    Args:
        gained: pairs that only the second model has right.
        lost: pairs that only the first model has right.
        pairs: all of them.

    Raises:
        InputError: negative counts, more discordant pairs than pairs, or no pair.
    """
    if min(gained, lost) < 0 or gained + lost > pairs or pairs < 1:
        raise InputError(f"{gained} pairs gained and {lost} lost of {pairs} is impossible")
    estimate = (gained - lost) / pairs
    changes = np.repeat([1.0, -1.0, 0.0], [gained, lost, pairs - gained - lost])
    return Effects(estimate, changes - estimate, -1 - estimate, 1 - estimate)


def score_interval(effects: Effects, level: float, method: str = METHOD) -> Interval:
    """Two-sided interval of the estimate; ``level`` is in (0, 1)."""
    z = _NORMAL.inv_cdf((1 + level) / 2)
    return Interval(
        estimate=effects.estimate,
        low=effects.estimate - _reach(effects, z),
        high=effects.estimate + _reach(effects.mirrored(), z),
        level=level,
        method=method,
        standard_error=effects.standard_error,
    )


def no_shorter(interval: Interval, effects: Effects) -> Interval:
    """``interval`` or the score's at the same level, whichever reaches farther, at either end.

    The one knows how skewed an estimate is, the other what a sample may lack.
    """
    score = score_interval(effects, interval.level)
    return msgspec.structs.replace(
        interval,
        low=min(interval.low, score.low),
        high=max(interval.high, score.high),
        method=f"{interval.method}, no shorter than the score's",
    )


def p_score_below(effects: Effects, bound: float) -> float:
    """One-sided p-value of "the true difference is at least ``bound``", small where it is clearly below.

    It inverts `score_interval`.
    """
    shift = effects.estimate - bound
    if shift > 0:
        return _NORMAL.cdf(_score(effects, shift))
    return _NORMAL.cdf(-_score(effects.mirrored(), -shift))


def weaker(first: float, second: float) -> float:
    """Of two p-values of one question the one that says less, which belongs to `no_shorter`."""
    return min(first, second, key=lambda p: abs(p - 0.5))


def smallest_count(margin: float, alpha: float) -> int:
    """Patients without whom a loss of ``margin`` cannot be excluded, even where not one of them is lost.

    Each is taken to have one image and to move the metric by 1 / count: the ill of sensitivity, the rarer class of
    AUROC.

    Args:
        margin: in (0, 1).
        alpha: one-sided, in (0, 0.5).
    """
    z = _NORMAL.inv_cdf(1 - alpha)
    return math.floor(z**2 * (1 - margin) / margin) + 1


def smallest_count_of_precision(margin: float, alpha: float) -> int:
    """Likewise the positives that average precision takes: the least m with z² H(m) / m below ``margin``.

    A negative above all m positives costs a perfect ranking H(m) / m, H(m) = 1 + 1/2 + … + 1/m.
    """
    z, count, harmonic = _NORMAL.inv_cdf(1 - alpha), 0, 0.0
    while not count or z**2 * harmonic >= margin * count:
        count += 1
        harmonic += 1 / count
    return count


def least_loss(effects: Effects, alpha: float, *, errors: bool = False) -> float:
    """The loss that these patients cannot exclude even where the two models are alike: the floor of the interval.

    Args:
        effects: of the difference.
        alpha: one-sided, in (0, 0.5).
        errors: whether a rise is the loss.
    """
    z = _NORMAL.inv_cdf(1 - alpha)
    return _floor(effects.mirrored() if errors else effects, z)


def floor_without_variation(count: int, level: float = 0.95) -> float:
    """How far the interval of a share reaches where none of ``count`` patients varies; 1 without any patient."""
    z = _NORMAL.inv_cdf((1 + level) / 2)
    return z**2 / (count + z**2)


def _reach(effects: Effects, z: float) -> float:
    """The s > 0 at which C λ s = z²: the larger of its values at the bound of λ and inside."""
    return max(_floor(effects, z), _inner_reach(effects.patients, z))


def _floor(effects: Effects, z: float) -> float:
    worst = -min(effects.worst, float(effects.patients.min()))
    return z**2 * worst / (len(effects.patients) + z**2)


def _inner_reach(u: Floats, z: float) -> float:
    """The s with C λ s = z², λ not bounded; by bisection over s, at which λ is z² / (C s).

    Σ e / (1 + λ e) falls with λ and rises with s, so that it crosses 0 once. Every 1 + λ e must be positive.
    """
    lowest = float(u.min())
    if lowest >= 0:
        return 0.0
    share = z**2 / len(u)
    # 1 + λ (u + s) = 1 + z²/C + (z²/C) u / s > 0 for the lowest u.
    low = share * -lowest / (1 + share)
    high = max(4 * low, 1.0)

    def excess(s: float) -> float:
        e = u + s
        return float((e / (1 + share / s * e)).sum())

    while excess(high) < 0:
        high *= 2
    for _ in range(STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if excess(middle) < 0 else (low, middle)
    return high


def _score(effects: Effects, shift: float) -> float:
    """T of a supposed difference that lies ``shift`` >= 0 below the estimate; infinite where no loss is so large."""
    worst = -min(effects.worst, float(effects.patients.min())) - shift
    if shift <= 0:
        return 0.0
    if worst <= 0:
        return math.inf
    e = effects.patients + shift
    low, high = 0.0, 1 / worst
    with np.errstate(divide="ignore"):
        if (e / (1 + high * e)).sum() >= 0:
            low = high
    for _ in range(STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if (e / (1 + middle * e)).sum() > 0 else (low, middle)
    return math.sqrt(len(e) * low * shift)
