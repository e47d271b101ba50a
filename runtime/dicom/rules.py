"""Which DICOM images a network was made for, by the attributes of the file."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import msgspec

from medfm_compress.runtime.dicom.checks import code, listed, shown_code
from medfm_compress.runtime.dicom.spacing import spacing_of
from medfm_compress.runtime.errors import ImageRefused
from medfm_compress.runtime.image_spec import DicomRules
from medfm_compress.runtime.images.pixels import Pixels

if TYPE_CHECKING:
    from pydicom import Dataset

KIND_NOT_DECLARED = "dicom-kind-not-declared"
"""Flag of a prediction on a DICOM image by a network that does not say for which modality or SOP class it was made."""

# Of the image, else of the frame (PS3.3 C.7.6.16.2.8), else of the series (C.7.3.1).
_LATERALITIES = ("ImageLaterality", "FrameLaterality", "Laterality")
_UID = re.compile(r"[0-9.]{1,64}")


def check_rules(ds: Dataset, rules: DicomRules, name: str) -> None:
    """Refuse an image the network was not made for.

    Raises:
        ImageRefused: its modality, SOP class, view position, body part, laterality or spacing is not among those
            allowed, it names no modality, class or spacing where one is asked for, or says two different codes.
    """
    _check_class(ds, rules, name)
    modality = code(ds, "Modality", name)
    if rules.modalities and not modality:
        raise ImageRefused(f"{name}: no Modality (0008,0060); allowed are {listed(rules.modalities)}")
    for label, keywords, allowed in (
        ("modality", ("Modality",), rules.modalities),
        ("view position", ("ViewPosition",), rules.view_positions),
        ("body part", ("BodyPartExamined",), rules.body_parts),
        ("laterality", _LATERALITIES, rules.lateralities or ()),
    ):
        value = next((found for key in keywords if (found := code(ds, key, name))), "") if allowed else ""
        if value and value not in {item.upper() for item in allowed}:
            raise ImageRefused(
                f"{name}: the {label} is {shown_code(value)}; this network was made for {listed(allowed)}"
            )
    _check_spacing(ds, rules, name)


def _check_class(ds: Dataset, rules: DicomRules, name: str) -> None:
    """SOP Class UID is type 1 (PS3.3 C.12.1)."""
    if not rules.sop_classes:
        return
    found = str(ds.get("SOPClassUID", "") or "").strip()
    if found not in rules.sop_classes:
        shown = found if _UID.fullmatch(found) else "missing or no UID"
        raise ImageRefused(f"{name}: the SOP class is {shown}; this network was made for {listed(rules.sop_classes)}")


def _check_spacing(ds: Dataset, rules: DicomRules, name: str) -> None:
    if rules.min_spacing_mm is msgspec.UNSET and rules.max_spacing_mm is msgspec.UNSET:
        return
    low, high = rules.spacing_range_mm
    allowed = f"this network was made for {low:g} to {high:g} mm"
    spacing = spacing_of(ds)
    if spacing is None:
        raise ImageRefused(f"{name}: says no spacing of its pixels, and {allowed}")
    if not low <= min(spacing) <= max(spacing) <= high:
        raise ImageRefused(f"{name}: its pixels are {spacing[0]:g} by {spacing[1]:g} mm apart, and {allowed}")


def kind_flags(pixels: Pixels, rules: DicomRules) -> tuple[str, ...]:
    """``dicom-kind-not-declared`` for a DICOM image where the rules let in every kind."""
    return (KIND_NOT_DECLARED,) if pixels.is_dicom and not rules.declares_kind else ()
