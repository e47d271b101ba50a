"""What a study takes from DICOM headers where no table says it: patient key, sex, age decade."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from medfm_compress.data.ages import age_group, age_range, is_possible
from medfm_compress.data.missing_values import is_missing
from medfm_compress.data.written_forms import normal_form
from medfm_compress.runtime.errors import ImageRefused
from medfm_compress.runtime.images.file_types import HEAD_BYTES, kind_of
from medfm_compress.runtime.images.quiet_decoders import decoding

if TYPE_CHECKING:
    from pydicom import Dataset

_KEYWORDS = ("Modality", "SeriesInstanceUID", "PatientID", "IssuerOfPatientID", "PatientSex", "PatientAge")


class Header(NamedTuple):
    """Attributes of one file; each is empty where the file does not have it.

    Attributes:
        modality: (0008,0060).
        series: (0020,000E).
        patient: key of the Patient ID in its normal form. Not anonymous: who can guess the ID can compute it. The
            same ID may be another patient under another issuer, see `medfm_compress.data.dicom_patients`.
        issuer: key of the Issuer of Patient ID in its normal form.
        written: key of both as they stand in the file.
        sex: (0010,0040).
        age: decade of (0010,1010), e.g. ``40-49``, or ``90+``; empty for what cannot be an age.
    """

    modality: str = ""
    series: str = ""
    patient: str = ""
    issuer: str = ""
    written: str = ""
    sex: str = ""
    age: str = ""


def is_dicom_file(path: Path) -> bool:
    """Whether the file begins like DICOM."""
    try:
        with path.open("rb") as file:
            return kind_of(file.read(HEAD_BYTES)) == "dicom"
    except OSError:
        return False


def read_header(path: Path) -> Header:
    """Read the attributes above; a file that cannot be parsed gives an empty header, and `check_study` names it."""
    try:
        with decoding(path.name, "DICOM"):
            from pydicom import dcmread

            ds = dcmread(path, stop_before_pixels=True, force=True, specific_tags=list(_KEYWORDS))
            return _header(ds)
    except ImageRefused:
        return Header()


def attributes_of(path: Path, keywords: Sequence[str]) -> dict[str, str]:
    """DICOM attributes of one file as they are written, empty where it does not have them or cannot be parsed."""
    try:
        with decoding(path.name, "DICOM"):
            from pydicom import dcmread

            ds = dcmread(path, stop_before_pixels=True, force=True, specific_tags=list(keywords))
            return {keyword: _text(ds, keyword) for keyword in keywords}
    except ImageRefused:
        return dict.fromkeys(keywords, "")


def key_of(*parts: str) -> str:
    """First 16 hex digits of a sha256, so that what a header says of a person enters no table."""
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()[:16]


def modalities(root: Path, images: Sequence[str], most: int = 64) -> tuple[str, ...]:
    """Modalities of the DICOM files among ``images`` below ``root``, sorted; of at most ``most``, spread evenly."""
    files = [root / image for image in images if is_dicom_file(root / image)]
    chosen = files[:: max(1, len(files) // most)]
    return tuple(sorted({read_header(file).modality for file in chosen} - {""}))


def _header(ds: Dataset) -> Header:
    patient, issuer = _text(ds, "PatientID"), _text(ds, "IssuerOfPatientID")
    plain = "" if is_missing(patient) else normal_form(patient)
    plain_issuer = "" if is_missing(issuer) else normal_form(issuer)
    sex, (low, high) = _text(ds, "PatientSex"), age_range(_text(ds, "PatientAge"))
    return Header(
        modality=_text(ds, "Modality"),
        series=_text(ds, "SeriesInstanceUID"),
        patient=key_of(plain) if plain else "",
        issuer=key_of(plain_issuer) if plain and plain_issuer else "",
        written=key_of(issuer, patient) if plain else "",
        sex="" if is_missing(sex) else sex,
        age=age_group(low, high) if is_possible(low, high) else "",
    )


def _text(ds: Dataset, keyword: str) -> str:
    return str(ds.get(keyword) or "").strip()
