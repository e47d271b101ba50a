"""Write masks: 8-bit grey PNG files, the stored numbers themselves."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medfm_compress.runtime.atomic_write import replacing


def write_label_map(path: Path, values: NDArray[np.uint8]) -> None:
    """Write ``[height, width]`` as a PNG file, whole or not at all.

    Raises:
        InputError: the folder cannot be written.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(png_bytes(values))


def png_bytes(values: NDArray[np.unsignedinteger]) -> bytes:
    """The PNG file of grey ``[height, width]`` of 8 or 16 bits, or colour ``[height, width, 3]`` of 8."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(values).save(file, "PNG")
    return file.getvalue()
