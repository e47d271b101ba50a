"""Temperature scaling: one number that makes a network's confidence match its error rate, without changing any rank.

With logits z_ij of case i and label j, truth y_ij in {0, 1} and β = 1/T, the mean negative log-likelihood is

    softmax (labels exclude each other)   L(β) = 1/n Σ_i [ln Σ_j exp(β z_ij) − β Σ_j y_ij z_ij]
    sigmoid (labels are independent)      L(β) = 1/n Σ_i Σ_j [ln(1 + exp(β z_ij)) − β y_ij z_ij]

    L'(β) = 1/n Σ_i g_i                   g_i = Σ_j (p_ij − y_ij) z_ij, p the softmax or the sigmoid of β z
    L''(β) = 1/n Σ_i Var_p(z_i)           softmax;  1/n Σ_i Σ_j p_ij (1 − p_ij) z_ij²  sigmoid

L'' is never negative, so L is convex in β (not in T) and its slope has one root. Newton's step is taken inside a
bracket that shrinks with the slope's sign, and the bracket is halved where the step leaves it. β stays within
[1/20, 20]. Where the slope has no root in there, T is the bound: 0.05 where the cases are separable (every true label
has the largest logit, so more confidence is always better and T → 0), 20 where the logits say nothing. A sample at a
bound does not determine T, and its fit should not be used. A sample of one class only is nearly always such a sample;
where it is not, its T is what the formula gives, and means little. Where the likelihood does not change with T (all
logits are equal, or so large that every probability is 0 or 1 at every T allowed), T stays as it was.

Whether the temperature T₀ in use is wrong beyond chance is the score test, clustered by patient: with G_c = Σ g_i over
the cases of patient c at β₀ = 1/T₀, (Σ G_c)² / Σ G_c² is χ² with one degree of freedom where T₀ is right.

Sources: Guo, Pleiss, Sun, Weinberger, On Calibration of Modern Neural Networks, ICML 2017; White, Econometrica 50
(1982) 1–25 and Liang, Zeger, Biometrika 73 (1986) 13–22 for the variance.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from medfm_compress.runtime.errors import InputError

MIN_TEMPERATURE = 0.05
MAX_TEMPERATURE = 20.0
_STEPS = 100
_CLOSE = 1e-12

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


class TemperatureFit(NamedTuple):
    """What the cases say of the temperature.

    Attributes:
        temperature: that minimises the negative log-likelihood, in [0.05, 20].
        at_bound: the minimum lies beyond; the cases do not determine it.
        nll_before: mean negative log-likelihood of a case at the temperature it was held against, in nats.
        nll_after: likewise at ``temperature``; never above ``nll_before``.
        p_value: two-sided, small where the temperature held against is wrong beyond chance.
    """

    temperature: float
    at_bound: bool
    nll_before: float
    nll_after: float
    p_value: float


class Sample(NamedTuple):
    """Logits ``[n, labels]``, truth 0/1 ``[n, labels]``, and whether the labels exclude each other."""

    logits: Floats
    truth: Floats
    exclusive: bool


def fit_temperature(
    logits: NDArray[np.floating],
    truth: NDArray[np.integer],
    *,
    exclusive: bool,
    clusters: Integers | None = None,
    held_against: float = 1.0,
) -> TemperatureFit:
    """Fit the temperature on validation cases.

    Args:
        logits: ``[n, labels]``, finite.
        truth: 0/1 of the same shape; one 1 a row where ``exclusive``.
        exclusive: softmax over the labels of a case; otherwise a sigmoid for each.
        clusters: ``[n]``, equal numbers are one patient; each case its own where absent.
        held_against: the temperature in use, > 0.

    Raises:
        InputError: no case, shapes that differ, a logit that is not finite, a truth that is none, or a
            ``held_against`` that is not positive.
    """
    sample = _checked(logits, truth, exclusive)
    if not held_against > 0:
        raise InputError(f"the temperature to hold against is {held_against}; it must be above 0")
    beta, at_bound = _minimum(sample, 1 / held_against)
    before, after = _nll(sample, 1 / held_against), _nll(sample, beta)
    if not after < before:
        beta, after = 1 / held_against, before
    return TemperatureFit(1 / beta, at_bound, before, after, _p_value(sample, 1 / held_against, clusters))


def negative_log_likelihood(
    logits: NDArray[np.floating], truth: NDArray[np.integer], *, exclusive: bool, temperature: float
) -> float:
    """Mean over the cases at ``temperature``, in nats; arguments and errors of :func:`fit_temperature`."""
    return _nll(_checked(logits, truth, exclusive), 1 / temperature)


def _checked(logits: NDArray[np.floating], truth: NDArray[np.integer], exclusive: bool) -> Sample:
    z, y = np.asarray(logits, dtype=np.float64), np.asarray(truth, dtype=np.float64)
    if z.ndim != 2 or not z.size or y.shape != z.shape:
        raise InputError(f"logits have shape {z.shape} and truth {y.shape}; both must be [cases, labels], not empty")
    if not np.isfinite(z).all():
        raise InputError("some logits are not finite; run the network in a higher precision")
    if not np.isin(y, (0, 1)).all() or (exclusive and not (y.sum(axis=1) == 1).all()):
        raise InputError(f"truth must be 0 or 1{', with one 1 a case' if exclusive else ''}")
    return Sample(z, y, exclusive)


def _minimum(sample: Sample, start: float) -> tuple[float, bool]:
    """β at which the slope vanishes, and whether it is a bound instead."""
    low, high = 1 / MAX_TEMPERATURE, 1 / MIN_TEMPERATURE
    if _slopes(sample, start) == (0.0, 0.0) and _slopes(sample, low) == (0.0, 0.0):
        return start, False
    if _slopes(sample, low)[0] >= 0:
        return low, True
    if _slopes(sample, high)[0] <= 0:
        return high, True
    beta = min(max(start, low), high)
    for _ in range(_STEPS):
        slope, curvature = _slopes(sample, beta)
        low, high = (beta, high) if slope < 0 else (low, beta)
        following = beta - slope / curvature if curvature > 0 else math.inf
        if not low <= following <= high:
            following = (low + high) / 2
        if abs(following - beta) <= _CLOSE * beta:
            break
        beta = following
    return beta, False


def _nll(sample: Sample, beta: float) -> float:
    z = beta * sample.logits
    if sample.exclusive:
        top = z.max(axis=1)
        normaliser = top + np.log(np.exp(z - top[:, None]).sum(axis=1))
    else:
        normaliser = np.logaddexp(0.0, z).sum(axis=1)
    return float((normaliser - (sample.truth * z).sum(axis=1)).mean())


def _slopes(sample: Sample, beta: float) -> tuple[float, float]:
    """First and second derivative of the mean negative log-likelihood at ``beta``."""
    z, p = sample.logits, _probabilities(sample, beta)
    if sample.exclusive:
        mean = (p * z).sum(axis=1, keepdims=True)
        curvature = (p * (z - mean) ** 2).sum(axis=1)
    else:
        curvature = (p * (1 - p) * z**2).sum(axis=1)
    return float(_gradients(sample, beta).mean()), float(curvature.mean())


def _gradients(sample: Sample, beta: float) -> Floats:
    """g_i of each case, ``[n]``."""
    gradients: Floats = ((_probabilities(sample, beta) - sample.truth) * sample.logits).sum(axis=1)
    return gradients


def _probabilities(sample: Sample, beta: float) -> Floats:
    z = beta * sample.logits
    if not sample.exclusive:
        sigmoid: Floats = np.exp(-np.logaddexp(0.0, -z))
        return sigmoid
    powers = np.exp(z - z.max(axis=1, keepdims=True))
    softmax: Floats = powers / powers.sum(axis=1, keepdims=True)
    return softmax


def _p_value(sample: Sample, beta: float, clusters: Integers | None) -> float:
    gradients = _gradients(sample, beta)
    if clusters is not None:
        gradients = np.bincount(clusters, weights=gradients).astype(np.float64)
    spread = float((gradients**2).sum())
    # P(χ²₁ > x²) = erfc(x / √2)
    return math.erfc(abs(float(gradients.sum())) / math.sqrt(2 * spread)) if spread > 0 else 1.0
