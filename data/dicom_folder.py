"""A folder of DICOM files without a table: unlabelled cases, patients by hashed Patient ID."""

from __future__ import annotations

import hashlib
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

from medfm_compress.data.sources import Files
from medfm_compress.data.study import Case, Study
from medfm_compress.runtime.errors import StudyError
from medfm_compress.runtime.image_spec import DicomRules

TAGS = ("PatientID", "PatientSex", "PatientAge", "Modality", "SeriesInstanceUID")


def read_dicom_folder(root: Path, rules: DicomRules) -> Study:
    """Every DICOM file below ``root`` as an unlabelled case with ``sex`` and ``age`` (decade) as subgroups.

    Raises:
        StudyError: no DICOM file, or a CT/MR series of several slices.
    """
    headers = {path: header for path in sorted(root.rglob("*")) if (header := _header(path)) is not None}
    if not headers:
        volumes = [path.name for path in root.iterdir() if path.name.lower().endswith((".nii", ".nii.gz"))]
        what = f"holds 3-D volumes ({volumes[0]}), which are out of scope" if volumes else "holds no images"
        raise StudyError(f"{root} {what}; give a folder with cases.csv, a folder a class, an .npz or DICOM files")
    _refuse_series(root, headers)
    cases = tuple(_case(path.relative_to(root).as_posix(), header) for path, header in headers.items())
    return Study(root=root, kind="binary", labels=(), cases=cases, source=Files(root, rules))


def _header(path: Path) -> Any:
    if not path.is_file():
        return None
    with path.open("rb") as file:
        if file.read(132)[128:] != b"DICM":
            return None
    import pydicom

    with warnings.catch_warnings():  # pydicom's warnings quote values of the file
        warnings.simplefilter("ignore")
        try:
            return pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(TAGS))
        except Exception:  # noqa: BLE001 -- a broken header: `study check` names the file when it reads the pixels
            return None


def _refuse_series(root: Path, headers: dict[Path, Any]) -> None:
    series = Counter(
        str(h.get("SeriesInstanceUID", "")) for h in headers.values() if h.get("Modality") in ("CT", "MR", "PT")
    )
    if series and series.most_common(1)[0][1] > 1:
        count = series.most_common(1)[0][1]
        raise StudyError(
            f"{root} holds a CT/MR series of {count} slices; 3-D volumes are out of scope: give 2-D images"
        )


def _case(image: str, header: Any) -> Case:
    patient = str(header.get("PatientID", "") or "")
    age = str(header.get("PatientAge", "") or "")
    decade = f"{int(age[:3]) // 10 * 10}s" if len(age) == 4 and age[:3].isdigit() and age[3] == "Y" else ""
    groups = {"sex": str(header.get("PatientSex", "") or ""), "age": decade}
    return Case(
        image=image,
        split="unlabelled",
        patient=hashlib.sha256(patient.encode()).hexdigest()[:16] if patient else "",
        subgroups={name: value for name, value in groups.items() if value},
    )
