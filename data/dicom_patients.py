"""Which DICOM files are of one patient: by Patient ID (0010,0020) and Issuer of Patient ID (0010,0021).

An ID is unique within its issuer, and many systems leave the issuer out. An ID that stands with an issuer in one file
and without in another is taken for one patient, whatever its issuers; an ID under several issuers, and never without
one, is several patients.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import NamedTuple

from medfm_compress.data.dicom_header import Header, key_of


class Patients(NamedTuple):
    """Who is on which file.

    Attributes:
        keys: of the patient by file; empty where its header names none.
        remarks: what was taken for one patient, or for several, that a person may know better. No ID is named.
    """

    keys: dict[str, str]
    remarks: tuple[str, ...]


def patients_of(headers: Mapping[str, Header]) -> Patients:
    """The patient of each file, told from the headers of all."""
    files: dict[str, list[str]] = defaultdict(list)
    for file, header in headers.items():
        if header.patient:
            files[header.patient].append(file)
    issuers = {patient: {headers[file].issuer for file in group} for patient, group in files.items()}
    apart = {patient for patient, named in issuers.items() if len(named) > 1 and "" not in named}
    in_part = {patient for patient, named in issuers.items() if len(named) > 1 and "" in named}
    keys = {
        file: key_of(header.issuer, header.patient) if header.patient in apart else header.patient
        for file, header in headers.items()
    }
    rewritten = {
        patient
        for patient, group in files.items()
        if patient not in apart | in_part and len({headers[file].written for file in group}) > 1
    }
    sentences = (
        (in_part, "stand with an Issuer of Patient ID in some files and without in others, and count as one patient"),
        (rewritten, "are written in several ways (case, spaces, leading zeros …), and count as one patient"),
        (apart, "stand under several issuers, and count as a patient for each issuer"),
    )
    remarks = tuple(
        f"{len(patients)} Patient ID(s) of DICOM headers {what}, first in {_examples(files, headers, patients)}; "
        "if that is wrong, give the table a column 'patient'"
        for patients, what in sentences
        if patients
    )
    return Patients(keys, remarks)


def _examples(files: Mapping[str, list[str]], headers: Mapping[str, Header], patients: set[str]) -> str:
    """Two files that differ in how they name the first of ``patients``."""
    group = next(group for patient, group in files.items() if patient in patients)
    by_form = {headers[file].written: file for file in reversed(group)}
    return " and ".join(sorted(by_form.values())[:2])
