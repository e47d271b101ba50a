"""The study that every step reads: opened with what there is to say of it, and written with its splits."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from medfm_compress.data.colour_kind import study_colour_kind
from medfm_compress.data.open import open_study, open_study_of
from medfm_compress.data.splitting import SplitPlan, split_study
from medfm_compress.data.study import Study
from medfm_compress.data.table import write_table
from medfm_compress.runtime.errors import StudyError
from medfm_compress.runtime.image_spec import DicomRules
from medfm_compress.runtime.progress import Progress
from medfm_compress.runtime.task import Task

if TYPE_CHECKING:
    pass


def prepare_study(source: Path, normal: tuple[str, ...], plan: SplitPlan | None, progress: Progress, out: Path) -> None:
    """Write the study's table, with new splits where a plan is given; ``normal`` are the labels of an anomaly study.

    Raises:
        StudyError: no labelled test split, or splits that leak.
    """
    study = open_cases(source, progress, normal=normal)
    if plan is not None:
        result = split_study(study, plan)
        study = result.study
        if result.dropped:
            progress(f"left out {len(result.dropped)} images that share a patient or an image with the test split")
    for name in ("train", "val", "test"):
        count = sum(1 for case in study.split(name) if case.target)
        progress(f"{name}: {count} labelled images")
        if count == 0:
            raise StudyError(f"{source} has no labelled images in split {name!r}; add a 'split:' section to the recipe")
    write_table(study, out)


def open_cases(
    path: Path,
    progress: Progress,
    rules: DicomRules | None = None,
    structures: tuple[str, ...] = (),
    normal: tuple[str, ...] = (),
) -> Study:
    """A study; what opening it passed over or took for something else is said."""
    return with_remarks(open_study(path, dicom_rules=rules, structures=structures, normal=normal), progress)


def open_cases_of(task: Task, path: Path, progress: Progress, rules: DicomRules) -> Study:
    """Likewise, for a model of ``task``."""
    return with_remarks(open_study_of(task, path, rules), progress)


def with_remarks(study: Study, progress: Progress) -> Study:
    """``study``, when what opening it passed over or took for something else has been said."""
    for sentence in study.remarks:
        progress(f"note: {sentence}")
    return study


def warn_of_modality(cases: Study, modality: str, progress: Progress) -> None:
    """Colour images with the augmentation of radiographs are usually a --modality that nobody thought of."""
    if modality != "radiograph" or study_colour_kind(cases) != "colour":
        return
    progress(
        "warning: the images are in colour and --modality is 'radiograph', its default, whose augmentation is made for "
        "grey images; give --modality dermoscopy, histology, endoscopy or none (in a recipe, training: modality:)"
    )
