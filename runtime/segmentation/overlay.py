"""A picture for people: the image, its structures outlined and tinted, a legend, and what the picture is not for."""

from __future__ import annotations

import io
import unicodedata
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from medfm_compress.runtime.images.pixels import Pixels
from medfm_compress.runtime.segmentation.files import colour_of, edge_of
from medfm_compress.runtime.segmentation.result import Segmentation

if TYPE_CHECKING:
    from PIL import Image, ImageFont

LONGEST_SIDE_PX = 1600
_SHORTEST_SIDE_PX = 480
_TINT = 0.22
_PAPER, _INK, _PALE = (24, 26, 30), (240, 240, 240), (170, 174, 182)
NOT_FOR_DIAGNOSIS = "Not for diagnosis."


class Caption(NamedTuple):
    """What stands below the picture.

    Attributes:
        model: name of the bundle.
        digest: its model digest.
        remarks: flags of the prediction, in words.
    """

    model: str
    digest: str
    remarks: tuple[str, ...] = ()


def overlay_png(pixels: Pixels, segmentation: Segmentation, caption: Caption) -> bytes:
    """The picture as a PNG file, its longer side at most 1,600 px."""
    file = io.BytesIO()
    overlay(pixels, segmentation, caption).save(file, "PNG")
    return file.getvalue()


def overlay(pixels: Pixels, segmentation: Segmentation, caption: Caption) -> Image.Image:
    """The picture: the image at its own size, a small one enlarged by a whole factor, a large one reduced."""
    from PIL import Image

    size = _size_shown(*segmentation.label_map.shape)
    grey_or_rgb = Image.fromarray(_levels(pixels)).convert("RGB")
    shown = np.asarray(grey_or_rgb.resize(size, Image.Resampling.BICUBIC), np.float32)
    numbers = np.asarray(Image.fromarray(segmentation.label_map).resize(size, Image.Resampling.NEAREST))
    drawn = Image.fromarray(_drawn(shown, numbers, segmentation))
    return _captioned(drawn, segmentation, caption)


def _size_shown(height: int, width: int) -> tuple[int, int]:
    """(width, height) of the picture."""
    longest = max(height, width)
    if longest > LONGEST_SIDE_PX:
        return max(1, round(width * LONGEST_SIDE_PX / longest)), max(1, round(height * LONGEST_SIDE_PX / longest))
    factor = max(1, round(_SHORTEST_SIDE_PX / longest))
    return width * factor, height * factor


def _levels(pixels: Pixels) -> NDArray[np.uint8]:
    scaled = (pixels.values.astype(np.float32) - np.float32(pixels.low)) / np.float32(pixels.high - pixels.low)
    levels: NDArray[np.uint8] = np.rint(255 * np.clip(scaled, 0, 1)).astype(np.uint8)
    return levels


def _drawn(shown: NDArray[np.float32], numbers: NDArray[np.uint8], segmentation: Segmentation) -> NDArray[np.uint8]:
    thickness = max(1, round(max(numbers.shape) / 400))
    for number in range(1, len(segmentation.structures) + 1):
        mask = numbers == number
        if not mask.any():
            continue
        colour = np.asarray(colour_of(number), np.float32)
        shown[mask] += _TINT * (colour - shown[mask])
        shown[edge_of(~mask, 1)] *= 0.35  # a dark line around it, for images as light as the colour
        shown[edge_of(mask, thickness)] = colour
    return np.clip(np.rint(shown), 0, 255).astype(np.uint8)


def _captioned(drawn: Image.Image, segmentation: Segmentation, caption: Caption) -> Image.Image:
    from PIL import Image, ImageDraw

    text_px = max(14, round(max(drawn.size) / 64))
    font, small = _font(text_px), _font(max(12, round(text_px * 0.8)))
    margin, line = text_px, round(text_px * 1.6)
    legend = [_legend(number, name, segmentation) for number, name in enumerate(segmentation.structures, start=1)]
    width = max(drawn.width, 420)
    notes = [
        line_
        for sentence in (f"{NOT_FOR_DIAGNOSIS} {_ascii(caption.model)}, model {caption.digest[:12]}", *caption.remarks)
        for line_ in _wrapped(sentence, small, width - 2 * margin)
    ]
    height = drawn.height + 2 * margin + line * len(legend) + round(line * 0.85) * len(notes)
    picture = Image.new("RGB", (width, height), _PAPER)
    picture.paste(drawn, ((width - drawn.width) // 2, 0))
    pen, y = ImageDraw.Draw(picture), drawn.height + margin
    for number, text in enumerate(legend, start=1):
        pen.rounded_rectangle(
            (margin, y + text_px * 0.15, margin + text_px, y + text_px * 1.15), text_px * 0.2, colour_of(number)
        )
        _write(pen, (margin + text_px * 1.7, y), text, font)
        y += line
    for text in notes:
        pen.text((margin, y + text_px * 0.2), text, _PALE, small)
        y += round(line * 0.85)
    return picture


def _legend(number: int, name: str, segmentation: Segmentation) -> str:
    """``lesion   12.4 mm²   2 regions``."""
    count, shown = segmentation.area_px[name], _ascii(name) or f"structure {number}"
    if not count:
        return f"{shown}   none found"
    area, regions = segmentation.area_mm2, len(segmentation.regions[name])
    digits = ",.4g" if area is None or area[name] < 1e4 else ",.0f"
    size = f"{count:,} px" if area is None else f"{area[name]:{digits}} mm²"
    return f"{shown}   {size}   {regions} region{'' if regions == 1 else 's'}"


def _ascii(text: str) -> str:
    """``text`` in letters that the built-in font has, accents left out; empty where that leaves others."""
    plain = unicodedata.normalize("NFKD", text.replace("ß", "ss"))
    kept = "".join(letter for letter in plain if not unicodedata.combining(letter))
    return kept if kept.isascii() and kept.isprintable() else ""


def _write(pen: Any, at: tuple[float, float], text: str, font: Any) -> None:
    """``text``; a ² is a small 2 that is raised, since the built-in font has none."""
    x, y = at
    for number, part in enumerate(text.split("²")):
        if number:
            pen.text((x, y), "2", _INK, _font(round(font.size * 0.65)))
            x += font.size * 0.45
        pen.text((x, y), part, _INK, font)
        x += font.getlength(part)


def _wrapped(text: str, font: Any, width: int) -> list[str]:
    """``text`` in lines that are not wider, cut between words."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def _font(size_px: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    from PIL import ImageFont

    return ImageFont.load_default(size_px)
