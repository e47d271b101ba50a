"""Whether an image shows colour, whatever number of channels it is stored in.

The image is averaged over a grid of at most 48 × 48 cells, which takes noise and compression out. Of each cell

    spread  = max(R, G, B) - min(R, G, B)                                            in units of the range
    residue = max |(R, G, B) - Y - m(Y)|      Y: brightness (BT.601), m(Y): median of (R, G, B) - Y among cells like it

Equal channels have no spread. A scan of a film or print is tinted: it has spread, and its colour follows from its
brightness, so that little residue is left. A photograph has both. What lies between the two (a tinted scan, a grey
image with a coloured overlay, a very pale photograph) is of neither kind, so that nothing is held against it. The
limits were chosen on real images of both kinds; see ``docs/results/colour-kind.md``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from medfm_compress.runtime.errors import ImageRefused
from medfm_compress.runtime.image_spec import ColourKind, ImageSpec

if TYPE_CHECKING:
    from medfm_compress.runtime.images.pixels import Pixels

Planes: TypeAlias = NDArray[np.float32]

COLOUR_FOR_GREY = "colour-image-for-grey-model"
GREY_FOR_COLOUR = "grey-image-for-colour-model"

_CELLS = 48
_SAMPLES = 8  # a cell's side, in pixels that are looked at
_LEVELS = 16  # of brightness
_GREY_SPREAD, _GREY_SHARE = 0.015, 0.9  # so little, in so many of the cells: a small coloured mark makes no photograph
_COLOUR_RESIDUE, _COLOUR_SHARE = 0.014, 0.25
_STRONG_SPREAD = 0.25  # on average: no tint of film or paper is so strong
_EVERY = 4  # row of cells is looked at first: enough of a photograph
_LUMA = np.array((0.299, 0.587, 0.114), np.float32)


def colour_kind(pixels: Pixels) -> ColourKind | None:
    """``grey``, ``colour``, or None for what is clearly neither.

    Args:
        pixels: ``[H, W]`` (always grey) or ``[H, W, 3]``.
    """
    if not pixels.is_colour:
        return "grey"
    cells = _cells(pixels)
    if _is_grey(cells):
        return "grey"
    return "colour" if _spread(cells).mean() >= _STRONG_SPREAD or _has_residue(cells) else None


def colour_flags(pixels: Pixels, spec: ImageSpec) -> tuple[str, ...]:
    """What a prediction says of an image that is clearly not of the kind that the network was made for."""
    rule = spec.colour_rule
    if not rule:
        return ()
    if rule.images == "grey":
        return (COLOUR_FOR_GREY,) if colour_kind(pixels) == "colour" else ()
    # Whether what is not grey is in colour decides nothing here, and takes half of the time.
    return (GREY_FOR_COLOUR,) if not pixels.is_colour or _shows_grey(pixels) else ()


def check_colour(pixels: Pixels, spec: ImageSpec) -> None:
    """Refuse an image of the other kind, where the spec says so.

    Raises:
        ImageRefused: naming both kinds.
    """
    if not spec.colour_rule or spec.colour_rule.others != "refuse" or not colour_flags(pixels, spec):
        return
    given, made_for = ("in colour", "grey images") if spec.colour_rule.images == "grey" else ("grey", "colour images")
    raise ImageRefused(f"the image is {given}, and the network was made for {made_for}; give it one of those")


def _spread(cells: Planes) -> NDArray[np.float32]:
    red, green, blue = cells
    spread: NDArray[np.float32] = np.maximum(np.maximum(red, green), blue) - np.minimum(np.minimum(red, green), blue)
    return spread


def _is_grey(cells: Planes) -> bool:
    spread = _spread(cells)
    return _quantile_is_below(spread, spread <= _GREY_SPREAD, _GREY_SHARE, lambda value: bool(value <= _GREY_SPREAD))


def _shows_grey(pixels: Pixels) -> bool:
    """`_is_grey` of all cells; where a part of them has too much spread already, the others change nothing."""
    few = pixels.values[::_SAMPLES, ::_SAMPLES]
    if np.any(few[..., 0] != few[..., 2]):  # else the part would say nothing, and take half of the time of all
        part = _spread(_cells(pixels, _EVERY))
        _, (down, _, across, _) = _grid(pixels)
        most = down * across - int(np.count_nonzero(part > _GREY_SPREAD))  # that can be below
        if most < _GREY_SHARE * (down * across - 1) - 2:
            return False
    return _is_grey(_cells(pixels))


def _has_residue(cells: Planes) -> bool:
    residue, share = _residue(cells), 1 - _COLOUR_SHARE
    below = residue < _COLOUR_RESIDUE
    return not _quantile_is_below(residue, below, share, lambda value: bool(value < _COLOUR_RESIDUE))


def _quantile_is_below(
    values: NDArray[np.float32], below: NDArray[np.bool_], share: float, is_below: Callable[[np.float32], bool]
) -> bool:
    """Whether the quantile ``share`` of ``values`` is below a limit, by how many of them are: ``below``.

    The quantile lies between the values on either side of place ``share (n - 1)``. It is worked out only where one of
    them may be below the limit and the other not: finding it takes ten times as long as counting.
    """
    place, count = share * (len(values) - 1), int(np.count_nonzero(below))
    if abs(count - place) <= 2:
        return is_below(np.float32(np.quantile(values, share)))
    return count > place


def _grid(pixels: Pixels) -> tuple[tuple[int, int], tuple[int, int, int, int]]:
    """Of rows and columns the step of those looked at; and how many cells, each of how many of them."""
    height, width = pixels.shape[:2]
    sides = -(-height // _CELLS), -(-width // _CELLS)
    steps = -(-sides[0] // _SAMPLES), -(-sides[1] // _SAMPLES)
    rows, columns = max(1, sides[0] // steps[0]), max(1, sides[1] // steps[1])
    return steps, (-(-height // steps[0]) // rows, rows, -(-width // steps[1]) // columns, columns)


def _cells(pixels: Pixels, every: int = 1) -> Planes:
    """Mean colour of each cell, ``[3, cells]`` in [0, 1]; large cells are sampled evenly.

    Args:
        pixels: ``[H, W, 3]``.
        every: of so many rows of cells the first.
    """
    steps, (down, rows, across, columns) = _grid(pixels)
    values: NDArray[Any] = pixels.values[:: steps[0], :: steps[1]]
    sums = _sums(values[: down * rows].reshape(down, rows, -1, 3)[::every], across, columns)
    means: Planes = sums.astype(np.float32)
    means /= np.float32(rows * columns)
    means -= np.float32(pixels.low)
    means /= np.float32(pixels.high - pixels.low)
    return means


def _sums(values: NDArray[Any], across: int, columns: int) -> NDArray[Any]:
    """Of each cell, ``[3, cells]``, of rows that may be longer; of whole numbers exact, at most 64 of 16 bits.

    Args:
        values: ``[cells, rows of each, W, 3]``.
        across: cells in a row.
        columns: of each.
    """
    down, rows = values.shape[:2]
    if values.dtype.kind == "f":
        whole = values[:, :, : across * columns].reshape(down, rows, across, columns, 3)
        of_floats: NDArray[np.float32] = whole.sum(axis=1, dtype=np.float32).sum(axis=2).reshape(-1, 3).T.copy()
        return of_floats
    wider = np.dtype(f"u{2 * values.dtype.itemsize}")
    of_rows = values.reshape(down, rows, -1).sum(axis=1, dtype=wider)[:, : across * columns * 3]
    parts = np.ascontiguousarray(of_rows.reshape(down * across, columns * 3).T).reshape(columns, 3, -1)
    sums: NDArray[Any] = parts.sum(axis=0, dtype=wider)
    return sums


def _residue(cells: Planes) -> NDArray[np.float32]:
    """How far the colour of each cell is from the usual one of cells as bright; ``[cells]``, by brightness."""
    brightness = np.ascontiguousarray(cells.T) @ _LUMA
    count = len(brightness)
    chroma = np.take(cells - brightness, np.argsort(brightness, kind="stable"), axis=1)
    residue = np.empty(count, np.float32)
    levels = min(_LEVELS, count)
    each, larger = divmod(count, levels)
    border = larger * (each + 1)
    for part, size in ((slice(border), each + 1), (slice(border, count), each)):
        level = np.ascontiguousarray(chroma[:, part]).reshape(3, -1, size)
        if level.size:
            residue[part] = np.abs(level - _median(level)).max(axis=0).reshape(-1)
    return residue


def _median(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """``np.median`` along the last axis, which is kept, to the bit."""
    middle, is_odd = divmod(values.shape[-1], 2)
    places = (middle,) if is_odd else (middle - 1, middle)
    parted = np.partition(values, places, axis=-1)
    upper: NDArray[np.float32] = parted[..., middle : middle + 1]
    return upper if is_odd else (parted[..., middle - 1 : middle] + upper) / np.float32(2)
