"""Pictures of a result for people: the slide under its heat map with a colour bar, and a sheet of the top tiles.

Colours are viridis (van der Walt and Smith, 2015; CC0): even steps of lightness, told apart with any colour vision.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from medfm_compress.runtime.atomic_write import replacing
from medfm_compress.runtime.slides.overview import Overview
from medfm_compress.runtime.slides.slide import Picture

if TYPE_CHECKING:
    from PIL.Image import Image

SIDE_PX = 1024
_OPACITY = 0.55
_VIRIDIS = np.array(
    [(68, 1, 84), (72, 40, 120), (62, 73, 137), (49, 104, 142), (38, 130, 142), (31, 158, 137), (53, 183, 121),
     (110, 206, 88), (181, 222, 43), (253, 231, 37)], np.float32,
)  # fmt: skip
_BAR_PX, _MARGIN_PX, _TEXT_PX = 24, 16, 15
_TILE_PX, _COLUMNS, _CAPTION_PX = 224, 4, 22
_INK = (20, 20, 20)


class TopTile(NamedTuple):
    """A picture of a tile, and what stands below it."""

    picture: Picture
    caption: str


def colours(probabilities: NDArray[np.floating]) -> NDArray[np.float32]:
    """Viridis, float32 ``[..., 3]`` in 0 to 255, of probabilities in [0, 1]."""
    places = np.clip(probabilities, 0, 1) * (len(_VIRIDIS) - 1)
    steps = np.arange(len(_VIRIDIS))
    return np.stack([np.interp(places, steps, channel) for channel in _VIRIDIS.T], axis=-1).astype(np.float32)


def overlay(
    seen: Overview, heat: NDArray[np.uint8], extent: tuple[float, float], tissue: NDArray[np.bool_] | None = None
) -> Picture:
    """The slide at a longest side of at most 1024 px, under its heat map.

    Args:
        seen: the slide made small.
        heat: as `stitch` stores it, ``[h, w]``, at any size.
        tissue: ``[h, w]`` of ``seen``: what of it may be coloured, since a tile at the rim is glass for the most part;
            None for all of it.
        extent: which part of ``heat``, (down, across) in (0, 1], shows the slide; the rest lies beyond its edges.
    """
    from PIL import Image

    shrink = max(1.0, max(seen.picture.shape[:2]) / SIDE_PX)
    height, width = (max(1, round(side / shrink)) for side in seen.picture.shape[:2])
    base = np.asarray(Image.fromarray(seen.picture).resize((width, height), Image.Resampling.BOX), np.float32)
    rows = np.minimum((np.arange(height) + 0.5) / height * extent[0] * heat.shape[0], heat.shape[0] - 1)
    columns = np.minimum((np.arange(width) + 0.5) / width * extent[1] * heat.shape[1], heat.shape[1] - 1)
    shown = heat[np.ix_(rows.astype(int), columns.astype(int))]
    coloured = shown > 0
    if tissue is not None:
        coloured &= np.asarray(Image.fromarray(tissue).resize((width, height), Image.Resampling.NEAREST))
    opacity = np.where(coloured, _OPACITY, 0)[..., None]
    picture = base * (1 - opacity) + colours((shown.astype(np.float32) - 1) / 254) * opacity
    unread = np.asarray(Image.fromarray(seen.unread).resize((width, height), Image.Resampling.NEAREST))
    hatched = unread & ((np.add.outer(np.arange(height), np.arange(width)) // 4) % 2 == 0)
    picture[unread], picture[hatched] = 230, 90
    rounded: Picture = np.rint(picture).astype(np.uint8)
    return rounded


def write_overlay(path: Path, picture: Picture, finding: str, note: str) -> None:
    """``picture`` with a colour bar at its right and two lines below; raises InputError if it cannot be written."""
    from PIL import Image, ImageDraw

    height, width = picture.shape[:2]
    bar = max(height - 2 * _MARGIN_PX, 60)
    right, bottom = _BAR_PX + 64, 2 * _TEXT_PX + 2 * _MARGIN_PX
    sheet = Image.new("RGB", (max(width + right, 420), max(height, bar + 2 * _MARGIN_PX) + bottom), (255, 255, 255))
    sheet.paste(Image.fromarray(picture), (0, 0))
    ramp = np.repeat(colours(np.linspace(1, 0, bar))[:, None], _BAR_PX, axis=1)
    sheet.paste(Image.fromarray(np.rint(ramp).astype(np.uint8)), (width + 8, _MARGIN_PX))
    draw = ImageDraw.Draw(sheet)
    for value in (0.0, 0.25, 0.5, 0.75, 1.0):
        y = _MARGIN_PX + round((1 - value) * (bar - 1))
        draw.line([(width + 8 + _BAR_PX, y), (width + 12 + _BAR_PX, y)], fill=_INK)
        _text(draw, (width + 15 + _BAR_PX, y - _TEXT_PX // 2 - 2), f"{value:.2f}")
    _text(draw, (8, sheet.height - bottom + _MARGIN_PX), f"probability of {finding}")
    _text(draw, (8, sheet.height - bottom + _MARGIN_PX + _TEXT_PX + 2), note)
    _save(sheet, path)


def write_contact_sheet(path: Path, tiles: Sequence[TopTile], title: str) -> None:
    """The tiles in rows of four, each with its caption; raises InputError if it cannot be written."""
    from PIL import Image, ImageDraw

    rows = -(-len(tiles) // _COLUMNS)
    step_x, step_y = _TILE_PX + _MARGIN_PX, _TILE_PX + _CAPTION_PX + _MARGIN_PX // 2
    top = _TEXT_PX + 2 * _MARGIN_PX
    sheet = Image.new("RGB", (_COLUMNS * step_x + _MARGIN_PX, top + max(rows, 1) * step_y), (255, 255, 255))
    draw = ImageDraw.Draw(sheet)
    _text(draw, (_MARGIN_PX, _MARGIN_PX), title)
    for number, tile in enumerate(tiles):
        x, y = _MARGIN_PX + number % _COLUMNS * step_x, top + number // _COLUMNS * step_y
        picture = Image.fromarray(np.ascontiguousarray(tile.picture))
        sheet.paste(picture.resize((_TILE_PX, _TILE_PX), Image.Resampling.BILINEAR), (x, y))
        _text(draw, (x, y + _TILE_PX + 3), tile.caption)
    _save(sheet, path)


def _text(draw: object, place: tuple[int, int], words: str) -> None:
    from PIL import ImageFont

    plain = words.encode("latin-1", "replace").decode("latin-1")
    draw.text(place, plain, fill=_INK, font=ImageFont.load_default(_TEXT_PX))  # type: ignore[attr-defined]


def _save(sheet: Image, path: Path) -> None:
    with replacing(path) as temporary, temporary.open("wb") as file:
        sheet.save(file, "PNG")
