"""`check_study`: what stands in a study, and what would spoil an experiment on it.

Leakage is a patient, or an exact copy of an image, in more than one of train, val and test: the test score then
measures memory. Files are read and hashed once; two images are copies where their stored bytes are equal.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from statistics import median
from typing import NamedTuple

import msgspec

from medfm_compress.data.identifiers import identifying
from medfm_compress.data.labels import LEARNED, class_counts, describe_order
from medfm_compress.data.patient_keys import similar_keys
from medfm_compress.data.study import Case, Study
from medfm_compress.runtime.errors import MedfmError
from medfm_compress.runtime.progress import counted
from medfm_compress.runtime.task import TaskKind
from medfm_compress.runtime.threads import map_in_threads

_WORKERS = 2
_FEW_CASES = 50
_FEW_PER_CLASS = 10
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
    """A patient in more than one of train, val, test: images in each."""

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
        leakage: one sentence for each way in which two splits share something.
        errors: one sentence for each thing that must be mended before training.
        remarks: one sentence for each thing worth knowing.
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
    leakage: tuple[str, ...]
    errors: tuple[str, ...]
    remarks: tuple[str, ...]


class _Inspection(NamedTuple):
    """One image: size, whether it is blank, content hash; or why it cannot be read."""

    case: Case
    size: tuple[int, int] = (0, 0)
    is_blank: bool = False
    content: str = ""
    reason: str = ""


def check_study(study: Study, *, progress: Callable[[str], None] | None = None) -> StudyCheck:
    """Read every image and look for what would spoil an experiment.

    Args:
        study: any; nothing is changed.
        progress: receives a line now and then.

    Returns:
        Findings. Whether leakage is acceptable is for the caller to say.
    """
    inspections = list(_inspections(study, progress))
    readable = [inspected for inspected in inspections if not inspected.reason]
    unreadable = tuple(
        Unreadable(inspected.case.image, inspected.reason) for inspected in inspections if inspected.reason
    )
    copies = _copies(readable)
    splits = _split_names(study)
    return StudyCheck(
        kind=study.kind,
        labels=study.labels,
        label_order=describe_order(study),
        images={split: len(study.split(split)) for split in splits},
        patients={split: len({c.patient for c in study.split(split) if c.patient}) for split in splits},
        classes={split: _class_sizes(study, split) for split in splits},
        subgroups=_subgroup_sizes(study),
        unreadable=unreadable,
        blank=tuple(inspected.case.image for inspected in readable if inspected.is_blank),
        copies=copies,
        shared_patients=_shared_patients(study),
        odd_sizes=_odd_sizes(readable),
        leakage=tuple(_leakage(study, readable)),
        errors=tuple(_errors(study, unreadable, copies)),
        remarks=tuple(_remarks(study)),
    )


def _inspections(study: Study, progress: Callable[[str], None] | None) -> Iterator[_Inspection]:
    def inspect_case(case: Case) -> _Inspection:
        try:
            values = study.source.read(case.image).values
            content = study.source.content_sha256(case.image)
        except MedfmError as exc:
            return _Inspection(case, reason=str(exc))
        height, width = values.shape[:2]
        return _Inspection(case, (int(height), int(width)), bool(values.min() == values.max()), content)

    inspected = map_in_threads(inspect_case, study.cases, _WORKERS)
    yield from counted(inspected, "read images", len(study.cases), progress)


def _split_names(study: Study) -> list[str]:
    """Splits that have cases: train, val, test, then the others in the table's order."""
    present = dict.fromkeys(case.split for case in study.cases)
    return [name for name in LEARNED if name in present] + [name for name in present if name not in LEARNED]


def _class_sizes(study: Study, split: str) -> dict[str, int]:
    counts = class_counts(study, split)
    return {label: counts[label] for label in study.labels}


def _subgroup_sizes(study: Study) -> dict[str, dict[str, int]]:
    sizes = {
        name: Counter(case.subgroups.get(name) or "(none)" for case in study.cases)
        for name in study.subgroup_names()
        if not _identifying(study, name)
    }
    return {name: dict(sorted(counts.items())) for name, counts in sizes.items()}


