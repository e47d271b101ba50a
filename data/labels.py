"""From label columns to a task: which kind, which names, in which order.

Exclusive labels stand in one column ``label``; two values make a binary task, more a multi-class one. Names that
usually mean *nothing found* come first, in the order of ``NEGATIVE_NAMES``, then ``no X`` and what says that another
label is not there (``non-X`` beside ``X``, ``X-`` beside ``X+``), then all others alphabetically; a binary task's
finding is its second label. Labels that are all whole numbers are ordered as numbers. Independent findings stand in
columns ``label:NAME`` of 0 and 1, in the table's order: a multi-label task.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from pathlib import Path

from msgspec.structs import replace

from medfm_compress.data.missing_values import is_no_label, is_stand_in
from medfm_compress.data.opposites import NEGATIVE_NAMES, mixed_answers, negations, plain_name
from medfm_compress.data.study import Case, ImageSource, Study
from medfm_compress.data.written_forms import normal_form
from medfm_compress.runtime.errors import StudyError
from medfm_compress.runtime.task import TaskKind
from medfm_compress.runtime.written_numbers import is_number

PREFIX = "label:"
LEARNED = ("train", "val", "test")


def label_names(values: Iterable[str]) -> tuple[str, ...]:
    """Distinct labels in the order of the network's outputs; see the top of the module."""
    distinct = {value for value in values if value}
    if all(name.isdecimal() for name in distinct):
        return tuple(sorted(distinct, key=lambda name: (int(name), name)))
    negating = negations(distinct)
    return tuple(sorted(distinct, key=lambda name: (_rank(name, negating), name)))


def describe_order(study: Study) -> str:
    """The rule that put the labels in their order, in words."""
    labels = study.labels
    if study.kind == "segmentation":
        return "in the order of their values in a mask, from 1"
    if study.kind == "anomaly":
        return f"whatever is not {' or '.join(map(repr, study.normal))}"
    if study.independent:
        return "in the order of the label columns"
    if all(label.isdecimal() for label in labels):
        rule = "as numbers"
    elif labels and _rank(labels[0], ()) <= len(NEGATIVE_NAMES):
        rule = f"{labels[0]!r} first, a usual name for nothing found"
    elif labels and (other := negations(labels).get(labels[0])):
        rule = f"{labels[0]!r} first, which says that there is no {other!r}"
    else:
        rule = "alphabetical"
    return f"{rule}; the finding is {labels[1]!r}" if study.kind == "binary" and labels else rule


def exclusive_study(root: Path, source: ImageSource, cases: Sequence[Case], names: Sequence[str]) -> Study:
    """A study of at most one label a case.

    Args:
        root: what the study was opened from.
        source: decodes the images.
        cases: without targets.
        names: label of each case, empty where it has none; as long as ``cases``.

    Raises:
        StudyError: a single label, a label that is a word for no value, or a number for none beside words, labels that
            differ only in writing or say yes and no in several ways, a case of train, val or test without label, or a
            class that train lacks.
    """
    check_label_names(root, cases, names)
    labels = label_names(names)
    if len(labels) == 1:
        raise StudyError(f"{root.name}: every label is {labels[0]!r}; at least two different labels are needed")
    index = {name: (number,) for number, name in enumerate(labels)}
    done = tuple(replace(case, target=index.get(name, ())) for case, name in zip(cases, names, strict=True))
    kind: TaskKind = "multiclass" if len(labels) > 2 else "binary"
    study = Study(
        root=root, kind=kind, labels=labels, cases=done, source=source, remarks=_stand_in_remarks(labels, names)
    )
    check_classes(study)
    return study


def check_label_names(root: Path, cases: Sequence[Case], names: Sequence[str]) -> None:
    """Refuse labels that are words or numbers for no value, two that differ only in writing, and mixed yes and no.

    Raises:
        StudyError: naming the first.
    """
    check_names(names, f"{root.name}: the labels", _missing_labels(cases, names))
    if (word := _stand_in_beside_words(label_names(names))) is not None:
        raise StudyError(
            f"{root.name}: the label {word!r} ({names.count(word)} cases) stands beside words, like a number for a "
            "missing value; leave the label empty in split 'unlabelled', or give the class another name"
        )
    if ways := mixed_answers(label_names(names)):
        counted = " and ".join(", ".join(f"{word!r} ({names.count(word)} cases)" for word in way) for way in ways)
        raise StudyError(
            f"{root.name}: the labels say yes and no in {len(ways)} ways, {counted}; write them in one, such as 1 and "
            "0, or give classes that mean something else other names"
        )


