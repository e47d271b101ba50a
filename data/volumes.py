"""3-D volumes are out of scope and refused by name, before anything is trained on their slices."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from medfm_compress.data.dicom_header import Header
from medfm_compress.runtime.errors import StudyError
from medfm_compress.runtime.images.file_types import VOLUME_SUFFIXES

SLICE_MODALITIES = ("CT", "MR", "PT")


def refuse_volume_files(names: Iterable[str]) -> None:
    """Refuse file names of 3-D formats.

    Raises:
        StudyError: naming the first one.
    """
    for name in names:
        for suffix, kind in VOLUME_SUFFIXES.items():
            if name.lower().endswith(suffix):
                raise StudyError(f"{name} is a {kind} 3-D volume, which is out of scope; give 2-D images")


def refuse_series(headers: Iterable[Header]) -> None:
    """Refuse slices of one tomographic series: CT, MR or PET images that share a Series Instance UID (0020,000E).

    Raises:
        StudyError: at least two such images; the message names the modality, never the UID.
    """
    series = Counter(
        (head.modality, head.series) for head in headers if head.modality in SLICE_MODALITIES and head.series
    )
    for (modality, _), slices in series.items():
        if slices > 1:
            raise StudyError(
                f"{slices} files are slices of one {modality} series, a 3-D volume, which is out of scope; give 2-D "
                "images such as radiographs"
            )