def _identifying(study: Study, column: str) -> str:
    return identifying(column, [case.subgroups.get(column, "") for case in study.cases])


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
    for case in study.cases:
        if case.patient and case.split in LEARNED:
            counts[case.patient][case.split] += 1
    return tuple(SharedPatient(patient, dict(splits)) for patient, splits in counts.items() if len(splits) > 1)


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
        patients = {c.patient for c in a if c.patient} & {c.patient for c in b if c.patient}
        if patients:
            here, there = (sum(c.patient in patients for c in cases) for cases in (a, b))
            yield (
                f"{here} image(s) of {first} share a patient with {there} image(s) of {second} "
                f"({len(patients)} patient(s))"
            )
        same = {contents.get(c.image, "") for c in a} & {contents.get(c.image, "") for c in b} - {""}
        if same:
            here, there = (sum(contents.get(c.image) in same for c in cases) for cases in (a, b))
            yield f"{here} image(s) of {first} are exact copies of {there} image(s) of {second}"


def _similar_patients(study: Study) -> Iterator[str]:
    """Patient keys that may be one patient's, in a sentence of its own where splits share them."""
    groups = similar_keys(case.patient for case in study.cases)
    if not groups:
        return
    splits: dict[str, set[str]] = defaultdict(set)
    for case in study.cases:
        splits[case.patient].add(case.split)
    across = [group for group in groups if len(set.union(*(splits[key] for key in group)) & set(LEARNED)) > 1]
    shown = "; ".join(" and ".join(map(repr, group)) for group in (across or groups)[:3])
    where = f", {len(across)} of them in several splits, which would be leakage" if across else ""
    yield (
        f"{len(groups)} groups of patient keys differ in case, separators or zeros alone{where}: {shown}; they count "
        "as different patients, so write one patient's key in one way"
    )


def _errors(study: Study, unreadable: tuple[Unreadable, ...], copies: tuple[Copies, ...]) -> Iterator[str]:
    untrained = [label for label, count in _class_sizes(study, "train").items() if not count]
    if untrained and study.split("train"):
        yield f"train has no case of {', '.join(map(repr, untrained))}, which can therefore not be learned"
    if unreadable:
        yield f"{len(unreadable)} image(s) cannot be read, first {unreadable[0].reason}"
    contradicting = [group for group in copies if group.contradict]
    if contradicting:
        first = " and ".join(contradicting[0].images[:2])
        yield f"{len(contradicting)} group(s) of exact copies have different labels, first {first}"


def _remarks(study: Study) -> Iterator[str]:
    suspects = {name: reason for name in study.subgroup_names() if (reason := _identifying(study, name))}
    if suspects:
        named = "; ".join(f"{name!r} ({reason})" for name, reason in suspects.items())
        yield (
            f"may identify patients: {named}. 'study split' copies such columns into its table; no model, bundle or "
            "report holds them, unless a policy divides patients by them"
        )
    if not study.labels:
        yield "no labels: nothing can be trained or evaluated on this study"
    if not any(case.patient for case in study.cases):
        yield "no patient column: each image counts as a patient of its own, and shared patients cannot be noticed"
    yield from (
        f"no {split} cases; cut them with 'medfm-compress study split'"
        for split in LEARNED
        if study.labels and not study.split(split)
    )
    yield from _similar_patients(study)
    unrecorded = {name: sum(not case.subgroups.get(name) for case in study.cases) for name in study.subgroup_names()}
    partly = [f"{name!r} of {count} cases" for name, count in unrecorded.items() if 0 < count < len(study.cases)]
    if partly:
        yield (
            f"not recorded: {', '.join(partly)} (empty, or a word such as nan or None, or no possible age); they are "
            "in no group"
        )
    for split in ("val", "test"):
        cases, sizes = study.split(split), _class_sizes(study, split)
        if not cases or not study.labels:
            continue
        if len(cases) < _FEW_CASES or min(sizes.values()) < _FEW_PER_CLASS:
            smallest = min(sizes, key=lambda label: sizes[label])
            yield (
                f"{split} has {len(cases)} images and {sizes[smallest]} of {smallest!r}: too few to choose or to prove "
                "anything; cut a larger one with 'medfm-compress study split'"
            )
