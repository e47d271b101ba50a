"""What a study takes from DICOM headers where no table says it: patient key, sex, age decade."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from medfm_compress.data.missing_values import is_missing
from medfm_compress.data.written_forms import normal_form
from medfm_compress.runtime.errors import ImageRefused
from medfm_compress.runtime.images.file_types import HEAD_BYTES, kind_of
from medfm_compress.runtime.images.quiet_decoders import decoding

if TYPE_CHECKING:
    from pydicom import Dataset

_KEYWORDS = ("Modality", "SeriesInstanceUID", "PatientID", "IssuerOfPatientID", "PatientSex", "PatientAge")
_AGE = re.compile(r"(\d{1,3})([DWMY])")  # VR AS, PS3.5 6.2; some write fewer digits
_OLDEST_YEARS = 125  # nobody on record was older than 122
_PER_YEAR = {"D": 365.25, "W": 52.18, "M": 12.0, "Y": 1.0}


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
        age: decade of (0010,1010), e.g. ``40-49``; empty for what cannot be an age.
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


def key_of(*parts: str) -> str:
    """First 16 hex digits of a sha256, so that what a header says of a person enters no table."""
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()[:16]


def is_age(years: float) -> bool:
    """Whether a person can be so old; false for NaN, and for -1, 411, 999 and other stand-ins for no value."""
    return 0 <= years <= _OLDEST_YEARS


def age_in_years(text: str) -> float | None:
    """Years that a DICOM age string such as ``045Y`` or ``006M`` (VR AS) says; None where it is none."""
    match = _AGE.fullmatch(text)
    return int(match[1]) / _PER_YEAR[match[2]] if match else None


def modalities(root: Path, images: Sequence[str], most: int = 64) -> tuple[str, ...]:
    """Modalities of the DICOM files among ``images`` below ``root``, sorted; of at most ``most``, spread evenly."""
    files = [root / image for image in images if is_dicom_file(root / image)]
    chosen = files[:: max(1, len(files) // most)]
    return tuple(sorted({read_header(file).modality for file in chosen} - {""}))


def decade(years: float) -> str:
    """``40-49`` for an age of 40 to below 50 years."""
    low = int(years) // 10 * 10
    return f"{low}-{low + 9}"


def _header(ds: Dataset) -> Header:
    patient, issuer = _text(ds, "PatientID"), _text(ds, "IssuerOfPatientID")
    plain = "" if is_missing(patient) else normal_form(patient)
    plain_issuer = "" if is_missing(issuer) else normal_form(issuer)
    sex, years = _text(ds, "PatientSex"), age_in_years(_text(ds, "PatientAge"))
    return Header(
        modality=_text(ds, "Modality"),
        series=_text(ds, "SeriesInstanceUID"),
        patient=key_of(plain) if plain else "",
        issuer=key_of(plain_issuer) if plain and plain_issuer else "",
        written=key_of(issuer, patient) if plain else "",
        sex="" if is_missing(sex) else sex,
        age=decade(years) if years is not None and is_age(years) else "",
    )


def _text(ds: Dataset, keyword: str) -> str:
    return str(ds.get(keyword) or "").strip()
