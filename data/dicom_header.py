"""What a study takes from DICOM headers where no table says it: patient key, sex, age decade."""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from medfm_compress.data.patient_keys import patient_key
from medfm_compress.runtime.errors import ImageRefused
from medfm_compress.runtime.images.file_types import HEAD_BYTES, kind_of
from medfm_compress.runtime.images.quiet_decoders import decoding

if TYPE_CHECKING:
    from pydicom import Dataset

Name = TypeVar("Name", bound=Hashable)

_KEYWORDS = ("Modality", "SeriesInstanceUID", "PatientID", "IssuerOfPatientID", "PatientSex", "PatientAge")
_AGE = re.compile(r"(\d{3})([DWMY])")  # VR AS, PS3.5 6.2
_PER_YEAR = {"D": 365.25, "W": 52.18, "M": 12.0, "Y": 1.0}


class Header(NamedTuple):
    """Attributes of one file; each is empty where the file does not have it.

    Attributes:
        modality: (0008,0060).
        series: (0020,000E).
        patient: first 16 hex digits of the sha256 of Issuer of Patient ID and Patient ID. A key, not anonymous: who
            can guess the ID can compute it.
        patient_without_issuer: likewise of Patient ID alone.
        sex: (0010,0040).
        age: decade of (0010,1010), e.g. ``40-49``.
    """

    modality: str = ""
    series: str = ""
    patient: str = ""
    patient_without_issuer: str = ""
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


def with_issuers(headers: Mapping[Name, Header]) -> dict[Name, Header]:
    """``headers`` in which an ID without issuer is that of the only issuer that gives the same ID elsewhere.

    Two issuers may well have given one ID to two patients; where the issuer is missing in some files only, one patient
    is likelier than two, and two would let leakage pass unseen.
    """
    issued: dict[str, set[str]] = defaultdict(set)
    for header in headers.values():
        if header.patient != header.patient_without_issuer:
            issued[header.patient_without_issuer].add(header.patient)

    def issued_one(header: Header) -> Header:
        candidates = issued.get(header.patient_without_issuer, set())
        alone = header.patient == header.patient_without_issuer and len(candidates) == 1
        return header._replace(patient=next(iter(candidates))) if alone else header

    return {name: issued_one(header) for name, header in headers.items()}


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
    patient = patient_key(_text(ds, "PatientID"))
    issuer = patient_key(_text(ds, "IssuerOfPatientID"))
    return Header(
        modality=_text(ds, "Modality"),
        series=_text(ds, "SeriesInstanceUID"),
        patient=_digest(issuer, patient) if patient else "",
        patient_without_issuer=_digest("", patient) if patient else "",
        sex=_text(ds, "PatientSex"),
        age=_age(_text(ds, "PatientAge")),
    )


def _digest(issuer: str, patient: str) -> str:
    return hashlib.sha256(f"{issuer}\0{patient}".encode()).hexdigest()[:16]


def _text(ds: Dataset, keyword: str) -> str:
    return str(ds.get(keyword) or "").strip()


def _age(text: str) -> str:
    match = _AGE.fullmatch(text)
    return decade(int(match[1]) / _PER_YEAR[match[2]]) if match else ""
