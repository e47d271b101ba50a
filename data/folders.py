"""Studies without a table: a folder per class, or a folder of images without labels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from medfm_compress.data.dicom_header import Header, is_dicom_file, read_header, with_issuers
from medfm_compress.data.labels import exclusive_study
from medfm_compress.data.sources import Files
from medfm_compress.data.study import Case, Study
from medfm_compress.data.volumes import refuse_series, refuse_volume_files
from medfm_compress.runtime.errors import StudyError
from medfm_compress.runtime.image_spec import DicomRules
from medfm_compress.runtime.images.file_types import names_an_image
from medfm_compress.runtime.read_image import is_image_file

_SPLITS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


def open_folder(root: Path, rules: DicomRules) -> Study:
    """Open ``root/class/*``, ``root/{train,val,test}/class/*`` or a folder of unlabelled images.

    Raises:
        StudyError: the folder holds none of these, or volumes.
    """
    splits = {folder: _SPLITS[folder.name.lower()] for folder in _folders(root) if folder.name.lower() in _SPLITS}
    labelled = _by_class(splits or {root: "train"})
    refuse_volume_files(path.name for path, _, _ in labelled)
    if not labelled or (not splits and _is_dicom_archive(root)):
        return _unlabelled(root, rules)
    headers = _headers(path for path, _, _ in labelled)
    cases = [_case(root, path, split, headers) for path, split, _ in labelled]
    return exclusive_study(root, Files(root, rules), cases, [name for _, _, name in labelled])


def _by_class(splits: Mapping[Path, str]) -> list[tuple[Path, str, str]]:
    """Image, split and class name, in a fixed order."""
    return [
        (path, split, folder.name)
        for parent, split in splits.items()
        for folder in _folders(parent)
        for path in _images(folder)
    ]


def _is_dicom_archive(root: Path) -> bool:
    """DICOM folders are usually sorted by patient, study and series, not by class.

    A class holds several patients, a patient's folder holds one: folders are classes only if there are at least two and
    each holds the files of at least two patients.
    """
    folders = [[path for path in _images(folder) if is_dicom_file(path)] for folder in _folders(root)]
    folders = [files for files in folders if files]
    if not folders:
        return any(is_dicom_file(path) for path in _images(root, deep=False))
    patients = [{read_header(path).patient for path in files} - {""} for files in folders]
    return len(folders) < 2 or min(map(len, patients)) < 2


def _unlabelled(root: Path, rules: DicomRules) -> Study:
    paths = [path for path in _images(root) if is_dicom_file(path)]
    if not paths:
        refuse_volume_files(path.name for path in sorted(root.rglob("*")))
        paths = list(_images(root, deep=False))
    if not paths:
        raise StudyError(
            f"{root} is no study: it has no cases.csv, no folder per class with images and no images itself; see "
            "'medfm-compress study --help'"
        )
    headers = _headers(paths)
    refuse_series(headers.values())
    cases = tuple(_case(root, path, "unlabelled", headers) for path in paths)
    return Study(root=root, kind="binary", labels=(), cases=cases, source=Files(root, rules))


def _case(root: Path, path: Path, split: str, headers: Mapping[Path, Header]) -> Case:
    header = headers.get(path, Header())
    recorded = {"sex": header.sex, "age": header.age} if headers else {}
    names = [name for name in recorded if any(getattr(other, name) for other in headers.values())]
    return Case(
        image=path.relative_to(root).as_posix(),
        split=split,
        patient=header.patient,
        subgroups={name: recorded[name] for name in names},
    )


def _headers(paths: Iterable[Path]) -> dict[Path, Header]:
    headers = {path: read_header(path) for path in paths if is_dicom_file(path)}
    refuse_series(headers.values())
    return with_issuers(headers)


def _folders(root: Path) -> list[Path]:
    return sorted(path for path in root.iterdir() if path.is_dir() and not _is_hidden(path))


def _images(folder: Path, *, deep: bool = True) -> Sequence[Path]:
    """Files that are, or by their name claim to be, images: a broken one must be reported, not overlooked."""
    paths = sorted(folder.rglob("*") if deep else folder.iterdir())
    return [
        path
        for path in paths
        if path.is_file()
        and not any(_is_hidden(part) for part in (path, *path.relative_to(folder).parents))
        and (names_an_image(path.name) or is_image_file(path))
    ]


def _is_hidden(path: Path) -> bool:
    return path.name.startswith((".", "__"))
