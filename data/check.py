"""`check_study`: what stands in a study, and what would spoil an experiment on it.

A segmentation study may be opened without its masks being read: they are read here, once, with their images.

Leakage is a patient, or an exact copy of an image, in more than one of train, val and test: the test score then
measures memory. Files are read and hashed once; two images are copies where their stored bytes are equal.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from statistics import median
from typing import NamedTuple

import msgspec

from medfm_compress.data.check_masks import (
    InspectedMask,
    MaskCheck,
    check_masks,
    inspect_mask,
    mask_errors,
    mask_remarks,
    with_targets,
)
from medfm_compress.data.check_remarks import class_sizes, identifying_reason, remarks_on, what_cannot_be_learned
from medfm_compress.data.labels import LEARNED, describe_order
from medfm_compress.data.study import Case, Study
from medfm_compress.data.unread_files import by_suffix
from medfm_compress.runtime.colour_kind import colour_kind
from medfm_compress.runtime.errors import MedfmError
from medfm_compress.runtime.image_spec import ColourKind
from medfm_compress.runtime.images.file_types import UNREAD_SUFFIXES
from medfm_compress.runtime.progress import counted
from medfm_compress.runtime.task import TaskKind
from medfm_compress.runtime.threads import map_in_threads

_WORKERS = 2
_ODD_FACTOR = 2.0


class Unreadable(msgspec.Struct, frozen=True):
    """An image that cannot be decoded, and why."""

    image: str
    reason: str


class Copies(msgspec.Struct, frozen=True):
    """Images of equal content, the splits they stand in, and whether their labels contradict each other."""

    images: tuple[str, ...]
    splits: tuple[str, ...]
    contradict: bool


class SharedPatient(msgspec.Struct, frozen=True):
    """A patient in more than one of train, val, test: images in each. The key is one of the ways it is written."""

    patient: str
    images: dict[str, int]


class OddSize(msgspec.Struct, frozen=True):
    """An image whose shorter side or aspect ratio is more than twice, or less than half, the median."""

    image: str
    height_px: int
    width_px: int


class StudyCheck(msgspec.Struct, frozen=True, kw_only=True):
    """What `check_study` found; counts are of images unless they say otherwise.

    Attributes:
        kind: of the task.
        labels: in the order of the network's outputs.
        label_order: the rule behind that order.
        images: by split.
        patients: known patients, by split.
        classes: by split and label; in a multi-label study an image counts once for each finding.
        subgroups: by column and value; an empty value is ``(none)``. Columns that look identifying are left out.
        unreadable: see the type.
        blank: images whose pixels are all equal.
        copies: groups of exact duplicates.
        shared_patients: see the type.
        odd_sizes: see the type.
        other_colour: grey images among images in colour, or the other way round: the fewer of them.
        leakage: one sentence for each way in which two splits share something.
        errors: one sentence for each thing that must be mended before training.
        remarks: one sentence for each thing worth knowing.
        masks: of a segmentation study, what they show; ``classes`` counts the images that show each structure.
    """

    kind: TaskKind
    labels: tuple[str, ...]
    label_order: str
    images: dict[str, int]
    patients: dict[str, int]
    classes: dict[str, dict[str, int]]
    subgroups: dict[str, dict[str, int]]
    unreadable: tuple[Unreadable, ...]
    blank: tuple[str, ...]
    copies: tuple[Copies, ...]
    shared_patients: tuple[SharedPatient, ...]
    odd_sizes: tuple[OddSize, ...]
    other_colour: tuple[str, ...]
    leakage: tuple[str, ...]
    errors: tuple[str, ...]
    remarks: tuple[str, ...]
    masks: MaskCheck | None = None


class _Inspection(NamedTuple):
    """One image: size, whether it is blank, content hash, kind of colour, its mask; or why it cannot be read."""

    case: Case
    size: tuple[int, int] = (0, 0)
    is_blank: bool = False
    content: str = ""
    reason: str = ""
    colour: ColourKind | None = None
    mask: InspectedMask | None = None


def check_study(study: Study, *, progress: Callable[[str], None] | None = None) -> StudyCheck:
    """Read every image and look for what would spoil an experiment.

    Args:
        study: any; nothing is changed.
        progress: receives a line now and then.

    Returns:
        Findings. Whether leakage is acceptable is for the caller to say.
    """
    inspections = list(_inspections(study, progress))
    if study.kind == "segmentation":
        study = with_targets(study, [inspected.mask for inspected in inspections])
        cases = {case.image: case for case in study.cases}
        inspections = [inspected._replace(case=cases[inspected.case.image]) for inspected in inspections]
    readable = [inspected for inspected in inspections if not inspected.reason]
    unreadable = tuple(
        Unreadable(inspected.case.image, inspected.reason) for inspected in inspections if inspected.reason
    )
    copies = _copies(readable)
    splits, other_colour = _split_names(study), _other_colour(readable)
    dense = study.kind == "segmentation"
    masks = check_masks(study, [inspected.mask for inspected in inspections], splits) if dense else None
    return StudyCheck(
        kind=study.kind,
        labels=study.labels,
        label_order=describe_order(study),
        images={split: len(study.split(split)) for split in splits},
        patients={split: len({c.patient_key for c in study.split(split) if c.patient_key}) for split in splits},
        classes={split: class_sizes(study, split) for split in splits},
        subgroups=_subgroup_sizes(study),
        unreadable=unreadable,
        blank=tuple(inspected.case.image for inspected in readable if inspected.is_blank),
        copies=copies,
        shared_patients=_shared_patients(study),
        odd_sizes=_odd_sizes(readable),
        leakage=tuple(_leakage(study, readable)),
        errors=(*_errors(study, unreadable, copies), *(mask_errors(study, masks) if masks else ())),
        other_colour=other_colour,
        remarks=(
            *remarks_on(study),
            *_colour_remarks(readable, other_colour),
            *(mask_remarks(study, masks) if masks else ()),
        ),
        masks=masks,
    )


def _inspections(study: Study, progress: Callable[[str], None] | None) -> Iterator[_Inspection]:
    def inspect_case(case: Case) -> _Inspection:
        try:
            pixels = study.source.read(case.image)
            content = study.source.content_sha256(case.image)
        except MedfmError as exc:
            return _Inspection(case, reason=str(exc))
        height, width = (int(side) for side in pixels.shape[:2])
        is_blank = bool(pixels.values.min() == pixels.values.max())
        mask = inspect_mask(study, case, (height, width)) if study.kind == "segmentation" else None
        return _Inspection(case, (height, width), is_blank, content, colour=colour_kind(pixels), mask=mask)

    inspected = map_in_threads(inspect_case, study.cases, _WORKERS)
    yield from counted(inspected, "read images", len(study.cases), progress)


def _split_names(study: Study) -> list[str]:
    """Splits that have cases: train, val, test, then the others in the table's order."""
    present = dict.fromkeys(case.split for case in study.cases)
    return [name for name in LEARNED if name in present] + [name for name in present if name not in LEARNED]


