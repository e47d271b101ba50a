"""The training cases that an image is most like: hashes of their files, so that a hospital can find its own.

The network's output ``nearest`` ``[1, k]`` numbers them, the most similar first; the bundle's member
``nearest/cases.npy``, uint8 ``[n, 32]``, has the SHA-256 of each one's file. Nothing else of a training case is in the
bundle, and a hash tells nothing to whoever does not have the file.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medfm_compress.runtime.bundle.arrays import read_npy, to_npy
from medfm_compress.runtime.bundle.bundle import NEAREST_CASES
from medfm_compress.runtime.bundle.manifest import NEAREST
from medfm_compress.runtime.errors import BundleRefused, InputError, Refused

if TYPE_CHECKING:
    from medfm_compress.runtime.bundle.bundle import Bundle

MOST_CASES = 1 << 24
"""A float32 counts so far without a gap."""
_BYTES = hashlib.sha256().digest_size
_HEX = re.compile(f"[0-9a-f]{{{2 * _BYTES}}}")


def nearest_file(hashes: Sequence[str]) -> dict[str, bytes]:
    """The bundle's member for training cases whose files have the hex SHA-256 ``hashes``, in the numbers' order.

    Raises:
        InputError: none, too many, or one that is no SHA-256.
    """
    if not 1 <= len(hashes) <= MOST_CASES:
        raise InputError(f"{len(hashes)} training cases to be named as the nearest; there must be 1 to {MOST_CASES}")
    wrong = next((value for value in hashes if not _HEX.fullmatch(value)), None)
    if wrong is not None:
        raise InputError(f"a training case has the hash {wrong!r}; give 64 hex digits, the SHA-256 of its file")
    return {NEAREST_CASES: to_npy(np.frombuffer(bytes.fromhex("".join(hashes)), np.uint8).reshape(-1, _BYTES))}


class NearestCases:
    """Hashes of a bundle's training cases."""

    def __init__(self, bundle: Bundle) -> None:
        """Read them; raises BundleRefused where they are damaged."""
        self._bundle = bundle.path.name
        self._hashes = read_npy(bundle, NEAREST_CASES, np.dtype(np.uint8))
        if self._hashes.ndim != 2 or self._hashes.shape[1] != _BYTES or not len(self._hashes):
            raise BundleRefused(f"{bundle.path.name}: {NEAREST_CASES} holds no SHA-256 of training cases")

    def named(self, numbers: NDArray[Any]) -> tuple[str, ...]:
        """Hex SHA-256 of the cases that the network's output ``[1, k]`` numbers, each once.

        Raises:
            Refused: one is no whole number, or of no case.
        """
        if fault := self._fault(numbers):
            raise Refused(f"the network numbers {fault}; no result is given")
        chosen = dict.fromkeys(np.asarray(numbers).reshape(-1).astype(np.int64).tolist())
        return tuple(self._hashes[number].tobytes().hex() for number in chosen)

    def check_numbers(self, numbers: NDArray[Any]) -> None:
        """Raise BundleRefused where the output ``[1, k]`` of a golden case numbers what is no case of the bundle."""
        if fault := self._fault(numbers):
            raise BundleRefused(f"{self._bundle}: of a golden case the network numbers {fault}; export the model again")

    def _fault(self, numbers: NDArray[Any]) -> str:
        rows = np.asarray(numbers, np.float64).reshape(-1)
        if not (np.isfinite(rows).all() and (rows == np.rint(rows)).all()):
            return "training cases by what is no whole number"
        if rows.min(initial=0) < 0 or rows.max(initial=0) >= len(self._hashes):
            return f"a training case beyond the {len(self._hashes)} of the bundle"
        return ""


def nearest_cases(bundle: Bundle) -> NearestCases | None:
    """Hashes of the training cases that it names; None where it names none. BundleRefused where they are damaged."""
    return None if bundle.manifest.output(NEAREST) is None else NearestCases(bundle)
