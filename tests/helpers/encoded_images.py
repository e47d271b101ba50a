"""Small images of each kind of pixels, and files of them."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

GREY8 = np.arange(48 * 64, dtype=np.uint16).reshape(48, 64).astype(np.uint8)
GREY16 = (np.arange(48 * 64, dtype=np.uint16) * 21).reshape(48, 64)
RGB8 = np.stack([GREY8, GREY8[::-1], GREY8.T.reshape(48, 64)], -1)


def encode(image, kind="PNG", **options):
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()
