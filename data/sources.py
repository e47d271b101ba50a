"""Where a study's pixels come from: files, or arrays inside a MedMNIST ``.npz``."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medfm_compress.runtime.errors import ImageRefused, StudyError
from medfm_compress.runtime.image_spec import DicomRules
from medfm_compress.runtime.images import read_image
from medfm_compress.runtime.pixels import Pixels


class Files:
    """Image files below a folder."""

    def __init__(self, root: Path, rules: DicomRules) -> None:
        self._root, self._rules = root, rules

    def path(self, image: str) -> Path:
        """Path of one image."""
        return self._root / image

    def read(self, image: str) -> Pixels:
        """Decode one image; raises ``ImageRefused``."""
        return read_image(self.path(image), self._rules)

    def content_sha256(self, image: str) -> str:
        """Hex sha256 of the file; raises ``ImageRefused`` where it cannot be read."""
        try:
            return hashlib.sha256(self.path(image).read_bytes()).hexdigest()
        except OSError as exc:
            raise ImageRefused(f"{image} cannot be read: {exc.strerror}") from None


class Arrays:
    """Images of a ``.npz``, keyed ``split/row``."""

    def __init__(self, images: dict[str, NDArray[Any]]) -> None:
        self._images = images

    def read(self, image: str) -> Pixels:
        """The stored array; raises ``ImageRefused``."""
        return read_image(self._array(image))

    def content_sha256(self, image: str) -> str:
        """Hex sha256 of the array's bytes."""
        return hashlib.sha256(np.ascontiguousarray(self._array(image)).tobytes()).hexdigest()

    def _array(self, image: str) -> NDArray[Any]:
        split, _, row = image.rpartition("/")
        if split not in self._images or not row.isdigit() or int(row) >= len(self._images[split]):
            raise StudyError(f"the study has no image {image!r}; keys are split/row")
        array: NDArray[Any] = self._images[split][int(row)]
        return array
