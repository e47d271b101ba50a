"""A segmentation as files: label map and probabilities as PNG, outlines as JSON. Nothing of the image's header goes in.

label map      8 bits, a palette: index 0 background (black), k the k-th structure, in colours that people who
confuse red and green tell apart (Okabe & Ito, Color universal design, 2008)
probability    16 bits, grey, a file a structure: p = value / 65535
outlines       polygons in pixels of the image, (0, 0) the outer corner of the first pixel; see `contours`
"""

from __future__ import annotations

import io
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from medfm_compress.runtime.segmentation.contours import contours, signed_area
from medfm_compress.runtime.segmentation.label_map import LabelMap, Planes
from medfm_compress.runtime.segmentation.result import Segmentation

Colour = tuple[int, int, int]
COLOURS: tuple[Colour, ...] = (
    (0, 158, 115),  # bluish green, which tissue seldom is
    (230, 159, 0),  # orange
    (86, 180, 233),  # sky blue
    (240, 228, 66),  # yellow
    (0, 114, 178),  # blue
    (213, 94, 0),  # vermilion
    (204, 121, 167),  # reddish purple
)
PROBABILITY_SCALE = 65535


def colour_of(number: int) -> Colour:
    """Colour of the k-th structure, from 1; further ones take the first ones' again."""
    return COLOURS[(number - 1) % len(COLOURS)]


def label_map_png(label_map: LabelMap) -> bytes:
    """The label map as an indexed PNG: pixels hold the structures' numbers."""
    from PIL import Image

    image = Image.fromarray(label_map).convert("P")
    image.putpalette([channel for number in range(256) for channel in (colour_of(number) if number else (0, 0, 0))])
    return _png(image)


def probability_png(plane: Planes) -> bytes:
    """Probabilities ``[H, W]`` of one structure as a grey PNG of 16 bits, with its scale in a text chunk."""
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    levels = np.rint(plane.astype(np.float64) * PROBABILITY_SCALE).astype(np.uint16)
    notes = PngInfo()
    notes.add_text("Description", f"probability = value / {PROBABILITY_SCALE}")
    return _png(Image.fromarray(levels), notes)


def outlines(segmentation: Segmentation) -> dict[str, Any]:
    """Polygons of every structure: ``points`` are x, y; ``hole`` says that the polygon bounds one from inside."""
    height, width = segmentation.label_map.shape
    return {
        "height_px": height,
        "width_px": width,
        "spacing_mm": segmentation.spacing_mm,
        "structures": {
            name: [
                {"hole": signed_area(ring) < 0, "points": ring.tolist()} for ring in contours(segmentation.mask(name))
            ]
            for name in segmentation.structures
        },
    }


def outlines_json(segmentation: Segmentation) -> bytes:
    """`outlines` as JSON."""
    return msgspec.json.encode(outlines(segmentation)) + b"\n"


def _png(image: Any, notes: Any = None) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG", pnginfo=notes)
    return file.getvalue()


def edge_of(shown: NDArray[np.bool_], thickness: int) -> NDArray[np.bool_]:
    """Pixels of a mask ``[H, W]`` that lie within ``thickness`` px of what is not of it, the image's border apart."""
    inner = shown
    for _ in range(thickness):
        framed = np.pad(inner, 1, mode="edge")
        inner = inner & framed[:-2, 1:-1] & framed[2:, 1:-1] & framed[1:-1, :-2] & framed[1:-1, 2:]
    return shown & ~inner
