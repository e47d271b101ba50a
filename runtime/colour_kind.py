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

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medfm_compress.runtime.errors import ImageRefused
from medfm_compress.runtime.image_spec import ColourKind, ImageSpec

if TYPE_CHECKING:
    from medfm_compress.runtime.images.pixels import Pixels

COLOUR_FOR_GREY = "colour-image-for-grey-model"
GREY_FOR_COLOUR = "grey-image-for-colour-model"

_CELLS = 48
_SAMPLES = 8  # a cell's side, in pixels that are looked at
_LEVELS = 16  # of brightness
_GREY_SPREAD, _GREY_SHARE = 0.015, 0.9  # so little, in so many of the cells: a small coloured mark makes no photograph
_COLOUR_RESIDUE, _COLOUR_SHARE = 0.014, 0.25
_STRONG_SPREAD = 0.25  # on average: no tint of film or paper is so strong
_LUMA = np.array((0.299, 0.587, 0.114), np.float32)


def colour_kind(pixels: Pixels) -> ColourKind | None:
    """``grey``, ``colour``, or None for what is clearly neither.

    Args:
        pixels: ``[H, W]`` (always grey) or ``[H, W, 3]``.
    """
    if not pixels.is_colour:
        return "grey"
    cells = _cells(pixels)
    spread = cells.max(axis=1) - cells.min(axis=1)
    if np.quantile(spread, _GREY_SHARE) <= _GREY_SPREAD:
        return "grey"
    is_colour = spread.mean() >= _STRONG_SPREAD or np.quantile(_residue(cells), 1 - _COLOUR_SHARE) >= _COLOUR_RESIDUE
    return "colour" if is_colour else None


def colour_flags(pixels: Pixels, spec: ImageSpec) -> tuple[str, ...]:
    """What a prediction says of an image that is clearly not of the kind that the network was made for."""
    rule = spec.colour_rule
    kind = colour_kind(pixels) if rule else None
    if not rule or kind is None or kind == rule.images:
        return ()
    return (COLOUR_FOR_GREY if kind == "colour" else GREY_FOR_COLOUR,)


def check_colour(pixels: Pixels, spec: ImageSpec) -> None:
    """Refuse an image of the other kind, where the spec says so.

    Raises:
        ImageRefused: naming both kinds.
    """
    if not spec.colour_rule or spec.colour_rule.others != "refuse" or not colour_flags(pixels, spec):
        return
    given, made_for = ("in colour", "grey images") if spec.colour_rule.images == "grey" else ("grey", "colour images")
    raise ImageRefused(f"the image is {given}, and the network was made for {made_for}; give it one of those")


def _cells(pixels: Pixels) -> NDArray[np.float32]:
    """Mean colour of each cell, ``[cells, 3]`` in [0, 1]; large cells are sampled evenly."""
    values: NDArray[Any] = pixels.values
    sides = [-(-size // _CELLS) for size in values.shape[:2]]
    steps = [-(-side // _SAMPLES) for side in sides]
    values = values[:: steps[0], :: steps[1]]
    rows, columns = (max(1, side // step) for side, step in zip(sides, steps, strict=True))
    down, across = values.shape[0] // rows, values.shape[1] // columns
    whole = values[: down * rows, : across * columns].reshape(down, rows, across, columns, 3)
    # Sums of at most 64 values of 16 bits are exact in float32, in whatever order; this one is the fastest.
    sums = whole.sum(axis=1, dtype=np.float32).sum(axis=2)
    means: NDArray[np.float32] = sums.reshape(-1, 3) / np.float32(rows * columns)
    means -= np.float32(pixels.low)
    means /= np.float32(pixels.high - pixels.low)
    return means


def _residue(cells: NDArray[np.float32]) -> NDArray[np.float32]:
    """How far the colour of each cell is from the usual one of cells as bright; ``[cells]``."""
    brightness = cells @ _LUMA
    chroma = cells - brightness[:, None]
    residue = np.zeros(len(cells), np.float32)
    levels = min(_LEVELS, len(cells))
    each, larger = divmod(len(cells), levels)
    order = np.argsort(brightness, kind="stable")
    border = larger * (each + 1)
    for level in (order[:border].reshape(larger, each + 1), order[border:].reshape(levels - larger, each)):
        if level.size:
            residue[level] = np.abs(chroma[level] - np.median(chroma[level], axis=1, keepdims=True)).max(axis=2)
    return residue
