"""Rounding that knows the inputs: what one weight's rounding breaks, the weights not rounded yet make good.

For a row w of weights (in steps of its scale) and the second moment H = E[x xᵀ] of what it multiplies, the error of the
result is (q − w)ᵀ H (q − w), not Σ (q − w)². Columns are rounded one after another; with U the upper Cholesky factor
of (H + λI)⁻¹, rounding column j with error e = (w_j − q_j) / U_jj moves the columns behind it by

    w_k ← w_k − e · U_jk,    k > j

(Frantar et al. 2023, https://arxiv.org/abs/2210.17323, algorithm 1), the columns with the largest H_jj first. The rows
share H, so all rows are rounded at once.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_BLOCK = 128  # columns whose corrections are applied to the rest in one product
_DAMPING = 0.01  # λ over the mean of H's diagonal, as in the paper


def round_by_moments(weights: NDArray[np.float32], moments: NDArray[np.float32], limit: int) -> NDArray[np.int8]:
    """Integers in ±``limit`` for ``weights`` ``[G, O, K]`` (in steps of their scale), with H ``[G, K, K]``."""
    order = np.argsort(-np.diagonal(moments, axis1=1, axis2=2), axis=1, kind="stable")
    work = np.take_along_axis(weights, order[:, None, :], axis=2).astype(np.float32)
    upper = _upper(np.take_along_axis(np.take_along_axis(moments, order[:, :, None], 1), order[:, None, :], 2))
    rounded = np.empty_like(work)
    columns = work.shape[2]
    for start in range(0, columns, _BLOCK):
        end = min(start + _BLOCK, columns)
        errors = np.empty_like(work[:, :, start:end])
        for j in range(start, end):
            rounded[:, :, j] = np.clip(np.rint(work[:, :, j]), -limit, limit)
            error = (work[:, :, j] - rounded[:, :, j]) / upper[:, None, j, j]
            errors[:, :, j - start] = error
            work[:, :, j + 1 : end] -= error[:, :, None] * upper[:, None, j, j + 1 : end]
        work[:, :, end:] -= errors @ upper[:, start:end, end:]
    result = np.empty_like(rounded)
    np.put_along_axis(result, np.broadcast_to(order[:, None, :], result.shape), rounded, axis=2)
    return result.astype(np.int8)


def _upper(moments: NDArray[np.float32]) -> NDArray[np.float32]:
    """U with Uᵀ U = (H + λI)⁻¹, ``[G, K, K]``: from the Cholesky factor of H with its columns reversed."""
    columns = moments.shape[1]
    damped = moments + damping(moments, _DAMPING)[:, None, None] * np.eye(columns, dtype=np.float32)
    lower = np.linalg.cholesky(damped[:, ::-1, ::-1])  # of the reversed H: H = R Rᵀ with R upper triangular
    reversed_upper = lower[:, ::-1, ::-1]
    return np.linalg.inv(reversed_upper).astype(np.float32)


def damping(moments: NDArray[np.float32], share: float) -> NDArray[np.float32]:
    """λ of each H: a share of the mean of its diagonal; where inputs are dead, of that of the others."""
    means = np.diagonal(moments, axis1=1, axis2=2).mean(axis=1)
    return np.asarray(share * np.maximum(means, max(1e-3 * float(means.mean()), 1e-12)))
