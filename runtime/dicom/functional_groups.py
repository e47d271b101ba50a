"""Functional groups of enhanced multi-frame objects: the attributes of one frame, put where a single frame has them.

Sources: PS3.3 C.7.6.16.1.1 and C.7.6.16.1.2 (a macro stands in the shared groups or in those of every frame, never in
both), C.7.6.16.2.1 (Pixel Measures), C.7.6.16.2.4 (Plane Orientation), C.7.6.16.2.8 (Frame Anatomy), C.7.6.16.2.9
(Pixel Value Transformation), C.7.6.16.2.10 (Frame VOI LUT), C.7.6.16.2.15 (Patient Orientation in Frame). Real World
Value Mapping is for measuring and not for display, and is not applied.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from medfm_compress.runtime.errors import ImageRefused

if TYPE_CHECKING:
    from pydicom import Dataset

_SHARED, _PER_FRAME = "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"
_MACROS = {
    "PixelMeasuresSequence": ("PixelSpacing",),
    "PlaneOrientationSequence": ("ImageOrientationPatient",),
    "PatientOrientationInFrameSequence": ("PatientOrientation",),
    "FrameAnatomySequence": ("FrameLaterality",),
    "PixelValueTransformationSequence": ("RescaleIntercept", "RescaleSlope"),
    "FrameVOILUTSequence": (
        *("WindowCenter", "WindowWidth", "WindowCenterWidthExplanation", "VOILUTFunction", "VOILUTSequence"),
    ),
}


def has_groups(ds: Dataset) -> bool:
    """Whether it is an enhanced object, whose rescale and window may lie in its functional groups."""
    return _SHARED in ds or _PER_FRAME in ds


def with_groups_of(ds: Dataset, number: int, frames: int, name: str) -> Dataset:
    """``ds`` with what the macros say of frame ``number``, which stands in place of what the object itself says.

    Raises:
        ImageRefused: there is no item for every frame, or a macro is there twice.
    """
    from pydicom import Dataset

    per_frame = ds.get(_PER_FRAME) or []
    if per_frame and len(per_frame) != frames:
        raise ImageRefused(f"{name}: {len(per_frame)} functional groups for {frames} frames; export it again")
    groups = [*(ds.get(_SHARED) or [])[:1], *per_frame[number - 1 : number]]
    flat = Dataset()
    flat.update(ds)
    flat.file_meta = ds.file_meta
    del_if_there(flat, (_SHARED, _PER_FRAME))
    for macro, keywords in _MACROS.items():
        items = [group[macro].value for group in groups if macro in group]
        if len(items) > 1 or any(len(item) != 1 for item in items):
            raise ImageRefused(f"{name}: {macro} is there more than once for its frame; export it again")
        if items:
            del_if_there(flat, keywords)
            flat.update({item.tag: item for item in items[0][0] if item.keyword in keywords})
    return flat


def del_if_there(ds: Dataset, keywords: tuple[str, ...]) -> None:
    """Remove attributes, those that are there."""
    for keyword in keywords:
        if keyword in ds:
            del ds[keyword]
