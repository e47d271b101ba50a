"""Studies without a table: a folder per class, or a folder of images without labels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from msgspec.structs import replace

from medfm_compress.data.dicom_header import Header, is_dicom_file, read_header
from medfm_compress.data.dicom_patients import Patients, patients_of
from medfm_compress.data.normal_labels import labelled_study, refuse_normal
from medfm_compress.data.sources import Files
from medfm_compress.data.study import Case, Study
from medfm_compress.data.unread_files import by_suffix
from medfm_compress.data.volumes import refuse_series, refuse_volume_files
from medfm_compress.runtime.errors import StudyError
from medfm_compress.runtime.image_spec import DicomRules
from medfm_compress.runtime.images.file_types import names_an_image
from medfm_compress.runtime.read_image import is_image_file

_SPLITS = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "dev": "val",
    "test": "test", "testing": "test",
}  # fmt: skip


def open_folder(root: Path, rules: DicomRules, normal: tuple[str, ...] = ()) -> Study:
    """Open ``root/class/*``, ``root/{train,val,test}/class/*`` or a folder of unlabelled images.

    Raises:
        StudyError: the folder holds none of these, or volumes.
    """
    splits = {folder: _SPLITS[folder.name.lower()] for folder in _folders(root) if folder.name.lower() in _SPLITS}
    labelled = _by_class(splits or {root: "train"})
    refuse_volume_files(path.name for path, _, _ in labelled)
    if not labelled or (not splits and _is_dicom_archive(root)):
        refuse_normal(root, normal)
        return _unlabelled(root, rules)
    headers = _headers(root, (path for path, _, _ in labelled))
    patients = patients_of(headers)
    cases = [_case(root, path, split, headers, patients) for path, split, _ in labelled]
    passed_over = _passed_over(root, [path for path, _, _ in labelled])
    try:
        study = labelled_study(root, Files(root, rules), cases, [name for _, _, name in labelled], normal)
    except StudyError as exc:
        # What was passed over may be the class that is said to be lacking.
        raise StudyError("; ".join((str(exc), *passed_over))) from None
    return replace(study, remarks=(*passed_over, *patients.remarks))


def _by_class(splits: Mapping[Path, str]) -> list[tuple[Path, str, str]]:
    """Image, split and class name, in a fixed order."""
    return [
        (path, split, folder.name)
        for parent, split in splits.items()
        for folder in _folders(parent)
        for path in images_below(folder)
    ]


def _is_dicom_archive(root: Path) -> bool:
    """DICOM folders are usually sorted by patient, study and series, not by class.

    A class holds several patients, a patient's folder holds one: folders are classes only if there are at least two and
    each holds the files of at least two patients.
    """
    folders = [[path for path in images_below(folder) if is_dicom_file(path)] for folder in _folders(root)]
    folders = [files for files in folders if files]
    if not folders:
        return any(is_dicom_file(path) for path in images_below(root, deep=False))
    patients = [{read_header(path).patient for path in files} - {""} for files in folders]
    return len(folders) < 2 or min(map(len, patients)) < 2


def _unlabelled(root: Path, rules: DicomRules) -> Study:
    paths = [path for path in images_below(root) if is_dicom_file(path)]
    if not paths:
        refuse_volume_files(path.name for path in sorted(root.rglob("*")))
        paths = list(images_below(root, deep=False))
    passed_over = _passed_over(root, paths)
    if not paths:
        reasons = "".join(f"; {sentence}" for sentence in passed_over)
        raise StudyError(
            f"{root} is no study: it has no cases.csv, no folder per class with images and no images itself{reasons}; "
            "see 'medfm-compress study --help'"
        )
    headers = _headers(root, paths)
    patients = patients_of(headers)
    cases = tuple(_case(root, path, "unlabelled", headers, patients) for path in paths)
    remarks = (*passed_over, *patients.remarks)
    return Study(root=root, kind="binary", labels=(), cases=cases, source=Files(root, rules), remarks=remarks)


def _passed_over(root: Path, cases: Iterable[Path]) -> tuple[str, ...]:
    """What is said of files below ``root`` that are no case: an image left out unseen changes what is measured."""
    left = files_beside(root, cases)
    images = [path for path in left if _is_listed(path)]
    others = [path for path in left if path not in set(images)]
    sentences = []
    if others:
        sentences.append(
            f"passed over {len(others)} file(s) that are no DICOM, PNG, JPEG, TIFF or BMP image: {by_suffix(others)}; "
            "convert images among them"
        )
    if images:
        first = images[0].relative_to(root).as_posix()
        sentences.append(
            f"passed over {len(images)} image(s) outside the folders that are read: {by_suffix(images)}, first {first}"
            "; put them into the folder of a class"
        )
    return tuple(sentences)


def files_beside(root: Path, taken: Iterable[Path]) -> list[Path]:
    """Every file below ``root`` that is not ``taken``, sorted; hidden ones are left out."""
    left = sorted({path for path in root.rglob("*") if path.is_file()} - set(taken))
    return [path for path in left if not any(map(_is_hidden, (path, *path.relative_to(root).parents)))]


def _case(root: Path, path: Path, split: str, headers: Mapping[str, Header], patients: Patients) -> Case:
    image = path.relative_to(root).as_posix()
    header = headers.get(image, Header())
    recorded = {"sex": header.sex, "age": header.age} if headers else {}
    names = [name for name in recorded if any(getattr(other, name) for other in headers.values())]
    return Case(
        image=image,
        split=split,
        patient=patients.keys.get(image, ""),
        subgroups={name: recorded[name] for name in names},
    )


def _headers(root: Path, paths: Iterable[Path]) -> dict[str, Header]:
    headers = {path.relative_to(root).as_posix(): read_header(path) for path in paths if is_dicom_file(path)}
    refuse_series(headers.values())
    return headers


def _folders(root: Path) -> list[Path]:
    return sorted(path for path in root.iterdir() if path.is_dir() and not _is_hidden(path))


def images_below(folder: Path, *, deep: bool = True) -> Sequence[Path]:
    """Files that are, or by their name claim to be, images: a broken one must be reported, not overlooked."""
    paths = sorted(folder.rglob("*") if deep else folder.iterdir())
    return [
        path
        for path in paths
        if path.is_file()
        and not any(_is_hidden(part) for part in (path, *path.relative_to(folder).parents))
        and _is_listed(path)
    ]


def _is_listed(path: Path) -> bool:
    """Whether a file is an image that is read here, or by its name claims to be an image."""
    return names_an_image(path.name) or is_image_file(path)


def _is_hidden(path: Path) -> bool:
    return path.name.startswith((".", "__"))
