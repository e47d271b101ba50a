"""Compressed frames of uint8 ``[rows, columns]``, as DICOM files hold them."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image


def lossless_jpeg(values):
    """Process 14, selection value 1 (T.81, H), of uint8 ``[rows, columns]``; every category has a code of 5 bits."""
    left = values.astype(int)
    predicted = np.full(left.shape, 128)
    predicted[1:, 0], predicted[:, 1:] = left[:-1, 0], left[:, :-1]
    bits = []
    for difference in (left - predicted).ravel():
        category = int(abs(difference)).bit_length()
        rest = difference if difference >= 0 else difference + (1 << category) - 1
        bits.append(f"{category:05b}" + (f"{rest:0{category}b}" if category else ""))
    stream = "".join(bits)
    stream += "1" * (-len(stream) % 8)
    coded = int(stream, 2).to_bytes(len(stream) // 8, "big").replace(b"\xff", b"\xff\x00")
    rows, columns = (side.to_bytes(2, "big") for side in values.shape)
    table = b"\xff\xc4\0\x24\0" + bytes([0, 0, 0, 0, 17, *[0] * 11]) + bytes(range(17))
    header = b"\xff\xc3\0\x0b\x08" + rows + columns + b"\1\1\x11\0" + table + b"\xff\xda\0\x08\1\1\0\1\0\0"
    return b"\xff\xd8" + header + coded + b"\xff\xd9"


def jpeg_2000(values):
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "JPEG2000", no_jp2=True)
    return buffer.getvalue()
