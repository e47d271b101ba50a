"""Where a study's pixels come from: files on disk, or the arrays of a MedMNIST ``.npz``."""

from __future__ import annotations

import hashlib
import math
import threading
import zipfile
import zlib
from pathlib import Path
from typing import cast

import msgspec
import numpy as np
from numpy.typing import NDArray

from medfm_compress.data.npy_rows import read_npy_header
from medfm_compress.data.study import ImageSource
from medfm_compress.runtime.errors import ImageRefused, StudyError
from medfm_compress.runtime.image_spec import DicomRules
from medfm_compress.runtime.images.image_size import image_size
from medfm_compress.runtime.images.pixels import Pixels
from medfm_compress.runtime.images.size_limits import MAX_DECODED_BYTES, read_limited
from medfm_compress.runtime.read_image import pixels_from_array, read_image
from medfm_compress.runtime.regular_file import open_regular

ARCHIVE_MARK = ".npz#"


class Files(msgspec.Struct, frozen=True):
    """Image files.

    Attributes:
        root: folder that relative paths start from; an absolute path stands for itself.
        rules: which DICOM files are accepted and how they are windowed.
    """

    root: Path
    rules: DicomRules = DicomRules()

    def read(self, image: str) -> Pixels:
        """Decode one file by its content; raises ``ImageRefused``."""
        return read_image(self.root / image, self.rules)

    def content_sha256(self, image: str) -> str:
        """Hex sha256 of the file's bytes; raises ``ImageRefused`` where it cannot be read."""
        return hashlib.sha256(read_limited(self.root / image)).hexdigest()


class Arrays:
    """Images of a ``.npz``; the key of one is ``<split>/<row>``, e.g. ``train/17``. Safe to read from several threads.

    Nothing pickled is loaded: an archive may come from anywhere.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._arrays: dict[str, NDArray[np.uint8]] = {}
        self._lock = threading.Lock()

    def read(self, image: str) -> Pixels:
        """One row ``[height, width]`` or ``[height, width, 3]``, uint8; raises ``ImageRefused``."""
        return pixels_from_array(self._row(image), f"{self.path.name}#{image}")

    def content_sha256(self, image: str) -> str:
        """Hex sha256 of the row's bytes."""
        return hashlib.sha256(self._row(image).tobytes()).hexdigest()

    def images(self, split: str) -> NDArray[np.uint8]:
        """All images of one split, ``[n, height, width]`` or ``[n, height, width, 3]``, read once and kept."""
        with self._lock:
            if split not in self._arrays:
                self._arrays[split] = load_array(self.path, f"{split}_images")
            return self._arrays[split]

    def _row(self, image: str) -> NDArray[np.uint8]:
        split, _, number = image.partition("/")
        stack = self.images(split) if split in ("train", "val", "test") else np.empty(0, np.uint8)
        if not (number.isascii() and number.isdecimal()) or int(number) >= len(stack):
            raise ImageRefused(f"{self.path.name} holds no image {image!r}; keys are like 'train/0'")
        row: NDArray[np.uint8] = stack[int(number)]
        return row


def load_array(path: Path, key: str) -> NDArray[np.uint8]:
    """One array of an ``.npz``, never unpickled.

    Raises:
        StudyError: no such file or key, a damaged archive, an array of Python objects, or one that takes more memory
            than there is.
    """
    try:
        with open_regular(path) as file, np.load(file, allow_pickle=False) as archive:
            if key in archive.files:
                _check_declared(archive.zip, key)
                array: NDArray[np.uint8] = archive[key]
                return array
            names = archive.files
    except (OSError, ValueError, EOFError, AttributeError, TypeError, zipfile.BadZipFile, zlib.error):
        raise StudyError(
            f"{path.name}: array {key!r} cannot be read as plain numbers; download the .npz again"
        ) from None
    except MemoryError:
        raise StudyError(
            f"{path.name}: array {key!r} takes more memory than there is; give the images as files, with a cases.csv"
        ) from None
    raise StudyError(f"{path.name} has no array {key!r}; it has {', '.join(names)}")


def _check_declared(archive: zipfile.ZipFile, key: str) -> None:
    """Refuse an array that its header makes larger than the archive says, or of rows that no image has.

    Raises:
        ValueError: it is; before memory is taken for it.
    """
    info = archive.getinfo(f"{key}.npy")
    with archive.open(info) as member:
        shape, _, dtype = read_npy_header(member)
        size, rows = math.prod(shape) * dtype.itemsize, max(1, *shape[:1])
        if member.tell() + size != info.file_size or size > rows * MAX_DECODED_BYTES:
            raise ValueError(f"array {key!r} {shape} is not what its archive holds")


def array_names(path: Path) -> tuple[str, ...]:
    """Names of the arrays in an ``.npz``; raises ``StudyError`` where it is none."""
    try:
        with open_regular(path) as file, zipfile.ZipFile(file) as archive:
            return tuple(name.removesuffix(".npy") for name in archive.namelist())
    except (OSError, zipfile.BadZipFile):
        raise StudyError(f"{path.name} is not an .npz archive, or a damaged one; download it again") from None


def with_rules(source: ImageSource, rules: DicomRules) -> ImageSource:
    """The same source, reading DICOM by other rules; sources that hold no DICOM are returned as they are.

    A source that reads from another one says by a method ``with_rules`` how that is done.
    """
    if isinstance(source, Files):
        return Files(source.root, rules)
    anew = getattr(source, "with_rules", None)
    return source if anew is None else cast(ImageSource, anew(rules))


def size_of(source: ImageSource, image: str) -> tuple[int, int]:
    """(height, width) px of an image as it is read, from its header where that tells.

    Raises:
        ImageRefused: it cannot be read.
    """
    size = image_size(source.root / image) if isinstance(source, Files) else None
    if size is not None:
        return size
    height, width = source.read(image).shape[:2]
    return int(height), int(width)


def locate(source: ImageSource, image: str) -> str:
    """Absolute path of an image, or ``<archive>#<key>``; the image itself where the source is of another kind."""
    if not image:
        return ""
    if isinstance(source, Files):
        return str((source.root / image).absolute())
    return f"{source.path.absolute()}#{image}" if isinstance(source, Arrays) else image