def _stand_in_beside_words(labels: Sequence[str]) -> str | None:
    """A label such as ``-1`` or ``9999`` among labels that are not all numbers."""
    if all(map(is_number, labels)):
        return None
    return next(filter(is_stand_in, labels), None)


def _stand_in_remarks(labels: Sequence[str], names: Sequence[str]) -> tuple[str, ...]:
    """Of ``-1`` or ``9999`` among three numbers or more, unless they count up to it."""
    if len(labels) < 3 or (all(label.isdecimal() for label in labels) and int(labels[-1]) < 2 * len(labels)):
        return ()
    return tuple(
        f"the label {label!r} ({names.count(label)} images) is a class of its own; where it stands for a missing "
        "value, leave the label empty in split 'unlabelled'"
        for label in filter(is_stand_in, labels)
    )


def check_names(names: Iterable[str], what: str, example: str = "") -> None:
    """Refuse names of classes that are words for no value, and two that differ only in writing.

    Args:
        names: of all classes; empty ones are passed over.
        what: they are, as the message begins: ``cases.csv: the labels``.
        example: said behind a word for no value, e.g. where it stands.

    Raises:
        StudyError: naming the first word, or the first two names.
    """
    seen: dict[str, str] = {}
    for name in filter(None, dict.fromkeys(names)):
        if is_no_label(name):
            raise StudyError(
                f"{what} include {name!r}{example}, which reads like a missing value; leave the label empty in split "
                "'unlabelled', or give the class another name"
            )
        other = seen.setdefault(normal_form(name.replace("_", " ")), name)
        if other != name:
            raise StudyError(
                f"{what} {other!r} and {name!r} differ only in case, spaces or the form of a character or number; "
                "write them alike"
            )


def _missing_labels(cases: Sequence[Case], names: Sequence[str]) -> str:
    """How many labels are words for no value, and the first image that has one."""
    images = [case.image for case, name in zip(cases, names, strict=True) if name and is_no_label(name)]
    return f" ({len(images)} cases, first {images[0]!r})" if images else ""


def independent_targets(row: Mapping[str, str], columns: Sequence[str], source: str) -> tuple[int, ...]:
    """0/1 of the ``label:NAME`` columns; empty where all of them are empty.

    Raises:
        StudyError: a value other than 0 and 1, unless all are empty.
    """
    cells = {column: row[column] for column in columns}
    if not any(cells.values()):
        return ()
    for column, value in cells.items():
        if value not in ("0", "1"):
            raise StudyError(
                f"{source}: column {column!r} of {row['image']!r} is {value!r}; it must be 0 or 1, or all label "
                "columns of the row empty"
            )
    return tuple(int(value) for value in cells.values())


def check_classes(study: Study) -> None:
    """Refuse labels that a model could not be trained or tested on.

    Raises:
        StudyError: a case of train, val or test has no label although others have one, or a class of val or test does
            not occur in train (a study without train cases is for testing only, and passes).
    """
    if not study.labels:
        return
    bare = [case.image for case in study.cases if case.split in LEARNED and not case.target]
    if bare:
        raise StudyError(
            f"{study.root.name}: {len(bare)} cases of train, val or test have no label, first {bare[0]!r}; label them "
            "or set their split to 'unlabelled'"
        )
    if study.kind == "anomaly":  # what is not normal is never learned
        return
    trained = class_counts(study, "train")
    for split in ("val", "test") if study.split("train") else ():
        lacking = [label for label in class_counts(study, split) if label not in trained]
        if lacking:
            raise StudyError(
                f"{study.root.name}: class {lacking[0]!r} occurs in {split}, but train has no case of it; add some to "
                f"train or take them out of {split}"
            )


def class_counts(study: Study, split: str) -> Counter[str]:
    """Cases a label in one split; in a multi-label study a case counts once for each of its findings."""
    return Counter(name for case in study.split(split) for name in names_of(study, case))


def names_of(study: Study, case: Case) -> tuple[str, ...]:
    """Names behind a target: one, or in a multi-label study every finding that is 1."""
    if study.independent:
        return tuple(label for label, value in zip(study.labels, case.target, strict=False) if value)
    return tuple(study.labels[value] for value in case.target)


def _rank(name: str, negating: Container[str]) -> int:
    plain = plain_name(name)
    if plain in NEGATIVE_NAMES:
        return NEGATIVE_NAMES.index(plain)
    return len(NEGATIVE_NAMES) + (not plain.startswith("no ") and name not in negating)
