"""`open_study`: one call for every form a study comes in.

1. A folder with ``cases.csv``, or the path of any CSV file. Columns:

   =============  ======================================================================================
   ``image``      path relative to the folder of the CSV, or absolute, or ``archive.npz#split/row``
   ``split``      ``train``, ``val``, ``test``; any other name is kept and never trained on
   ``label``      name of the class (binary and multi-class), empty where unlabelled
   ``label:NAME`` 0 or 1, one column a finding, instead of ``label``: a multi-label study
   ``mask``       path of a mask, optional; with it ``label`` may be absent
   ``mask:NAME``  path of a mask, one column a structure: without labels, a segmentation study; see `masks`. Empty cells
                  throughout: nobody drew the image. Of a segmentation study ``label`` is kept as a subgroup
   ``patient``    key that clusters cases, optional; read (hashed) from DICOM files where the column is absent
   others         subgroups; ages in a column ``age`` (``57``, ``045Y``, ``60-69``, ``90+`` …) are read as decades
   =============  ======================================================================================

   A CSV need not lie beside the images: what ``study split`` writes elsewhere names them by absolute paths. Paths may
   lead out of the CSV's folder, since the table is the user's own; nothing of it enters a bundle.
2. A folder per class: ``root/class/*`` (all of it is then ``train``: cut it with ``study split``) or
   ``root/{train,val,test}/class/*``. DICOM files in ``root/folder/*`` are read so only where each folder holds several
   patients; else the folders are taken for those of an archive (4).
3. A MedMNIST ``.npz``.
4. A folder of images without a table (DICOM files at any depth, others in the folder itself): split ``unlabelled``, no
   labels; patient key, sex and age from DICOM headers.

Patients are compared in a normal form: case, spaces, quotes, Unicode form, ``.0`` and leading zeros make no second
patient. Words for no value (``nan``, ``None``, ``NA``, ``null``, ``#REF!``, ``?`` …) and impossible ages count as not
recorded; as a label or a split they are refused, and as a label ``unknown`` and ``missing`` too, and ``-1`` or ``9999``
beside words. What was passed over or merged stands in the study's ``remarks``.

The order of the labels is described in `medfm_compress.data.labels`. 3-D volumes are out of scope and refused by name.
"""

from __future__ import annotations

from pathlib import Path

from medfm_compress.data.study import Study
from medfm_compress.data.volumes import refuse_volume_files
from medfm_compress.runtime.errors import StudyError
from medfm_compress.runtime.image_spec import DicomRules
from medfm_compress.runtime.task import Task


def open_study(
    path: str | Path,
    *,
    dicom_rules: DicomRules | None = None,
    structures: tuple[str, ...] = (),
    normal: tuple[str, ...] = (),
    read_masks: bool = True,
) -> Study:
    """Open a study; images are not decoded, but every file a table names must exist.

    Args:
        path: see above.
        dicom_rules: which DICOM images are accepted when they are read, and their window; by default any.
        structures: names of what the masks show; they make it a segmentation study. A table of ``mask:NAME`` columns
            without labels is one without being asked.
        normal: names of the labels that are normal; they make it an anomaly study, see `normal_labels`. Masks then show
            where the abnormality is.
        read_masks: of a segmentation study, whether every mask is read for what it shows, and refused where it cannot
            be used; without, no case has a target. `check_study` reads them itself, and names all that are unusable.

    Returns:
        The study, its labels in a fixed order.

    Raises:
        StudyError: the path, the table, its files or its labels cannot be used; one sentence says why.
    """
    path, rules = Path(path), dicom_rules or DicomRules()
    if structures and normal:
        raise StudyError(
            f"the structures {', '.join(structures)} make a segmentation study of {path}, and the normal labels "
            f"{', '.join(normal)} an anomaly study; give one of them"
        )
    if not path.exists():
        raise StudyError(f"{path} does not exist; give a folder, a CSV file or a MedMNIST .npz")
    if path.is_dir():
        return _open_folder(path, rules, structures, normal, read_masks)
    refuse_volume_files([path.name])
    if path.suffix.lower() == ".csv":
        from medfm_compress.data.table_study import open_table

        return open_table(path, rules, structures, normal, read_masks=read_masks)
    _refuse_structures(path, structures)
    if path.suffix.lower() == ".npz":
        from medfm_compress.data.medmnist import open_medmnist

        return open_medmnist(path, normal)
    raise StudyError(f"{path} is no study; give a folder, a CSV file or a MedMNIST .npz")


def open_study_of(task: Task, path: str | Path, dicom_rules: DicomRules | None = None) -> Study:
    """Open a study for a model of ``task``: with its structures, and with its normal labels; see `open_study`."""
    return open_study(path, dicom_rules=dicom_rules, structures=task.structures, normal=task.normal_labels)


def _open_folder(
    path: Path, rules: DicomRules, structures: tuple[str, ...], normal: tuple[str, ...], read_masks: bool
) -> Study:
    if (path / "cases.csv").is_file():
        from medfm_compress.data.table_study import open_table

        return open_table(path / "cases.csv", rules, structures, normal, read_masks=read_masks)
    _refuse_structures(path, structures)
    from medfm_compress.data.folders import open_folder

    try:
        return open_folder(path, rules, normal)
    except OSError as exc:
        raise StudyError(f"{path} cannot be read: {exc.strerror}; check its permissions") from None


def _refuse_structures(path: Path, structures: tuple[str, ...]) -> None:
    if structures:
        raise StudyError(f"{path} has no table with masks; masks of {', '.join(structures)} stand in a cases.csv")
