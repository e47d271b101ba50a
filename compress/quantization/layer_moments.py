"""Second moments of what a layer's weights multiply, and of what its result lacks, summed over cases.

With x the columns that one output position reads (im2col; per group of a grouped convolution), y what its result should
be and r = y − W x:

    H = Σ (x − x̄)(x − x̄)ᵀ  [G, K, K],    C = Σ (r − r̄)(x − x̄)ᵀ  [G, O/G, K]

kept apart for even and odd cases, so that what one half suggests can be checked on the other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from medfm_compress.compress.quantization.weights import Layer, attribute, constant

if TYPE_CHECKING:
    from collections.abc import Sequence

Array = NDArray[np.float32]
_ROWS = 8192  # output positions a layer, over all cases
_ELEMENTS = 4_000_000  # of the columns of one case


class Moments(NamedTuple):
    """Sums over ``rows`` output positions; see above.

    Attributes:
        rows: how many.
        inputs: Σ x, ``[G, K]``, from an origin near the mean, as below.
        residuals: Σ r, ``[G, O/G]``.
        square: Σ x xᵀ, ``[G, K, K]``, not centred.
        cross: Σ r xᵀ, ``[G, O/G, K]``, not centred.
    """

    rows: int
    inputs: Array
    residuals: Array
    square: Array
    cross: Array

    def __add__(self, other: object) -> Moments:
        assert isinstance(other, Moments)  # noqa: S101 - nothing else is added
        return Moments(*(mine + theirs for mine, theirs in zip(self, other, strict=True)))

    def centred(self) -> tuple[Array, Array]:
        """H and C over the rows."""
        x, r = self.inputs / self.rows, self.residuals / self.rows
        return (
            self.square / self.rows - x[:, :, None] * x[:, None, :],
            self.cross / self.rows - r[:, :, None] * x[:, None, :],
        )


def is_supported(layer: Layer) -> bool:
    """Whether the layer is a plain convolution in two dimensions, or a product with a matrix."""
    shape = constant(layer.weight)
    if shape is None:
        return False
    if layer.node.op_type == "Conv":
        return shape.ndim == 4 and attribute(layer.node, "auto_pad", "NOTSET") == "NOTSET"
    return layer.node.op_type in ("MatMul", "Gemm") and shape.ndim == 2 and attribute(layer.node, "alpha", 1.0) == 1.0


def grouped(layer: Layer, weight: Array) -> Array:
    """The weight as ``[G, O/G, K]``."""
    if layer.node.op_type == "Conv":
        groups = int(attribute(layer.node, "group", 1))
        return weight.reshape(groups, weight.shape[0] // groups, -1)
    return (weight if layer.axis == 0 else weight.T)[None]


def ungrouped(layer: Layer, rows: NDArray[np.generic], shape: Sequence[int]) -> NDArray[np.generic]:
    """The weight in its own ``shape`` again."""
    if layer.node.op_type == "Conv":
        return rows.reshape(shape)
    return np.ascontiguousarray(rows[0] if layer.axis == 0 else rows[0].T)


def measure(layer: Layer, weight: Array, inputs: Sequence[Array], missing: Sequence[Array]) -> list[Moments]:
    """Moments of the even and of the odd cases.

    Args:
        layer: see `is_supported`.
        weight: as `grouped` gives it.
        inputs: of the layer, case by case.
        missing: what its result, made with ``weight``, lacks.
    """
    halves: list[Moments | None] = [None, None]
    random = np.random.default_rng(0)
    origin = np.zeros((weight.shape[0], 1, weight.shape[2]), np.float32)
    for i, (x, r) in enumerate(zip(inputs, missing, strict=True)):
        columns, residuals = _of_case(layer, weight, x, r, random, -(-_ROWS // len(inputs)))
        if i == 0:
            origin = columns.mean(axis=1, keepdims=True)  # near x̄, so that float32 does not lose what is left of H
        one = _moments(columns - origin, residuals)
        before = halves[i % 2]
        halves[i % 2] = one if before is None else before + one
    return [half for half in halves if half is not None]


def _of_case(
    layer: Layer, weight: Array, x: Array, r: Array, random: np.random.Generator, rows: int
) -> tuple[Array, Array]:
    """Columns ``[G, rows, K]`` and residuals ``[G, O/G, rows]`` at some of the output positions."""
    groups, outputs, columns = weight.shape
    rows = max(min(rows, _ELEMENTS // (groups * columns)), 1)
    if layer.node.op_type == "Conv":
        r = r[0].reshape(r.shape[1], -1)
        chosen = _chosen(r.shape[1], rows, random)
        x = _patches(layer, x[0], chosen).reshape(len(chosen), groups, columns).transpose(1, 0, 2)
        r = r[:, chosen].reshape(groups, outputs, -1)
    else:
        x, r = x.reshape(-1, columns), r.reshape(-1, outputs)
        chosen = _chosen(len(x), rows, random)
        x, r = x[None, chosen], r[chosen].T[None]
    return x, r


def _moments(x: Array, r: Array) -> Moments:
    turned = np.ascontiguousarray(x.transpose(0, 2, 1))
    return Moments(x.shape[1], x.sum(axis=1), r.sum(axis=2), turned @ x, r @ x)


def _chosen(positions: int, rows: int, random: np.random.Generator) -> NDArray[np.int64]:
    return np.arange(positions) if positions <= rows else np.sort(random.choice(positions, rows, replace=False))


def _patches(layer: Layer, x: Array, chosen: NDArray[np.int64]) -> Array:
    """What the kernel covers at the chosen output positions, ``[rows, C, kh, kw]``."""
    weight = constant(layer.weight)
    assert weight is not None  # noqa: S101 - a layer has a constant weight
    kh, kw = weight.shape[2:]
    (sh, sw), (dh, dw) = (tuple(attribute(layer.node, name, (1, 1))) for name in ("strides", "dilations"))
    top, left, bottom, right = attribute(layer.node, "pads", (0, 0, 0, 0))
    padded = np.pad(x, ((0, 0), (top, bottom), (left, right)))
    height = (padded.shape[1] - dh * (kh - 1) - 1) // sh + 1
    width = (padded.shape[2] - dw * (kw - 1) - 1) // sw + 1
    c, h, w = padded.strides
    windows = as_strided(padded, (height, width, len(x), kh, kw), (h * sh, w * sw, c, h * dh, w * dw), writeable=False)
    return windows[chosen // width, chosen % width]
