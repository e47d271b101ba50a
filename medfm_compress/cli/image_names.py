"""Names of the files that ``run`` writes of images."""

from __future__ import annotations

import hashlib
import itertools
from pathlib import Path


class ImageNames:
    """A name for every image that no image before has had.

    It is the image's own; of a DICOM image, whose name may be a patient's, it is made from the content.
    """

    def __init__(self) -> None:
        self._names: set[str] = set()

    def name_of(self, image: Path) -> str:
        """Without a suffix.

        Raises:
            ImageRefused: the image cannot be read.
        """
        from medfm_compress.runtime.images.size_limits import read_limited

        data = read_limited(image)
        first = f"dicom-{hashlib.sha256(data).hexdigest()[:16]}" if is_dicom(data) else image.stem
        names = itertools.chain([first], (f"{first}-{number}" for number in itertools.count(2)))
        name = next(name for name in names if name not in self._names)
        self._names.add(name)
        return name


def is_dicom(data: bytes) -> bool:
    """Whether a file of that content is a DICOM file."""
    from medfm_compress.runtime.images.file_types import HEAD_BYTES, kind_of

    return kind_of(data[:HEAD_BYTES]) == "dicom"
