"""Arrays as members of a bundle: NumPy's ``.npy`` of version 1.0, without objects, read without trusting its header."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medfm_compress.runtime.errors import BundleRefused, refusing

if TYPE_CHECKING:
    from medfm_compress.runtime.bundle.bundle import Bundle


def to_npy(values: NDArray[Any]) -> bytes:
    """The content of a member that holds ``values``."""
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(values), allow_pickle=False)
    return buffer.getvalue()


def read_npy(bundle: Bundle, member: str, dtype: np.dtype[Any]) -> NDArray[Any]:
    """The array in ``member``: its header gives its shape, and all the rest of the member is its values.

    Raises:
        BundleRefused: it is no array of ``dtype``, or its header promises more or fewer values than there are.
    """
    content = bundle.read(member)
    with refusing(BundleRefused, f"{bundle.path.name}: {member} is not an array"):
        file = io.BytesIO(content)
        version = np.lib.format.read_magic(file)
        if version != (1, 0):
            raise ValueError(f"its format is {version}, not (1, 0)")
        shape, fortran, stored = np.lib.format.read_array_header_1_0(file)
        if stored.hasobject:
            raise ValueError("it holds objects")
        if stored != dtype:
            raise BundleRefused(f"{bundle.path.name}: {member} must hold {dtype} values")
        values = np.frombuffer(content, dtype, offset=file.tell())
        return values.reshape(shape, order="F" if fortran else "C")
