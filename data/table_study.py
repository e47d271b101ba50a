"""A table becomes a study: columns image, split, label (or label:NAME …), mask, patient, and subgroups."""

from __future__ import annotations

import difflib
import logging
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from msgspec.structs import replace

from medfm_compress.data.dicom_header import Header, is_dicom_file, read_header
from medfm_compress.data.dicom_patients import patients_of
from medfm_compress.data.identifiers import is_patient_key
from medfm_compress.data.labels import LEARNED, PREFIX, check_classes, check_names, independent_targets
from medfm_compress.data.masks import drawn_map, presence
from medfm_compress.data.missing_values import is_missing
from medfm_compress.data.normal_labels import labelled_study, refuse_normal
from medfm_compress.data.recorded_groups import recorded, unrecorded_remarks
from medfm_compress.data.sources import ARCHIVE_MARK, Arrays, Files
from medfm_compress.data.study import Case, ImageSource, Study
from medfm_compress.data.table import MASK_PREFIX, Table, read_table, require_columns
from medfm_compress.data.volumes import refuse_series, refuse_volume_files
from medfm_compress.runtime.errors import StudyError
from medfm_compress.runtime.image_spec import DicomRules
from medfm_compress.runtime.task import MOST_STRUCTURES
from medfm_compress.runtime.threads import map_in_threads

_RESERVED = ("image", "split", "label", "mask", "patient")
_RASTER_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
_MISSPELT = {"training": "train", "valid": "val", "validation": "val", "dev": "val", "testing": "test"}
_SERIES_SAMPLE = 64
_WORKERS = 2
_NEAR = 0.8  # of difflib: one letter too many or too few, or another one in its place

_log = logging.getLogger(__name__)


def open_table(
    path: Path,
    rules: DicomRules,
    structures: tuple[str, ...] = (),
    normal: tuple[str, ...] = (),
    *,
    read_masks: bool = True,
) -> Study:
    """Open a CSV file; see `medfm_compress.data.open` for the columns and the other arguments.

    Raises:
        StudyError: anything about the table or its files that stands in the way, in one sentence.
    """
    table = read_table(path)
    require_columns(table, ("image", "split"))
    _check_prefixes(table)
    structures = () if normal else _structures(table, structures)
    if not structures:
        _check_label_columns(table)
    _check_patients(table)
    _check_splits(table)
    images = [row["image"] for row in table.rows]
    _check_images(table, images)
    source, keys = _source(table, images, rules)
    if isinstance(source, Files):
        _check_files(table, source.root, images)
    mask_columns = table.mask_columns
    _check_files(table, path.parent, [row[name] for row in table.rows for name in mask_columns])
    headers = _headers(table, source, keys)
    patients = patients_of(headers)
    cases = [
        _case(row, key, mask_columns, headers.get(key, Header()), patients.keys.get(key, ""))
        for row, key in zip(table.rows, keys, strict=True)
    ]
    if structures:
        cases = [_with_labels(case, row) for case, row in zip(cases, table.rows, strict=True)]
        study = _drawn(table, source, cases, structures)
        study = with_presence(study) if read_masks else study
    else:
        study = replace(_labelled(table, source, cases, normal), mask_columns=mask_columns)
    columns = [name for name in table.columns if name == "patient" or _is_group(name)]
    return replace(study, remarks=(*study.remarks, *patients.remarks, *unrecorded_remarks(table.rows, columns)))


def _case(row: Mapping[str, str], key: str, mask_columns: Sequence[str], header: Header, patient: str) -> Case:
    masks = tuple(row[name] for name in mask_columns)
    subgroups = {name: recorded(name, value) for name, value in row.items() if _is_group(name)}
    kept = {name: row[name] for name, group in subgroups.items() if group != row[name] and not is_missing(row[name])}
    for name, value in (("sex", header.sex), ("age", header.age)):
        if value:
            subgroups.setdefault(name, value)
    written = row.get("patient", "")
    return Case(
        image=key,
        split=row["split"],
        patient=patient if is_missing(written) else written,
        masks=masks if any(masks) else (),
        subgroups=subgroups,
        written=kept,
    )


