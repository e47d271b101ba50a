"""Coded concepts: those of the standard that reports use, and those of a bundle's own findings.

A finding without a code of the configuration's gets one of the private scheme ``99MEDFM`` (PS3.16 8.2: private schemes
begin with 99): "F" and 15 characters of the base-32 SHA-256 of its name, 75 bits. Equal names have equal codes on every
device, and no two names of a bundle have one.
"""

from __future__ import annotations

import base64
import hashlib
from typing import NamedTuple

from medfm_compress.runtime.node.config import CodeConfig
from medfm_compress.runtime.node.results.uids import UUID_ROOT, make_uid

PRIVATE_SCHEME = "99MEDFM"
PRIVATE_SCHEME_NAME = "medfm-compress: findings of a bundle, by the hash of their names"
PRIVATE_SCHEME_UID = make_uid(UUID_ROOT, "medfm-compress", "coding scheme", PRIVATE_SCHEME)
_LONGEST_MEANING = 64  # characters of Code Meaning, LO (PS3.5 6.2)
_LONGEST_SHORT = 16  # characters of Code Value, SH


class Code(NamedTuple):
    """A coded concept (PS3.3 8.8): value, scheme designator, meaning."""

    value: str
    scheme: str
    meaning: str

    @property
    def value_keyword(self) -> str:
        """The attribute that holds the value: a URN and a long one have attributes of their own."""
        if self.value.startswith("urn:") or "://" in self.value:
            return "URNCodeValue"
        return "CodeValue" if len(self.value) <= _LONGEST_SHORT else "LongCodeValue"


PRESENT = Code("52101004", "SCT", "Present")  # CID 240
ABSENT = Code("272519000", "SCT", "Absent")
PRESENCE = Code("121052", "DCM", "Presence of property")
PROBABILITY = Code("122157", "DCM", "Probability")
ANOMALY_SCORE = Code("ANOMALY-SCORE", PRIVATE_SCHEME, "Anomaly score, no probability of disease")
NO_UNITS = Code("1", "UCUM", "no units")

# Acquisition modalities, CID 29; of others the report names none.
_MODALITIES = {
    "CR": "Computed Radiography",
    "CT": "Computed Tomography",
    "DX": "Digital Radiography",
    "ES": "Endoscopy",
    "GM": "General Microscopy",
    "IO": "Intra-oral Radiography",
    "MG": "Mammography",
    "MR": "Magnetic Resonance",
    "NM": "Nuclear Medicine",
    "OP": "Ophthalmic Photography",
    "OPT": "Ophthalmic Tomography",
    "PT": "Positron emission tomography",
    "PX": "Panoramic X-Ray",
    "RF": "Radiofluoroscopy",
    "RG": "Radiographic imaging",
    "SM": "Slide Microscopy",
    "US": "Ultrasound",
    "XA": "X-Ray Angiography",
    "XC": "External-camera Photography",
}


def modality_code(modality: str) -> Code | None:
    """Code of an acquisition modality (0008,0060); None for one that CID 29 is not known to have."""
    meaning = _MODALITIES.get(modality)
    return Code(modality, "DCM", meaning) if meaning else None


def finding_code(finding: str, configured: CodeConfig | None) -> Code:
    """Code of ``finding``: the configured one, or one of the private scheme with its name as the meaning."""
    if configured is not None:
        meaning = one_line(configured.meaning) or configured.value
        return Code(configured.value, configured.scheme, meaning)
    digest = hashlib.sha256(finding.encode("utf-8", "surrogatepass")).digest()
    value = "F" + base64.b32encode(digest).decode("ascii")[:15]
    return Code(value, PRIVATE_SCHEME, shortened(finding, _LONGEST_MEANING) or value)


def one_line(text: str) -> str:
    """``text`` for a DICOM string of one value: no backslash (it separates values), no control characters, trimmed.

    Surrogates, which no character set has, become question marks.
    """
    clean = "".join("/" if char == "\\" else char if char.isprintable() else " " for char in text)
    return " ".join(clean.encode("utf-8", "replace").decode("utf-8").split())


def shortened(text: str, longest: int) -> str:
    """`one_line` of ``text``, at most ``longest`` characters; what was cut ends in three dots."""
    line = one_line(text)
    return line if len(line) <= longest else line[: longest - 3].rstrip() + "..."
