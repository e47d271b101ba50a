"""Columns of a study's cases as a network takes them, from the table or, where that says nothing, from DICOM headers.

Every value is checked by the column's own definition; what does not fit is counted, and the first of it is named.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from medfm_compress.data.column_values import column_value
from medfm_compress.data.dicom_header import attributes_of, is_dicom_file
from medfm_compress.data.sources import Files
from medfm_compress.data.study import Case, Study
from medfm_compress.runtime.columns import Column
from medfm_compress.runtime.errors import InputError, StudyError
from medfm_compress.runtime.strict_json import digest

Value = float | str | None


class _Misfit(NamedTuple):
    """A value that a column does not take: its column, the number of its case from 1, the image, and why."""

    column: str
    row: int
    image: str
    reason: str


def case_columns(study: Study, cases: Sequence[Case], columns: Sequence[Column]) -> dict[str, NDArray[np.float32]]:
    """What a network with ``columns`` is given of ``cases``: name → float32 ``[n, width]``.

    Raises:
        StudyError: the study has no such column, or values that it does not take: how many, and the first with its row
            in the table.
    """
    encoded: dict[str, list[NDArray[np.float32]]] = {column.name: [] for column in columns}
    misfits: list[_Misfit] = []
    rows = {case.image: row for row, case in enumerate(study.cases, 1)} if columns else {}
    for column in columns:
        _check_known(study, column)
        for case, text in written_values(study, cases, column):
            try:
                encoded[column.name].append(column.encoded(column_value(column, text)))
            except InputError as exc:
                misfits.append(_Misfit(column.name, rows.get(case.image, 0), case.image, str(exc)))
    if misfits:
        raise StudyError(_described(study, misfits, len(cases)))
    empty = [np.empty((0, column.width), np.float32) for column in columns]
    return {
        column.name: np.stack(encoded[column.name]) if cases else none
        for column, none in zip(columns, empty, strict=True)
    }


def columns_digest(study: Study, cases: Sequence[Case], columns: Sequence[Column]) -> str:
    """Hex sha256 of what `case_columns` gives; empty without columns.

    Raises:
        StudyError: as `case_columns`.
    """
    if not columns:
        return ""
    return digest({name: rows.tobytes() for name, rows in case_columns(study, cases, columns).items()})


def values_of(study: Study, cases: Sequence[Case], column: Column) -> list[Value]:
    """Of each case; None where nothing is recorded. Range and categories are not checked.

    Raises:
        StudyError: the study has no such column, or something that is no number where one is needed.
    """
    _check_known(study, column)
    values: list[Value] = []
    for row, (case, text) in enumerate(written_values(study, cases, column), 1):
        try:
            values.append(column_value(column, text))
        except InputError as exc:
            raise StudyError(_described(study, [_Misfit(column.name, row, case.image, str(exc))], len(cases))) from None
    return values


def written_values(study: Study, cases: Sequence[Case], column: Column) -> Iterator[tuple[Case, str]]:
    """Each case with what its table says, or its header where the table says nothing; empty for neither."""
    for case in cases:
        yield case, case.value(column.name) or _of_header(study, case, column)


def attributes_of_cases(study: Study, cases: Sequence[Case], keywords: Sequence[str]) -> list[dict[str, str]]:
    """DICOM attributes of each case, as they are written; nothing where no image is a DICOM file."""
    source = study.source
    if not isinstance(source, Files) or not _has_dicom(study):
        return []
    paths = [source.root / case.image for case in cases]
    return [attributes_of(path, keywords) if is_dicom_file(path) else dict.fromkeys(keywords, "") for path in paths]


def _of_header(study: Study, case: Case, column: Column) -> str:
    if not column.dicom or not isinstance(study.source, Files):
        return ""
    path = study.source.root / case.image
    return attributes_of(path, (column.dicom,))[column.dicom] if is_dicom_file(path) else ""


def _check_known(study: Study, column: Column) -> None:
    """A column that nothing could ever say is a name that was mistyped."""
    names = study.subgroup_names()
    if column.name in names or (column.dicom and _has_dicom(study)):
        return
    known = ", ".join(names) or "none"
    raise StudyError(
        f"{study.root.name} has no column {column.name!r}; its columns are {known}: add it, or leave it out of the "
        "columns file"
    )


def _has_dicom(study: Study) -> bool:
    source = study.source
    return isinstance(source, Files) and any(is_dicom_file(source.root / case.image) for case in study.cases[:64])


def _described(study: Study, misfits: Sequence[_Misfit], cases: int) -> str:
    first = misfits[0]
    images = len({misfit.image for misfit in misfits})
    others: Mapping[str, int] = {m.column: sum(o.column == m.column for o in misfits) for m in misfits}
    counts = ", ".join(f"{name} {count}" for name, count in others.items())
    return (
        f"{study.root.name}: {images} of {cases} cases have values that the columns do not take ({counts}); first row "
        f"{first.row}, {first.image!r}: {first.reason}. Correct them, or say in the columns file what is allowed "
        "(minimum, maximum, categories) and what a missing value becomes (missing: impute or category)"
    )