def _subgroup_sizes(study: Study) -> dict[str, dict[str, int]]:
    sizes = {
        name: Counter(case.subgroups.get(name) or "(none)" for case in study.cases)
        for name in study.subgroup_names()
        if not identifying_reason(study, name)
    }
    return {name: dict(sorted(counts.items())) for name, counts in sizes.items()}


def _copies(inspections: list[_Inspection]) -> tuple[Copies, ...]:
    groups: dict[str, list[Case]] = defaultdict(list)
    for inspected in inspections:
        groups[inspected.content].append(inspected.case)
    return tuple(
        Copies(
            images=tuple(case.image for case in group),
            splits=tuple(dict.fromkeys(case.split for case in group)),
            contradict=len({case.target for case in group if case.target}) > 1,
        )
        for group in groups.values()
        if len(group) > 1
    )


def _shared_patients(study: Study) -> tuple[SharedPatient, ...]:
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    written: dict[str, str] = {}
    for case in study.cases:
        if case.patient_key and case.split in LEARNED:
            counts[case.patient_key][case.split] += 1
            written.setdefault(case.patient_key, case.patient)
    return tuple(SharedPatient(written[key], dict(splits)) for key, splits in counts.items() if len(splits) > 1)


def _odd_sizes(inspections: list[_Inspection]) -> tuple[OddSize, ...]:
    if not inspections:
        return ()
    side = median(min(inspected.size) for inspected in inspections)
    aspect = median(inspected.size[1] / inspected.size[0] for inspected in inspections)

    def is_odd(value: float, usual: float) -> bool:
        return not usual / _ODD_FACTOR <= value <= usual * _ODD_FACTOR

    odd = [
        inspected
        for inspected in inspections
        if is_odd(min(inspected.size), side) or is_odd(inspected.size[1] / inspected.size[0], aspect)
    ]
    return tuple(OddSize(inspected.case.image, *inspected.size) for inspected in odd)


def _leakage(study: Study, inspections: list[_Inspection]) -> Iterator[str]:
    """Sentences; test first, since a leaking test split is the worst."""
    contents = {inspected.case.image: inspected.content for inspected in inspections}
    for first, second in (("train", "test"), ("val", "test"), ("train", "val")):
        a, b = study.split(first), study.split(second)
        patients = {c.patient_key for c in a} & {c.patient_key for c in b} - {""}
        if patients:
            here, there = (sum(c.patient_key in patients for c in cases) for cases in (a, b))
            yield (
                f"{here} image(s) of {first} share a patient with {there} image(s) of {second} "
                f"({len(patients)} patient(s))"
            )
        same = {contents.get(c.image, "") for c in a} & {contents.get(c.image, "") for c in b} - {""}
        if same:
            here, there = (sum(contents.get(c.image) in same for c in cases) for cases in (a, b))
            yield f"{here} image(s) of {first} are exact copies of {there} image(s) of {second}"


def _errors(study: Study, unreadable: tuple[Unreadable, ...], copies: tuple[Copies, ...]) -> Iterator[str]:
    yield from what_cannot_be_learned(study)
    if unreadable:
        unread = [bad.image for bad in unreadable if bad.image.lower().endswith(UNREAD_SUFFIXES)]
        kinds = f" ({by_suffix(unread)}: convert them to PNG or DICOM)" if unread else ""
        yield f"{len(unreadable)} image(s) cannot be read{kinds}, first {unreadable[0].reason}"
    contradicting = [group for group in copies if group.contradict]
    if contradicting:
        first = " and ".join(contradicting[0].images[:2])
        yield f"{len(contradicting)} group(s) of exact copies have different labels, first {first}"


def _other_colour(inspections: list[_Inspection]) -> tuple[str, ...]:
    """The fewer of grey images and images in colour, where there are both; what is neither is left out."""
    colour = tuple(inspected.case.image for inspected in inspections if inspected.colour == "colour")
    grey = tuple(inspected.case.image for inspected in inspections if inspected.colour == "grey")
    return min(colour, grey, key=len)


def _colour_remarks(inspections: list[_Inspection], other: tuple[str, ...]) -> Iterator[str]:
    """Of what is often another device, a scan of a print, or no image of this study at all."""
    if other:
        kind = next(inspected.colour for inspected in inspections if inspected.case.image == other[0])
        what = "in colour among grey images" if kind == "colour" else "grey among images in colour"
        yield f"{len(other)} of {len(inspections)} images are {what}, first {other[0]}; see that they belong here"
