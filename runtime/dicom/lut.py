"""Lookup tables of DICOM: descriptor and data to entries, plain or segmented.

Sources: PS3.3 C.11.1.1 (descriptor and data), C.7.6.3.1.5 and C.7.6.3.1.6 (palettes), C.7.9.2 (segments).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from medfm_compress.runtime.dicom.numbers import integer_from

if TYPE_CHECKING:
    from pydicom import Dataset

Words = NDArray[np.uint16]

PARTLY_FILLED = "lookup-table-partly-filled"

_MAX_ENTRIES = 2**16
_DISCRETE, _LINEAR = 0, 1


class Lut(NamedTuple):
    """A lookup table: the input of its first entry, its entries, and the bits they use."""

    first: int
    entries: Words
    bits: int

    @property
    def is_partly_filled(self) -> bool:
        """Whether no entry reaches half of what ``bits`` can hold, as when 12-bit entries are declared as 16.

        C.11.1.1.1 scales by the declared depth, so such an image is shown dark.
        """
        return bool(2 * int(self.entries.max()) < 2**self.bits - 1)

    def __call__(self, inputs: NDArray[Any]) -> Words:
        """Entries for integral ``inputs``; those before the first or behind the last take that one (C.11.1.1)."""
        index = np.clip(np.rint(inputs) - self.first, 0, self.entries.size - 1)
        chosen: Words = self.entries[index.astype(np.int64)]
        return chosen


def lut_of(
    descriptor: Any, data: Any, *, little_endian: bool, may_be_negative: bool = False, greatest: float = 0.0
) -> Lut | None:
    """Build a table, or None where data and descriptor do not fit each other.

    Args:
        descriptor: number of entries (0 is 65536), first input, bits of an entry (8 to 16).
        data: bytes, or the numbers that pydicom made of them; one number where there is one entry.
        little_endian: byte order of ``data`` when it is bytes.
        may_be_negative: inputs can be negative, so a first input above 32767 is a negative one read as unsigned.
        greatest: input there can be. Where none is negative, a negative first input is one above 32767 that was read as
            signed (its VR follows the input, C.11.2.1.1, which implicit VR does not show), unless that exceeds this.
    """
    if (described := _described(descriptor)) is None or data is None:
        return None
    count, first, bits = described
    count = count % 2**16 or 2**16  # a descriptor read as signed shows large counts as negative
    if may_be_negative and first >= 2**15:
        first -= 2**16
    elif not may_be_negative and first < 0 and first + 2**16 <= greatest:
        first += 2**16
    entries = _unpacked(_words(data, little_endian), count, bits)
    if entries is None or not 8 <= bits <= 16 or int(entries.max()) >= 2**bits:
        return None
    return Lut(first, entries, bits)


def _described(descriptor: Any) -> tuple[int, int, int] | None:
    """Number of entries, first input and bits, or None where these are not three integers."""
    if descriptor is None or isinstance(descriptor, str) or len(descriptor) != 3:
        return None
    try:
        count, first, bits = map(integer_from, descriptor)
    except (ValueError, TypeError, OverflowError):
        return None
    return count, first, bits


def segmented_lut_of(descriptor: Any, data: Any, *, little_endian: bool) -> Lut | None:
    """Build a table from segments, or None where they do not expand to the descriptor's length.

    Discrete and linear segments are understood, in 8- or 16-bit words. Indirect segments, which repeat others, are not.
    """
    if (described := _described(descriptor)) is None or not isinstance(data, bytes):
        return None
    count, first, bits = described
    words = _words(data + bytes(len(data) % 2), little_endian)
    if bits == 8:  # two in a word, the first in its low byte
        words = words.astype("<u2").view(np.uint8).astype(np.uint16)
    entries = _expanded(words)
    if entries is None or bits not in (8, 16) or entries.size != (count % 2**16 or 2**16):
        return None
    return Lut(first, entries, bits)


def is_little_endian(ds: Dataset) -> bool:
    """Byte order of the data set, from its transfer syntax."""
    return bool(ds.file_meta.TransferSyntaxUID.is_little_endian)


def _words(data: Any, little_endian: bool) -> Words:
    if isinstance(data, bytes):
        order = "<u2" if little_endian else ">u2"
        return np.frombuffer(data[: len(data) // 2 * 2], order).astype(np.uint16)
    return np.atleast_1d(np.asarray(data, dtype=np.int64)).astype(np.uint16)


def _unpacked(words: Words, count: int, bits: int) -> Words | None:
    """One entry a word, or two 8-bit entries a word with the first in its low byte (C.11.1.1)."""
    if words.size == count:
        return words
    if bits == 8 and words.size == (count + 1) // 2:
        return words.astype("<u2").view(np.uint8)[:count].astype(np.uint16)
    return None


def _expanded(words: Words) -> Words | None:
    """C.7.9.2. Stops at 65536 entries: three words may stand for 65535, and a small file for gigabytes."""
    parts: list[NDArray[Any]] = []
    at = total = 0
    while at + 2 < words.size and total <= _MAX_ENTRIES:
        opcode, length = int(words[at]), int(words[at + 1])
        if opcode == _DISCRETE:
            parts.append(words[at + 2 : at + 2 + length])
            at += 2 + length
        elif opcode == _LINEAR and parts and parts[-1].size:
            start, end = int(parts[-1][-1]), int(words[at + 2])
            parts.append(np.rint(start + (end - start) * np.arange(1, length + 1) / max(length, 1)))
            at += 3
        else:
            return None
        total += parts[-1].size
    return np.concatenate(parts).astype(np.uint16) if parts else None
