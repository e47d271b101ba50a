"""Linear probe: logistic regression on embeddings, with an L2 penalty that the number of cases alone decides.

    min over W, b   C · Σ_i v_i · cross-entropy(softmax(W x_i + b), y_i) + ½ ‖W‖²,     C = min(0.01 · (n / 5)^1.5, 1)

x_i embeddings scaled to mean 0 and variance 1 of the training cases, n the mean number of cases a class, v_i = n / n_k
of a case's class k, so that classes of unlike size count the same. The bias has no penalty. The objective is convex;
with fewer cases than features it is solved in the space that the cases span (X = U S Vᵀ, W = A Vᵀ, ‖W‖ = ‖A‖), which
changes nothing: a part of W outside it costs and gains nothing.

C is 0.01, 0.08 and 0.89 for 5, 20 and 100 cases, and is not searched for: nothing is left to choose it on.

Source: Alain, Bengio, "Understanding intermediate layers using linear classifier probes" (2016).
"""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional

from medfm_compress.compress.few_labels.linear_classifier import Floats, Integers, LinearClassifier, Scaling
from medfm_compress.runtime.errors import InputError

_STEPS = 1000


def penalty(per_class: float) -> float:
    """C of `linear_probe` for so many cases a class."""
    return float(min(0.01 * (per_class / 5) ** 1.5, 1.0))


def linear_probe(embeddings: Floats, classes: Integers, labels: int) -> LinearClassifier:
    """Fit it to embeddings ``[n, d]`` of ``classes`` ``[n]``, each of 0 … labels − 1 at least once.

    Raises:
        InputError: a class without a case.
    """
    counts = count_classes(classes, labels)
    scaling = Scaling.of(embeddings)
    x = scaling(embeddings)
    span = np.linalg.svd(x, full_matrices=False)[2] if len(x) < x.shape[1] else None
    inner = x if span is None else x @ span.T
    share = counts.mean() / counts[classes]
    weight, bias = _solve(inner, classes, penalty(float(counts.mean())) * share, labels)
    return scaling.undone(weight if span is None else weight @ span, bias)


def count_classes(classes: Integers, labels: int) -> Integers:
    """Cases of every class, ``[labels]``; raises InputError where one has none."""
    counts = np.bincount(classes, minlength=labels)
    if not counts.all():
        raise InputError(f"class {int(counts.argmin())} has no training case; label one of every class")
    return counts


def _solve(x: Floats, classes: Integers, strength: Floats, labels: int) -> tuple[Floats, Floats]:
    """W ``[labels, d]`` and b ``[labels]`` for cases x ``[n, d]`` that count ``strength`` ``[n]``."""
    inputs, truth, counts = torch.from_numpy(x), torch.from_numpy(classes), torch.from_numpy(strength)
    weight = torch.zeros(labels, x.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(labels, dtype=torch.float64, requires_grad=True)
    solver = torch.optim.LBFGS(
        [weight, bias], max_iter=_STEPS, tolerance_grad=1e-8, tolerance_change=1e-12, line_search_fn="strong_wolfe"
    )

    def objective() -> torch.Tensor:
        solver.zero_grad()
        fit = functional.cross_entropy(inputs @ weight.T + bias, truth, reduction="none") @ counts
        loss: torch.Tensor = fit + weight.square().sum() / 2
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    solver.step(objective)  # type: ignore[no-untyped-call]
    return weight.detach().numpy(), bias.detach().numpy()
