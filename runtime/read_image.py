"""Read an image from a file, bytes, a DICOM dataset or an array, by its content and never by its extension.

Whatever cannot be read with certainty is refused with one sentence that names the file and no patient.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from medfm_compress.runtime.errors import ImageRefused, InputError
from medfm_compress.runtime.image_spec import DicomRules
from medfm_compress.runtime.images.file_types import HEAD_BYTES, Kind, kind_of, refusal_of
from medfm_compress.runtime.images.pixels import Pixels
from medfm_compress.runtime.images.size_limits import is_regular_file, read_limited

if TYPE_CHECKING:
    from pydicom import Dataset

    Source: TypeAlias = str | Path | bytes | Dataset | NDArray[Any]

_ANY = DicomRules()


def read_image(source: Source, rules: DicomRules = _ANY, attributes: Collection[str] = ()) -> Pixels:
    """Decode one 2-D image.

    Args:
        source: path of, or bytes of, a DICOM, PNG, JPEG, TIFF or BMP file; a pydicom ``Dataset``; or an array
            ``[H, W]`` or ``[H, W, 3]`` of uint8 or uint16 (full range) or float in [0, 1].
        rules: what DICOM images are accepted, and their window; other sources ignore them.
        attributes: keywords of DICOM attributes to be read along, for columns beside the image.

    Returns:
        Presentation values at their own bit depth.

    Raises:
        ImageRefused: anything that is not one readable, unambiguous 2-D image.
        InputError: a value of another type.
    """
    if isinstance(source, np.ndarray):
        return pixels_from_array(source)
    if isinstance(source, (str, Path)):
        path = Path(source)
        return _decode(read_limited(path), path.name, rules, attributes)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _decode(bytes(source), "image data", rules, attributes)
    _check_dataset(source)
    from medfm_compress.runtime.dicom.read_dicom import read_dicom

    return read_dicom(source, rules, attributes)


def read_frames(source: Source, rules: DicomRules, attributes: Collection[str] = ()) -> Iterator[Pixels]:
    """Every frame of a DICOM image, each decoded when it is asked for; any other image itself.

    Arguments are those of :func:`read_image`.

    Raises:
        ImageRefused: as of :func:`read_image`, of the frame that is asked for.
    """
    if isinstance(source, (str, Path)):
        path = Path(source)
        data, name = read_limited(path), path.name
    elif isinstance(source, (bytes, bytearray, memoryview)):
        data, name = bytes(source), "image data"
    elif isinstance(source, np.ndarray):
        yield pixels_from_array(source)
        return
    else:
        _check_dataset(source)
        from medfm_compress.runtime.dicom.read_dicom import dataset_frames

        yield from dataset_frames(source, rules, attributes)
        return
    if kind_of(data[:HEAD_BYTES]) != "dicom":
        yield _decode(data, name, rules, attributes)
        return
    from medfm_compress.runtime.dicom.read_dicom import decoded_frames

    yield from decoded_frames(data, name, rules, attributes)


def _check_dataset(source: object) -> None:
    """Raises InputError unless ``source`` is a data set of pydicom, which whoever has one has imported."""
    pydicom = sys.modules.get("pydicom.dataset")
    if pydicom is None or not isinstance(source, pydicom.Dataset):
        raise InputError(
            f"no image can be read from a value of type {type(source).__name__}; give the path or the bytes of a "
            "DICOM, PNG, JPEG, TIFF or BMP file, a pydicom Dataset, or a numpy array [H, W] or [H, W, 3]"
        )


def is_image_file(path: str | Path) -> bool:
    """Whether the file begins like an image that :func:`read_image` may read. Reads its first bytes only."""
    try:
        if not is_regular_file(Path(path)):
            return False
        with Path(path).open("rb") as file:
            return kind_of(file.read(HEAD_BYTES)) in ("dicom", "raster")
    except OSError:
        return False


def pixels_from_array(values: NDArray[Any], name: str = "array") -> Pixels:
    """Check an array and wrap it.

    Args:
        values: ``[H, W]`` or ``[H, W, 3]``; uint8 or uint16 use their full range, floats lie in [0, 1].
        name: what to call it in an error.

    Raises:
        ImageRefused: another shape or type, a value outside [0, 1], NaN, or no pixel at all.
    """
    _check_shape(values.shape, name)
    if values.dtype.kind == "u" and values.dtype.itemsize <= 2:  # in either byte order
        return Pixels.from_integers(np.ascontiguousarray(values, values.dtype.newbyteorder("=")))
    if values.dtype.kind != "f":
        raise ImageRefused(f"{name}: the type is {values.dtype}; give uint8, uint16, or float in [0, 1]")
    low, high = float(values.min()), float(values.max())
    if not (low >= 0 and high <= 1):  # NaN fails this too
        raise ImageRefused(f"{name}: float values must be finite and lie in [0, 1]; scale them first")
    return Pixels(np.ascontiguousarray(values, np.float32), 0.0, 1.0)


def _check_shape(shape: tuple[int, ...], name: str) -> None:
    is_image = len(shape) == 2 or (len(shape) == 3 and shape[2] == 3)
    if is_image and min(shape) > 0:
        return
    if len(shape) >= 3 and min(shape) > 4:
        raise ImageRefused(f"{name}: shape {shape} is a 3-D volume, which is out of scope; give one 2-D slice of it")
    raise ImageRefused(f"{name}: shape is {shape}; it must be [height, width] or [height, width, 3]")


def _decode(data: bytes, name: str, rules: DicomRules, attributes: Collection[str]) -> Pixels:
    kind: Kind = kind_of(data[:HEAD_BYTES])
    if kind == "dicom":
        from medfm_compress.runtime.dicom.read_dicom import decode_dicom

        return decode_dicom(data, name, rules, attributes)
    if kind == "raster":
        from medfm_compress.runtime.images.read_raster import decode_raster

        return decode_raster(data, name)
    raise ImageRefused(f"{name}: {refusal_of(data[:HEAD_BYTES])}")
