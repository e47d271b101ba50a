"""The study that every step reads: opened with what there is to say of it, and written with its splits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from medfm_compress.data.colour_kind import study_colour_kind
from medfm_compress.data.fingerprint import content_hashes
from medfm_compress.data.open import open_study, open_study_of
from medfm_compress.data.splitting import SplitPlan, split_study
from medfm_compress.data.study import Study
from medfm_compress.data.table import write_table
from medfm_compress.runtime.errors import StudyError
from medfm_compress.runtime.image_spec import DicomRules
from medfm_compress.runtime.progress import Progress
from medfm_compress.runtime.task import Task


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


def check_rule(path: Path, normal: tuple[str, ...], rule: str) -> None:
    """Raises InputError where the rule of operating points decides nothing for a study; before any training."""
    from medfm_compress.export import kinds

    kinds.check_rule(open_study(path, normal=normal, read_masks=False).kind, rule)


def open_cases(
    path: Path,
    progress: Progress,
    rules: DicomRules | None = None,
    structures: tuple[str, ...] = (),
    normal: tuple[str, ...] = (),
) -> Study:
    """A study; what opening it passed over or took for something else is said."""
    return with_remarks(open_study(path, dicom_rules=rules, structures=structures, normal=normal), progress)


def open_more(
    first: Study,
    paths: Sequence[str],
    progress: Progress,
    rules: DicomRules | None = None,
    normal: tuple[str, ...] = (),
) -> tuple[Study, ...]:
    """Other studies that are learned from, without what ``first`` holds back in val and test.

    An image counts by its content. Where a study shares an image with ``first``, their patients are named alike, and
    those of val and test are left out with all their images. With ``normal`` a study that has such labels is one of
    anomalies as well; another one's images are taken as they are.

    Raises:
        StudyError: a study, or an image, cannot be read.
    """
    others = [open_cases(Path(path), progress, rules) for path in paths]
    if not others:
        return ()
    own = dict(zip(content_hashes(first.source, [case.image for case in first.cases]), first.cases, strict=True))
    held = {content for content, case in own.items() if case.split in ("val", "test")}
    patients = {case.patient for case in first.cases if case.split in ("val", "test") and case.patient}
    kept = []
    for path, other in zip(paths, others, strict=True):
        has_normal = bool(set(normal) & set(other.labels))
        study = open_study(Path(path), dicom_rules=rules, normal=normal) if has_normal else other
        hashes = content_hashes(study.source, [case.image for case in study.cases])
        named_alike = patients if own.keys() & set(hashes) else set()
        cases = tuple(
            case
            for case, content in zip(study.cases, hashes, strict=True)
            if content not in held and case.patient not in named_alike
        )
        if left_out := len(study.cases) - len(cases):
            progress(
                f"note: {left_out} of the {len(study.cases)} images of {path} are left out: the study that is judged "
                "on holds them, or others of their patients, back in val or test"
            )
        kept.append(msgspec.structs.replace(study, cases=cases))
    return tuple(kept)


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
