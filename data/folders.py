"""A folder a class: ``root/CLASS/*.png``, or ``root/{train,val,test}/CLASS/*.png``."""

from __future__ import annotations

from pathlib import Path

from medfm_compress.data.labels import label_names, task_kind
from medfm_compress.data.sources import Files
from medfm_compress.data.study import Case, Study
from medfm_compress.data.table import check_classes
from medfm_compress.runtime.image_spec import DicomRules

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".dcm")
SPLITS = ("train", "val", "test")


def read_class_folders(root: Path, rules: DicomRules) -> Study | None:
    """The study, or None where ``root`` has no class folders with images.

    Without split folders every image is in split ``train``: cut the others with `study split`.

    Raises:
        StudyError: a single class, or a class that stands in val or test only.
    """
    splits = {name: root / name for name in SPLITS if (root / name).is_dir()} or {"train": root}
    found = [(split, image) for split, folder in splits.items() for image in _images(folder)]
    if not found:
        return None
    labels = label_names(image.parent.name for _, image in found)
    kind = task_kind(labels, str(root))
    cases = tuple(
        Case(image=image.relative_to(root).as_posix(), split=split, target=(labels.index(image.parent.name),))
        for split, image in found
    )
    study = Study(root=root, kind=kind, labels=labels, cases=cases, source=Files(root, rules))
    check_classes(study)
    return study


def _images(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*/*") if path.suffix.lower() in SUFFIXES and path.is_file())
