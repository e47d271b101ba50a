"""Whether the images of a study are grey or in colour."""

from __future__ import annotations

from collections import Counter

from medfm_compress.data.study import Case, Study
from medfm_compress.runtime.colour_kind import colour_kind
from medfm_compress.runtime.errors import MedfmError, StudyError
from medfm_compress.runtime.image_spec import Colour, ColourKind

_SAMPLE = 64
_NEARLY_ALL = 0.95


def colour_of(study: Study) -> Colour:
    """Whether the first labelled training image is grey or in colour.

    Raises:
        StudyError: there is none.
    """
    cases = [case for case in study.split("train") if case.target]
    if not cases:
        missing = "image with a mask" if study.kind == "segmentation" else "labelled image"
        raise StudyError(f"{study.root} has no {missing} in split 'train'; cut one with 'study split', or add some")
    return case_colour(study, cases[0])


def case_colour(study: Study, case: Case) -> Colour:
    """``rgb`` for an image of three channels, whatever they hold."""
    return "rgb" if study.source.read(case.image).is_colour else "grey"


def study_colour_kind(study: Study) -> ColourKind | None:
    """What nearly all images of the study show; None where they differ, or are neither grey nor clearly in colour.

    At most 64 images of train (of all splits where there is none) are read, spread evenly over it; those that cannot be
    read are passed over.
    """
    cases = study.split("train") or study.cases
    kinds: Counter[ColourKind] = Counter()
    for case in cases[:: max(1, -(-len(cases) // _SAMPLE))]:
        try:
            kind = colour_kind(study.source.read(case.image))
        except MedfmError:
            continue
        if kind:
            kinds[kind] += 1
    usual = kinds.most_common(1)
    return usual[0][0] if usual and usual[0][1] >= _NEARLY_ALL * kinds.total() else None
