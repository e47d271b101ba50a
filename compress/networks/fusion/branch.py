r"""Columns to features: what both ways of fusion begin with.

    u = relu(A_2 relu(A_1 c + a_1) + a_2)

c the columns one after the other, ``[n, numbers]``, as `runtime.columns` encodes them; u ``[n, hidden]``.
"""

from __future__ import annotations

from torch import nn


def column_branch(numbers: int, hidden: int) -> nn.Sequential:
    """``[n, numbers]`` → ``[n, hidden]``."""
    return nn.Sequential(nn.Linear(numbers, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU())
