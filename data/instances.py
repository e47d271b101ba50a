"""From an instance map to what a network of two structures can learn: the inside of every object, and its boundary.

    boundary(p)  ⇔  I(p) > 0, and a pixel q within N px of p (max(|Δrow|, |Δcolumn|) <= N) has I(q) ≠ I(p)
    inside(p)    ⇔  I(p) > 0, and p is no boundary

I is the map, 0 its background. So touching objects come apart once the boundary is taken away, and both together are
all that was drawn. What lies outside of the image counts as like the nearest pixel: an object that the image's edge
cuts has no boundary there. An object narrower than 2 N + 1 px is boundary throughout.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

INSIDE, BOUNDARY = 1, 2


def inside_and_boundary(instances: NDArray[np.integer], boundary_px: int) -> NDArray[np.uint8]:
    """Label map uint8 ``[H, W]``: 0 background, 1 inside, 2 boundary.

    Args:
        instances: whole numbers ``[H, W]``, 0 background, one number an object.
        boundary_px: N of the formula, at least 1.
    """
    differs = np.zeros(instances.shape, np.bool_)
    along_rows = _extremes(instances, boundary_px, axis=1)
    low, _ = _extremes(along_rows[0], boundary_px, axis=0)
    _, high = _extremes(along_rows[1], boundary_px, axis=0)
    np.not_equal(low, high, out=differs)
    drawn = instances > 0
    return np.where(drawn, np.where(differs, BOUNDARY, INSIDE), 0).astype(np.uint8)


def _extremes(values: NDArray[np.integer], reach: int, axis: int) -> tuple[NDArray[np.integer], NDArray[np.integer]]:
    """Least and greatest value within ``reach`` along an axis."""
    low, high = values.copy(), values.copy()
    length = values.shape[axis]
    for shift in range(1, min(reach, length - 1) + 1):
        first, second = [slice(None)] * 2, [slice(None)] * 2
        first[axis], second[axis] = slice(shift, None), slice(None, length - shift)
        for here, there in ((tuple(first), tuple(second)), (tuple(second), tuple(first))):
            np.minimum(low[here], values[there], out=low[here])
            np.maximum(high[here], values[there], out=high[here])
    return low, high