def _is_group(column: str) -> bool:
    return column not in _RESERVED and not column.startswith((PREFIX, MASK_PREFIX))


def _check_prefixes(table: Table) -> None:
    """Refuse a column ``masks:x``, ``Label:x`` or ``Mask``, which would silently be one more group of cases.

    Raises:
        StudyError: naming the column and what it probably means.
    """
    prefixes = (MASK_PREFIX.removesuffix(":"), PREFIX.removesuffix(":"))
    for column in table.columns:
        written, colon, name = column.partition(":")
        plain = column.lower().removesuffix("s")
        if (
            plain in prefixes
            and plain != column
            and not any(other.partition(":")[0] == plain for other in table.columns)
        ):
            raise StudyError(
                f"{table.path.name} has a column {column!r} and none {plain!r}; write {plain!r} if it is that, else "
                "give the column another name"
            )
        near = difflib.get_close_matches(written.strip().lower(), prefixes, 1, _NEAR) if colon else []
        if near and written != near[0]:
            raise StudyError(
                f"{table.path.name} has a column {column!r}; write '{near[0]}:{name.strip()}' if it is that, else give "
                "the column another name"
            )


def _structures(table: Table, wanted: tuple[str, ...]) -> tuple[str, ...]:
    """What the masks show, where the table is one of masks or was asked for them; empty for a table of labels."""
    named = table.structures
    if named and wanted and named != wanted:
        raise StudyError(
            f"{table.path.name} has masks of {', '.join(named)}, and {', '.join(wanted)} is asked for; they must "
            "agree, in this order; leave --structure out, since the columns say it"
        )
    if wanted and not table.mask_columns:
        raise StudyError(f"{table.path.name} has no column 'mask'; masks of {', '.join(wanted)} are needed")
    if named and len(named) < len(table.mask_columns):
        raise StudyError(f"{table.path.name} has both 'mask' and '{MASK_PREFIX}…' columns; keep one kind")
    structures = wanted or (() if "label" in table.columns or table.findings else named)
    if not all(name.strip() for name in structures) or len(set(structures)) != len(structures):
        raise StudyError(
            f"{table.path.name}: the structures are {', '.join(map(repr, structures))}; give each one name of its own"
        )
    if len(structures) > MOST_STRUCTURES:
        raise StudyError(f"{len(structures)} structures; a label map holds at most {MOST_STRUCTURES}")
    check_names(structures, f"{table.path.name}: the structures")
    return structures


def _with_labels(case: Case, row: Mapping[str, str]) -> Case:
    """A case of a segmentation study whose label is kept, as a group of cases; one file for all masks counts once."""
    kept = {name: value for name, value in row.items() if name == "label" or name.startswith(PREFIX)}
    labels = {name: "" if is_missing(value) else value for name, value in kept.items()}
    masks = case.masks[:1] if case.masks and set(case.masks) == {case.masks[0]} else case.masks
    return replace(case, subgroups=case.subgroups | labels, masks=masks)


def _drawn(table: Table, source: ImageSource, cases: Sequence[Case], structures: tuple[str, ...]) -> Study:
    """A segmentation study whose masks were not read yet."""
    undrawn = Counter(case.split for case in cases if not case.masks and case.split in LEARNED)
    remarks = tuple(
        f"{count} of {sum(case.split == split for case in cases)} images of {split} have no mask and are left out; an "
        "image without any structure needs an empty mask"
        for split, count in undrawn.items()
    )
    return Study(
        root=table.path, kind="segmentation", labels=structures, cases=tuple(cases), source=source, remarks=remarks
    )


