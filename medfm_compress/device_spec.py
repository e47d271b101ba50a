"""What a bundle's spec says, beyond the model's own, of the images that the device may predict on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from medfm_compress.data.colour_kind import study_colour_kind
from medfm_compress.data.dicom_header import modalities
from medfm_compress.data.sources import Files
from medfm_compress.data.study import Study
from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.image_spec import ColourRule, ImageSpec
from medfm_compress.runtime.progress import Progress

if TYPE_CHECKING:
    from medfm_compress.recipe import ExportStep


def device_spec(spec: ImageSpec, step: ExportStep, study: Study, progress: Progress) -> ImageSpec:
    """``spec`` with the DICOM modalities and the kind of colour that the model is for.

    Raises:
        InputError: images of the other kind are to be refused, and which that is is not known.
    """
    return with_colour_rule(with_modalities(spec, step, study), step, study, progress)


def with_modalities(spec: ImageSpec, step: ExportStep, study: Study) -> ImageSpec:
    """``spec`` that says which DICOM modalities it is for: what was asked, else its own, else the study's."""
    found = step.dicom_modality or spec.dicom.modalities
    if not found and isinstance(study.source, Files):
        found = modalities(study.source.root, [case.image for case in study.cases])
    return msgspec.structs.replace(spec, dicom=msgspec.structs.replace(spec.dicom, modalities=tuple(found)))


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
