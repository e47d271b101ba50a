"""An anomaly study: its labels are divided into normal ones and all others, which are one finding, ``abnormal``.

Only normal cases of train are ever learned from, and thresholds are chosen on normal cases of val; what is not normal
is needed for testing alone. A class may therefore stand in test and nowhere else, and there may be a single label. The
label of a case is kept as its subgroup ``label``, so that a metric can be told for each kind of abnormality.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from msgspec.structs import replace

from medfm_compress.data.labels import LEARNED, check_classes, check_label_names, exclusive_study, label_names
from medfm_compress.data.study import Case, ImageSource, Study
from medfm_compress.runtime.errors import StudyError

ABNORMAL = "abnormal"
"""The one finding of an anomaly study."""
LABEL = "label"
"""The subgroup that keeps a case's own label."""


def labelled_study(
    root: Path, source: ImageSource, cases: Sequence[Case], names: Sequence[str], normal: tuple[str, ...] = ()
) -> Study:
    """A study of at most one label a case; of anomalies, where normal labels are named.

    Args:
        root: what the study was opened from.
        source: decodes the images.
        cases: without targets.
        names: label of each case, empty where it has none; as long as ``cases``.
        normal: labels that are normal; empty makes a study for classification.

    Raises:
        StudyError: see `exclusive_study`; of anomalies a normal label that no case has, or that no case of train has.
    """
    if not normal:
        return exclusive_study(root, source, cases, names)
    check_label_names(root, cases, names)
    _check_normal(root, normal, label_names(names))
    done = tuple(_divided(case, name, normal) for case, name in zip(cases, names, strict=True))
    study = Study(root=root, kind="anomaly", labels=(ABNORMAL,), cases=done, source=source, normal=normal)
    check_classes(study)
    _check_train(study)
    return replace(study, remarks=tuple(_remarks(study)))


def refuse_normal(root: Path, normal: tuple[str, ...]) -> None:
    """Raises StudyError where normal labels are named of a study without one column of labels."""
    if normal:
        raise StudyError(
            f"{root.name} has no column 'label' that the normal labels {', '.join(normal)} could stand in; an anomaly "
            "study has one label a case"
        )


def is_normal(case: Case) -> bool:
    """Whether a case of an anomaly study is known to be normal."""
    return case.target == (0,)


def normal_cases(study: Study, split: str) -> tuple[Case, ...]:
    """The normal cases of one split, in the table's order."""
    return tuple(case for case in study.split(split) if is_normal(case))


def without_abnormal(study: Study, split: str) -> tuple[Case, ...]:
    """The cases of one split, in the table's order, but those that are known to be abnormal."""
    cases = study.split(split)
    return tuple(case for case in cases if not case.target or is_normal(case)) if study.normal else cases


def _divided(case: Case, name: str, normal: tuple[str, ...]) -> Case:
    target = (int(name not in normal),) if name else ()
    return replace(case, target=target, subgroups=case.subgroups | {LABEL: name})


def _check_normal(root: Path, normal: tuple[str, ...], labels: tuple[str, ...]) -> None:
    if len(set(normal)) != len(normal):
        raise StudyError(f"the normal labels are {', '.join(map(repr, normal))}; name each of them once")
    unknown = [name for name in normal if name not in labels]
    if unknown:
        there = ", ".join(map(repr, labels)) or "none"
        raise StudyError(f"{root.name} has no label {unknown[0]!r} that could be normal; its labels are {there}")


def _check_train(study: Study) -> None:
    """A study without train cases is for testing only, and passes."""
    if study.split("train") and not normal_cases(study, "train"):
        counts = Counter(case.subgroups[LABEL] for case in study.split("train"))
        there = ", ".join(f"{count} {name!r}" for name, count in sorted(counts.items()))
        raise StudyError(
            f"{study.root.name}: train has no normal case ({there}), and an anomaly model learns from nothing else; "
            f"put cases of {', '.join(map(repr, study.normal))} into train"
        )


def _remarks(study: Study) -> Iterator[str]:
    labelled = {split: [case for case in study.split(split) if case.target] for split in LEARNED}
    others = {split: sum(not is_normal(case) for case in cases) for split, cases in labelled.items()}
    for split in ("train", "val"):
        if others[split]:
            yield (
                f"{others[split]} of {len(labelled[split])} cases of {split} are not normal; nothing is learned or "
                "decided from them"
            )
    if labelled["test"] and not others["test"]:
        yield "no case of test is abnormal: how often a normal one raises a false alarm can be told, and no more"
    elif labelled["test"] and others["test"] == len(labelled["test"]):
        yield "no case of test is normal: neither AUROC nor the false-alarm rate can be told"
