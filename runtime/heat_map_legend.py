"""A heat map with its legend below it (scale bar, finding, method), for a picture travels without its report.

The bar runs through the colours of the map, from a place without evidence (the image's own grey) to the strongest one.
Dark red to yellow becomes lighter all the way, so that colour-blind readers, and grey printers, tell its ends apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from medfm_compress.runtime.heat_map import (
    ACTIVATION,
    ANOMALY,
    CLASS_TOKEN_ATTENTION,
    OCCLUSION,
    HeatMap,
    overlay,
    scale_bar,
)

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont, ImageFont

    Font = FreeTypeFont | ImageFont

_LEAST_WIDTH_PX, _LEAST_TEXT_PX, _TEXT_SHARE = 360, 13, 1 / 45
_WHITE = (255, 255, 255)
_HOW = MappingProxyType(
    {
        OCCLUSION: "what covering a place takes from its log-odds",
        ACTIVATION: "what places of the last feature map add to its log-odds on average",
        CLASS_TOKEN_ATTENTION: "what patches add to its log-odds on average in the last attention",
        ANOMALY: "how unlike normal images places are, from usual to what is called by itself",
    }
)


class _Layout(NamedTuple):
    """Sizes in pixels."""

    width: int
    text: int

    @property
    def line(self) -> int:
        return round(1.4 * self.text)

    @property
    def margin(self) -> int:
        return round(0.5 * self.text)


def legend_lines(
    heat: HeatMap, finding: str, probability: float | None = None, measure: str = "probability"
) -> list[str]:
    """The words: what was found, what the colours say and by which method.

    Args:
        heat: the map.
        finding: its name, as it may be written.
        probability: of it; None says none.
        measure: what that number is called.
    """
    strongest = float(heat.evidence.max())
    found = finding if probability is None else f"{finding}: {measure} {probability:.2f}"
    if strongest <= 0:
        nothing = "no place is less usual than normal images" if heat.method == ANOMALY else "no place speaks for it"
        return [found, f"AI heat map ({heat.method}): {nothing}"]
    return [found, f"AI heat map ({heat.method}): {_HOW[heat.method]}, at most {strongest:.2f}"]


def drawable(name: str, number: int) -> str:
    """``name`` where the built-in font has its letters, else ``finding NUMBER``."""
    return name if name.isascii() and name.isprintable() else f"finding {number}"


def with_legend(heat: HeatMap, lines: Sequence[str], picture: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
    """The overlay, untouched in the upper left corner, and below it scale bar and words: uint8 ``[H + more, W', 3]``.

    Args:
        heat: whose overlay is shown.
        lines: of ASCII, wrapped where they are too long.
        picture: the overlay in another size, uint8 ``[H, W, 3]``; without it as it is.
    """
    from PIL import Image, ImageDraw, ImageFont

    shown = overlay(heat) if picture is None else picture
    height, width = shown.shape[:2]
    layout = _Layout(max(width, _LEAST_WIDTH_PX), max(_LEAST_TEXT_PX, round(min(height, width) * _TEXT_SHARE)))
    font = ImageFont.load_default(layout.text)
    words = [part for line in lines for part in _wrapped(line, font, layout.width - 2 * layout.margin)]
    rows = len(words) + (2 if heat.evidence.max() > 0 else 0)
    whole = Image.new("RGB", (layout.width, height + rows * layout.line + 2 * layout.margin))
    whole.paste(Image.fromarray(shown))
    drawing, top = ImageDraw.Draw(whole), height + layout.margin
    if heat.evidence.max() > 0:
        bar = scale_bar(layout.text, layout.width - 2 * layout.margin)
        whole.paste(Image.fromarray(bar), (layout.margin, top))
        for text, x, anchor in (
            ("usual" if heat.method == ANOMALY else "none, or against", layout.margin, "la"),
            ("called" if heat.full else "most", layout.width - layout.margin, "ra"),
        ):
            drawing.text((x, top + layout.line), text, _WHITE, font, anchor=anchor)
        top += 2 * layout.line
    for number, text in enumerate(words):
        drawing.text((layout.margin, top + number * layout.line), text, _WHITE, font)
    return np.asarray(whole)


def _wrapped(text: str, font: Font, width: int) -> list[str]:
    """The text in lines that fit; a word that is too long is cut."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width:
            lines[-1] = longer
            continue
        while font.getlength(word) > width:
            word = word[:-1]  # noqa: PLW2901 - what fits of it
        lines = [*lines, word] if lines[-1] else [word]
    return lines
