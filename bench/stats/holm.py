"""Holm's step-down adjustment: control of the family-wise error over several tests.

With p-values sorted p_(1) <= … <= p_(k)::

    adjusted p_(i) = max over j <= i of  min(1, (k − j + 1) · p_(j))

Rejecting where the adjusted value is at most α keeps the chance of any false rejection at or below α, whatever the
dependence between the tests. Source: Holm, Scandinavian Journal of Statistics 6 (1979) 65–70.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medfm_compress.runtime.errors import InputError


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """Adjusted p-values, in the order of ``p_values``.

    Raises:
        InputError: a value outside [0, 1].
    """
    p = np.array(p_values, dtype=np.float64)
    if not ((p >= 0) & (p <= 1)).all():
        raise InputError(f"p-values must be in [0, 1], got {tuple(p_values)}")
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(np.minimum(1.0, p[order] * np.arange(len(p), 0, -1)))
    adjusted = np.empty_like(p)
    adjusted[order] = stepped
    return tuple(adjusted.tolist())
