"""Open a study, whatever shape it comes in."""

from __future__ import annotations

from pathlib import Path

from medfm_compress.data.dicom_folder import read_dicom_folder
from medfm_compress.data.folders import read_class_folders
from medfm_compress.data.medmnist import read_medmnist
from medfm_compress.data.study import Study
from medfm_compress.data.table import VOLUMES, read_table
from medfm_compress.runtime.errors import StudyError
from medfm_compress.runtime.image_spec import DicomRules


def open_study(path: str | Path, *, dicom_rules: DicomRules | None = None) -> Study:
    """Open a folder with ``cases.csv``, a csv, a folder a class, a MedMNIST ``.npz``, or a folder of DICOM.

    Args:
        path: of the study.
        dicom_rules: which DICOM files belong in it, and their window; by default any.

    Raises:
        StudyError: none of these, or one that cannot be used.
    """
    path, rules = Path(path), dicom_rules or DicomRules()
    name = path.name.lower()
    if name.endswith(VOLUMES):
        raise StudyError(f"{path} is a 3-D volume, which is out of scope; give 2-D images")
    if path.is_file():
        return read_medmnist(path) if name.endswith(".npz") else read_table(path, rules)
    if not path.is_dir():
        raise StudyError(f"study {path} does not exist; give a folder with cases.csv, a csv or an .npz")
    if (path / "cases.csv").is_file():
        return read_table(path / "cases.csv", rules)
    return read_class_folders(path, rules) or read_dicom_folder(path, rules)
