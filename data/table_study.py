"""A table becomes a study: columns image, split, label (or label:NAME …), mask, patient, and subgroups."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from msgspec.structs import replace

from medfm_compress.data.dicom_header import Header, decade, is_dicom_file, read_header, with_issuers
from medfm_compress.data.labels import LEARNED, PREFIX, check_classes, exclusive_study, independent_targets
from medfm_compress.data.missing_values import is_missing
from medfm_compress.data.patient_keys import patient_key
from medfm_compress.data.sources import ARCHIVE_MARK, Arrays, Files
from medfm_compress.data.study import Case, ImageSource, Study
from medfm_compress.data.table import Table, read_table, require_columns
from medfm_compress.data.volumes import refuse_series, refuse_volume_files
from medfm_compress.runtime.errors import StudyError
from medfm_compress.runtime.image_spec import DicomRules

_RESERVED = ("image", "split", "label", "mask", "patient")
_RASTER_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
_MISSPELT = {"training": "train", "valid": "val", "validation": "val", "dev": "val", "testing": "test"}
_SERIES_SAMPLE = 64
_OLDEST = 125

_log = logging.getLogger(__name__)


def open_table(path: Path, rules: DicomRules) -> Study:
    """Open a CSV file; see `medfm_compress.data.open` for the columns.

    Raises:
        StudyError: anything about the table or its files that stands in the way, in one sentence.
    """
    table = read_table(path)
    require_columns(table, ("image", "split"))
    _check_label_columns(table)
    _check_splits(table)
    images = [row["image"] for row in table.rows]
    _check_images(table, images)
    source, keys = _source(table, images, rules)
    if isinstance(source, Files):
        _check_files(table, source.root, images)
    _check_files(table, path.parent, [row.get("mask", "") for row in table.rows])
    headers = _headers(table, source, keys)
    cases = [_case(row, key, headers.get(key, Header())) for row, key in zip(table.rows, keys, strict=True)]
    cases = _with_age_decades(cases)
    if table.findings:
        return _multilabel_study(table, source, cases)
    return exclusive_study(path, source, cases, [row.get("label", "") for row in table.rows])


def _case(row: Mapping[str, str], key: str, header: Header) -> Case:
    subgroups = {
        name: "" if is_missing(value) else value
        for name, value in row.items()
        if name not in _RESERVED and not name.startswith(PREFIX)
    }
    for name, value in (("sex", header.sex), ("age", header.age)):
        if value:
            subgroups.setdefault(name, value)
    return Case(
        image=key,
        split=row["split"],
        patient=_patient(row) or header.patient,
        mask=row.get("mask", ""),
        subgroups=subgroups,
    )


def _patient(row: Mapping[str, str]) -> str:
    text = row.get("patient", "")
    return "" if is_missing(text) else patient_key(text)


def _multilabel_study(table: Table, source: ImageSource, cases: Sequence[Case]) -> Study:
    targets = [independent_targets(row, table.label_columns, table.path.name) for row in table.rows]
    done = tuple(replace(case, target=target) for case, target in zip(cases, targets, strict=True))
    study = Study(root=table.path, kind="multilabel", labels=table.findings, cases=done, source=source)
    check_classes(study)
    return study


def _check_label_columns(table: Table) -> None:
    if table.findings:
        if "label" in table.columns:
            raise StudyError(f"{table.path.name} has both 'label' and '{PREFIX}…' columns; keep one kind")
        if not all(table.findings):
            raise StudyError(f"{table.path.name} has a column '{PREFIX}' without a finding; write 'label:NAME'")
        return
    labelled = any(row["split"] in LEARNED for row in table.rows)
    if labelled and "mask" not in table.columns:
        require_columns(table, ("label",))


def _check_splits(table: Table) -> None:
    for row in table.rows:
        split = row["split"]
        meant = _MISSPELT.get(split.lower(), split.lower())
        if not split or (meant in LEARNED and meant != split):
            raise StudyError(
                f"{table.path.name}: split of {row['image']!r} is {split!r}; write {meant or 'train, val or test'}"
                " (any other name is kept and never trained on)"
            )


def _check_images(table: Table, images: Sequence[str]) -> None:
    refuse_volume_files(images)
    seen: set[str] = set()
    for number, image in enumerate(images):
        plain = os.path.normpath(image) if image else ""
        if not plain:
            raise StudyError(f"{table.path.name}: row {number + 1} has no image; give its path")
        if plain in seen:
            raise StudyError(f"{table.path.name} lists the image {image!r} twice; keep one row an image")
        seen.add(plain)


def _check_files(table: Table, folder: Path, names: Sequence[str]) -> None:
    missing = [name for name in names if name and not (folder / name).is_file()]
    if missing:
        raise StudyError(
            f"{table.path.name}: {len(missing)} of {len(names)} files do not exist, first {missing[0]!r}; paths are "
            f"relative to {folder}"
        )
    outside = sum(Path(name).is_absolute() or ".." in Path(name).parts for name in names)
    if outside:
        _log.info("%s lists %d files by absolute paths or outside its own folder", table.path.name, outside)


def _source(table: Table, images: Sequence[str], rules: DicomRules) -> tuple[ImageSource, list[str]]:
    """Files, or one ``.npz`` that every row names as ``<archive>.npz#<key>``; and the key of each row in it."""
    archives = {image.partition(ARCHIVE_MARK)[0] for image in images if ARCHIVE_MARK in image}
    if not archives:
        return Files(table.path.parent, rules), list(images)
    if len(archives) > 1 or not all(ARCHIVE_MARK in image for image in images):
        raise StudyError(f"{table.path.name} mixes several image archives or archives and files; use one .npz or files")
    archive = table.path.parent / (archives.pop() + ARCHIVE_MARK[:-1])
    if not archive.is_file():
        raise StudyError(f"{table.path.name}: the archive {archive} does not exist; correct its path")
    return Arrays(archive), [image.partition(ARCHIVE_MARK)[2] for image in images]


def _headers(table: Table, source: ImageSource, images: Sequence[str]) -> dict[str, Header]:
    """Headers of DICOM files: of all where the table names no patient, else of enough to notice a 3-D series."""
    if not isinstance(source, Files):
        return {}
    files = [image for image in sorted(images) if not image.lower().endswith(_RASTER_SUFFIXES)]
    complete = "patient" in table.columns
    files = [image for image in files[: _SERIES_SAMPLE if complete else None] if is_dicom_file(source.root / image)]
    headers = {image: read_header(source.root / image) for image in files}
    refuse_series(headers.values())
    return {} if complete else with_issuers(headers)


def _with_age_decades(cases: Sequence[Case]) -> list[Case]:
    """Subgroups are groups: a column ``age`` of plain numbers (years) is read as decades, and 411 or -1 as none."""
    ages = [case.subgroups.get("age", "") for case in cases]
    return [
        replace(case, subgroups={**case.subgroups, "age": _decade(age)}) if "age" in case.subgroups else case
        for case, age in zip(cases, ages, strict=True)
    ]


def _decade(text: str) -> str:
    try:
        years = float(text)
    except ValueError:
        return text
    return decade(years) if 0 <= years <= _OLDEST else ""
