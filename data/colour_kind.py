"""Whether the images of a study are grey or in colour."""

from __future__ import annotations

from medfm_compress.data.study import Case, Study
from medfm_compress.runtime.errors import StudyError
from medfm_compress.runtime.image_spec import Colour

_COLOUR_SPREAD = 0.02  # of the range; JPEG leaves less between the channels of a grey image


def colour_of(study: Study) -> Colour:
    """Whether the first labelled training image is grey or in colour.

    Raises:
        StudyError: there is none.
    """
    cases = [case for case in study.split("train") if case.target]
    if not cases:
        raise StudyError(f"{study.root} has no labelled image in split 'train'; cut one with 'study split'")
    return case_colour(study, cases[0])


def case_colour(study: Study, case: Case) -> Colour:
    """``rgb`` for an image of three channels, whatever they hold."""
    return "rgb" if study.source.read(case.image).is_colour else "grey"


def shows_colour(study: Study, case: Case) -> bool:
    """Whether the channels differ: many radiographs are stored with three equal ones."""
    pixels = study.source.read(case.image)
    if not pixels.is_colour:
        return False
    spread = pixels.values.max(axis=2).astype(float) - pixels.values.min(axis=2).astype(float)
    return bool(spread.mean() > _COLOUR_SPREAD * (pixels.high - pixels.low))
