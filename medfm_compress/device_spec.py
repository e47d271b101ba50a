"""What a bundle's spec says, beyond the model's own, of the images that the device may predict on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from medfm_compress.data.colour_kind import study_colour_kind
from medfm_compress.data.dicom_header import modalities
from medfm_compress.data.sources import Files
from medfm_compress.data.study import Study
from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.image_spec import ColourRule, ImageSpec, Tiles
from medfm_compress.runtime.progress import Progress

if TYPE_CHECKING:
    from medfm_compress.step_settings import ExportStep


def device_spec(spec: ImageSpec, step: ExportStep, study: Study, progress: Progress) -> ImageSpec:
    """``spec`` with the DICOM files, the size and the kind of colour that the model is for.

    Raises:
        InputError: images of the other kind are to be refused, and which that is is not known; or a range is empty.
    """
    spec = with_dicom_kind(with_modalities(with_tiles(spec, step), step, study), step)
    return with_colour_rule(spec, step, study, progress)


def with_tiles(spec: ImageSpec, step: ExportStep) -> ImageSpec:
    """``spec`` whose input slides over the image, where that was asked; else its own."""
    if step.tile_overlap is None:
        return spec
    of_px = msgspec.UNSET if step.tile_mm_per_px is None else step.tile_mm_per_px
    tiles = Tiles(overlap=step.tile_overlap, blending=step.tile_blending, mm_per_px=of_px)
    return msgspec.structs.replace(spec, tiles=tiles)


def with_modalities(spec: ImageSpec, step: ExportStep, study: Study) -> ImageSpec:
    """``spec`` that says which DICOM modalities it is for: what was asked, else its own, else the study's."""
    found = step.dicom_modality or spec.dicom.modalities
    if not found and isinstance(study.source, Files):
        found = modalities(study.source.root, [case.image for case in study.cases])
    return msgspec.structs.replace(spec, dicom=msgspec.structs.replace(spec.dicom, modalities=tuple(found)))


def with_dicom_kind(spec: ImageSpec, step: ExportStep) -> ImageSpec:
    """``spec`` with what was asked of classes, views, parts, sides, orientation, frames, spacing and size.

    Raises:
        InputError: the least spacing is above the greatest, or the orientation names one axis twice.
    """
    asked = {
        "sop_classes": step.dicom_sop_class,
        "view_positions": step.dicom_view,
        "body_parts": step.dicom_body_part,
        "lateralities": step.dicom_laterality,
        "orientation": step.dicom_orientation,
        "mirrored_to": step.dicom_mirror_to,
        "min_spacing_mm": step.min_spacing_mm,
        "max_spacing_mm": step.max_spacing_mm,
    }
    given: dict[str, object] = {name: value for name, value in asked.items() if value}
    if step.dicom_frames is not None:
        given |= {"frame": "all", "frame_number": msgspec.UNSET, "frame_aggregation": step.dicom_frames}
    rules = msgspec.structs.replace(spec.dicom, **given)
    return msgspec.structs.replace(spec, dicom=rules, min_side_px=step.min_side_px or spec.min_side_px)


def with_colour_rule(spec: ImageSpec, step: ExportStep, study: Study, progress: Progress) -> ImageSpec:
    """``spec`` that says which kind of images, by colour, it is for: what was asked, else its own, else the study's."""
    own = spec.colour_rule.images if spec.colour_rule else study_colour_kind(study)
    images = {"grey": "grey", "colour": "colour", "any": None, "study": own}[step.image_colour]
    if images is None and step.other_colour == "refuse":
        raise InputError(
            "other_colour is 'refuse', and what the model is for is not known: the study's images are neither all grey "
            "nor all in colour; name it with --image-colour, or leave --other-colour out"
        )
    if images is None and step.image_colour == "study":
        progress("the study's images are neither all grey nor all in colour: no image will be flagged for its colour")
    rule = msgspec.UNSET if images is None else ColourRule(images=images, others=step.other_colour)
    return msgspec.structs.replace(spec, colour_rule=rule)
