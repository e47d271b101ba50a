"""Read and write ``cases.csv``: image, split, label or ``label:NAME`` columns, mask, patient, then subgroups."""

from __future__ import annotations

import csv
import io
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from medfm_compress.data.labels import PREFIX, independent_targets, label_names, task_kind
from medfm_compress.data.sources import Files
from medfm_compress.data.study import Case, Study
from medfm_compress.runtime.errors import StudyError
from medfm_compress.runtime.files import write_atomically
from medfm_compress.runtime.image_spec import DicomRules
from medfm_compress.runtime.task import TaskKind

KNOWN = ("image", "split", "label", "mask", "patient")
VOLUMES = (".nii", ".nii.gz", ".nrrd", ".mha", ".mhd", ".npy")


def read_table(path: Path, rules: DicomRules) -> Study:
    """Open a csv; image paths are relative to its folder.

    Raises:
        StudyError: no such file, not UTF-8, a missing column, a short row, a duplicate or missing image, 3-D volumes.
    """
    rows = _rows(path)
    columns = tuple(rows[0])
    independent = [column for column in columns if column.startswith(PREFIX)]
    if independent and "label" in columns:
        raise StudyError(f"{path} has both 'label' and {independent[0]!r}; use one way of labelling")
    kind: TaskKind
    if independent:
        labels, kind = tuple(column.removeprefix(PREFIX) for column in independent), "multilabel"
    else:
        labels = label_names(row.get("label", "").strip() for row in rows)
        kind = task_kind(labels, str(path)) if labels else "binary"
    cases = tuple(_case(row, labels, independent, str(path)) for row in rows)
    study = Study(root=path, kind=kind, labels=labels, cases=cases, source=Files(path.parent, rules))
    _check_images(study, path)
    check_classes(study)
    return study


def write_table(study: Study, path: Path) -> None:
    """Write a csv whose image paths are relative to its own folder; atomic."""
    subgroups = study.subgroup_names()
    exclusive = study.kind != "multilabel"
    labels = ["label"] if exclusive else [PREFIX + name for name in study.labels]
    root = study.root if study.root.is_dir() else study.root.parent
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["image", "split", *labels, "mask", "patient", *subgroups])
    for case in study.cases:
        targets = _label_cells(case, study.labels, exclusive, len(labels))
        image, mask = (_relative(root, name, path.parent) for name in (case.image, case.mask))
        tail = [case.subgroups.get(name, "") for name in subgroups]
        writer.writerow([image, case.split, *targets, mask, case.patient, *tail])
    write_atomically(path, text.getvalue().encode())


def check_classes(study: Study) -> None:
    """Every class that val or test holds must stand in train.

    Raises:
        StudyError: a class in val or test that train lacks.
    """
    train = {value for case in study.split("train") for value in case.target}
    if not train or study.kind == "multilabel":
        return
    for split in ("val", "test"):
        for value in sorted({v for case in study.split(split) for v in case.target} - train):
            raise StudyError(
                f"{study.root}: label {study.labels[value]!r} stands in split {split!r} but not in 'train'; "
                "add training images of it or remove it"
            )


def _rows(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        raise StudyError(f"study {path} does not exist; give a folder with cases.csv, a csv or an .npz")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            rows = list(reader)
            columns = reader.fieldnames or []
    except UnicodeDecodeError:
        raise StudyError(f"{path} is not UTF-8; save it as 'CSV UTF-8'") from None
    except csv.Error as exc:
        raise StudyError(f"{path} is not a readable csv: {exc}") from None
    for name in ("image", "split"):
        if name not in columns:
            raise StudyError(f"{path} has no column {name!r}; it has {', '.join(columns) or 'none'}")
    if not rows:
        raise StudyError(f"{path} lists no images; write one row an image")
    for number, row in enumerate(rows, start=2):
        if None in row or None in row.values():
            raise StudyError(f"{path} line {number} has another number of cells than the header")
    return rows


def _case(row: dict[str, str], labels: Sequence[str], independent: Sequence[str], source: str) -> Case:
    label = row.get("label", "").strip()
    target = (labels.index(label),) if label else ()
    return Case(
        image=row["image"].strip(),
        split=row["split"].strip(),
        target=independent_targets(row, independent, source) if independent else target,
        patient=row.get("patient", "").strip(),
        mask=row.get("mask", "").strip(),
        subgroups={k: v.strip() for k, v in row.items() if k not in KNOWN and not k.startswith(PREFIX) and k.strip()},
    )


def _check_images(study: Study, path: Path) -> None:
    name, count = Counter(case.image for case in study.cases).most_common(1)[0]
    if count > 1:
        raise StudyError(f"{path} lists {name!r} {count} times; keep one row an image")
    for case in study.cases:
        if case.image.lower().endswith(VOLUMES):
            raise StudyError(f"{path}: {case.image!r} is a 3-D volume, which is out of scope; give 2-D images")
        if not case.image or not (path.parent / case.image).is_file():
            raise StudyError(f"{path}: image {case.image!r} does not exist below {path.parent}")


def _label_cells(case: Case, labels: Sequence[str], exclusive: bool, width: int) -> list[str]:
    if not case.target:
        return [""] * width
    return [labels[case.target[0]]] if exclusive else [str(value) for value in case.target]


def _relative(root: Path, name: str, folder: Path) -> str:
    return os.path.relpath(root.resolve() / name, folder.resolve()) if name else ""
