"""Stored values as numbers to look up.

A radiograph has some ten million of them, so each step goes over the image as few times as it can, and a step that only
some images need asks first (a maximum takes a hundredth of the time of masking and comparing every value).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from medfm_compress.runtime.dicom.checks import Layout
from medfm_compress.runtime.errors import ImageRefused


def native_pixels(data: bytes | memoryview, layout: Layout) -> NDArray[Any]:
    """Uncompressed values of one sample a pixel, 8, 16 or 32 bits in little endian (PS3.5 8.1.1): the bytes themselves.

    Returns:
        ``[rows, columns]``, read-only, of the signed or unsigned type that Bits Allocated and Pixel Representation say.
    """
    kind = np.dtype(f"<{'i' if layout.is_signed else 'u'}{layout.bits_allocated // 8}")
    values = np.frombuffer(data, kind, layout.rows * layout.columns).reshape(layout.rows, layout.columns)
    return values.astype(kind.newbyteorder("="), copy=False)


def codes_of(values: NDArray[Any], layout: Layout, name: str, *, overlays: int, lossy: bool) -> NDArray[Any]:
    """The stored bits as unsigned numbers below ``2 ** bits_stored``.

    Unused high bits must be zero, repeat the sign (PS3.5 8.1.1), or be those that ``overlays`` names. Anything else is
    a wrong Bits Stored, which masking would turn into noise. A ``lossy`` decoder may overshoot and is clipped.

    Raises:
        ImageRefused: the unused bits hold something else.
    """
    bits = layout.bits_stored
    half = 2 ** (bits - 1)
    word = np.dtype(f"u{values.dtype.itemsize}").type
    if bits == 8 * values.dtype.itemsize:
        return values.view(word)
    low, high = (-half, half - 1) if layout.is_signed else (0, 2 * half - 1)
    least, most = int(values.min()) if values.dtype.kind == "i" else 0, int(values.max())
    is_within = low <= least and most <= high
    if lossy and not is_within:
        values, is_within = np.clip(values, low, high), True
    unsigned: NDArray[Any] = values.view(word)
    if is_within and least >= 0:
        return unsigned
    used: NDArray[Any] = unsigned & word(2**bits - 1)
    if not is_within:
        _check_unused(unsigned, used, layout, overlays, name)
    return used


def _check_unused(unsigned: NDArray[Any], used: NDArray[Any], layout: Layout, overlays: int, name: str) -> None:
    size = 8 * unsigned.dtype.itemsize
    word = unsigned.dtype.type
    kept = word(~overlays & (2**size - 1))  # Python's ~ gives a negative number, which an unsigned word does not take
    extended: NDArray[Any] | bool = False
    if layout.is_signed:
        shift = size - layout.bits_stored
        signed = (used << shift).view(f"i{unsigned.dtype.itemsize}") >> shift
        extended = unsigned & kept == signed.view(word) & kept
    if not np.all((unsigned & kept == used) | extended):
        raise ImageRefused(f"{name}: pixels exceed the {layout.bits_stored} bits stored; export the image again")