def with_presence(study: Study) -> Study:
    """The study with targets: every mask is read, for what it shows.

    Raises:
        StudyError: a mask that cannot be used, or a structure that no mask of train shows.
    """

    def target_of(case: Case) -> tuple[int, ...]:
        return presence(drawn_map(study, case), len(study.labels)) if case.masks else ()

    targets = list(map_in_threads(target_of, study.cases, _WORKERS))  # Pillow releases the GIL
    done = tuple(replace(case, target=target) for case, target in zip(study.cases, targets, strict=True))
    check_shown(done, study.labels, study.root.name)
    return replace(study, cases=done)


def check_shown(cases: Sequence[Case], structures: Sequence[str], name: str) -> None:
    """Refuse training masks that never show a structure.

    Raises:
        StudyError: naming the first such structure.
    """
    drawn = [case.target for case in cases if case.split == "train" and case.target]
    absent = [structure for k, structure in enumerate(structures) if drawn and not any(target[k] for target in drawn)]
    if absent:
        raise StudyError(
            f"{name}: none of the {len(drawn)} masks of train shows {absent[0]!r}, which can therefore not be learned; "
            "give masks that show it, or leave the structure out"
        )


def _labelled(table: Table, source: ImageSource, cases: Sequence[Case], normal: tuple[str, ...]) -> Study:
    if not table.findings:
        return labelled_study(table.path, source, cases, [row.get("label", "") for row in table.rows], normal)
    refuse_normal(table.path, normal)
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
        check_names(table.findings, f"{table.path.name}: the findings")
        return
    labelled = any(row["split"] in LEARNED for row in table.rows)
    if labelled and "mask" not in table.columns:
        require_columns(table, ("label",))


def _check_patients(table: Table) -> None:
    """Refuse a column that tells patients apart under another name, where none is read for that.

    Each image would count as a patient of its own, and splits and intervals would be wrong without a word.

    Raises:
        StudyError: naming the column.
    """
    column = next((name for name in table.columns if is_patient_key(name)), "")
    if column and "patient" not in table.columns:
        raise StudyError(
            f"{table.path.name} has a column {column!r} and no column 'patient', by which images of a patient are kept "
            "together; rename it to 'patient', or give it another name if it does not tell patients apart"
        )


def _check_splits(table: Table) -> None:
    for row in table.rows:
        split = row["split"]
        if split and is_missing(split):
            raise StudyError(
                f"{table.path.name}: split of {row['image']!r} is {split!r}, which reads like a missing value; write "
                "train, val or test, or 'unlabelled' for what is never trained on"
            )
        meant = _MISSPELT.get(split.lower(), split.lower())
        if not split or (meant in LEARNED and meant != split):
            raise StudyError(
                f"{table.path.name}: split of {row['image']!r} is {split!r}; write {meant or 'train, val or test'}"
                " (any other name is kept and never trained on)"
            )


def _check_images(table: Table, images: Sequence[str]) -> None:
    refuse_volume_files(images)
    rows: dict[str, int] = {}
    for number, image in enumerate(images):
        if not image:
            raise StudyError(f"{table.path.name}: row {number + 1} has no image; give its path")
        first = rows.setdefault(_place_of(table, image), number)
        if first != number:
            before = "" if images[first] == image else f", before as {images[first]!r}"
            splits = {table.rows[first]["split"], table.rows[number]["split"]}
            leaks = ", in two splits, which is leakage" if len(splits) > 1 else ""
            raise StudyError(f"{table.path.name} lists the image {image!r} twice{before}{leaks}; keep one row an image")


def _place_of(table: Table, image: str) -> str:
    """Where an image lies, however its path is written; links are not followed, copies are told by their content."""
    file, mark, key = image.partition(ARCHIVE_MARK)
    split, slash, row = key.partition("/")
    plain = row.lstrip("0") or "0" if row.isdecimal() else row
    return f"{os.path.normpath((table.path.parent / file).absolute())}{mark}{split}{slash}{plain}"


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
    return {} if complete else headers
