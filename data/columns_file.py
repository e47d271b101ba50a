"""A file of columns: which values beside the image a network is given, as YAML that people write.

    columns:
      - {kind: numeric, name: age, unit: years, minimum: 0, maximum: 120, missing: impute, dicom: PatientAge}
      - {kind: categorical, name: sex, categories: [F, M], missing: category, dicom: PatientSex}

What is left out of a numeric column is measured on the training cases: ``mean`` and ``standard_deviation``, and of a
categorical one with ``missing: impute`` the ``imputed`` category, the most frequent one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np

from medfm_compress.data.case_columns import case_columns, values_of
from medfm_compress.data.strict_yaml import MAX_YAML_BYTES, load_yaml
from medfm_compress.data.study import Study
from medfm_compress.runtime.columns import CategoricalColumn, Column, Missing, NumericColumn, check_columns
from medfm_compress.runtime.dicom.attributes import check_attributes
from medfm_compress.runtime.errors import StudyError
from medfm_compress.runtime.regular_file import read_regular
from medfm_compress.runtime.strict_json import convert


class NumericDraft(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="numeric"
):
    """A `NumericColumn` of which mean and standard deviation may be left to the training cases."""

    name: str
    unit: str
    minimum: float
    maximum: float
    mean: float | None = None
    standard_deviation: float | None = None
    missing: Missing = "refuse"
    dicom: str = ""

    def column(self) -> NumericColumn:
        """With the middle of the range and 1 for what is not known yet."""
        middle = (self.minimum + self.maximum) / 2
        return NumericColumn(
            name=self.name,
            unit=self.unit,
            minimum=self.minimum,
            maximum=self.maximum,
            mean=middle if self.mean is None else self.mean,
            standard_deviation=1.0 if self.standard_deviation is None else self.standard_deviation,
            missing=self.missing,
            dicom=self.dicom,
        )


class CategoricalDraft(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="categorical"
):
    """A `CategoricalColumn` of which the imputed category may be left to the training cases."""

    name: str
    categories: tuple[str, ...]
    missing: Missing = "refuse"
    imputed: str = ""
    dicom: str = ""
    codes: dict[str, str] = {}

    def column(self) -> CategoricalColumn:
        """With the first category for an imputed one that is not known yet."""
        first = self.categories[0] if self.categories else ""
        imputed = self.imputed or (first if self.missing == "impute" else "")
        return CategoricalColumn(
            name=self.name,
            categories=self.categories,
            missing=self.missing,
            imputed=imputed,
            dicom=self.dicom,
            codes=self.codes,
        )


class ColumnsFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the file holds."""

    columns: tuple[NumericDraft | CategoricalDraft, ...]


def load_columns(path: str | Path, study: Study) -> tuple[Column, ...]:
    """The columns of a file, with what it leaves out measured on the study's labelled training cases.

    Raises:
        InputError: the file cannot be read, or is no file of columns.
        StudyError: no such column in the study, values that a column does not take, or nothing to measure on.
    """
    drafts = read_drafts(path)
    columns = tuple(draft.column() for draft in drafts)
    check_columns(columns)
    check_attributes(columns)
    cases = tuple(case for case in study.split("train") if case.target) or study.split("train")
    case_columns(study, cases, columns)  # refuses what a column does not take
    return tuple(_measured(study, draft, column) for draft, column in zip(drafts, columns, strict=True))


def describe(column: Column) -> str:
    """A column in a line, with what was measured for it."""
    missing = {"refuse": "refused", "impute": "imputed", "category": "a category of its own"}[column.missing]
    if isinstance(column, NumericColumn):
        return (
            f"{column.name}: {column.minimum:g} to {column.maximum:g} {column.unit}, mean {column.mean:.4g}, standard "
            f"deviation {column.standard_deviation:.4g}, a missing one is {missing}"
        )
    imputed = f" as {column.imputed}" if column.imputed else ""
    return f"{column.name}: {', '.join(column.categories)}; a missing one is {missing}{imputed}"


def read_drafts(path: str | Path) -> tuple[NumericDraft | CategoricalDraft, ...]:
    """What stands in the file; raises InputError where it is no file of columns."""
    source = f"columns file {path}"
    values = load_yaml(read_regular(path, MAX_YAML_BYTES, "columns file"), source)
    drafts = convert(values, ColumnsFile, source=source).columns
    if not drafts:
        raise StudyError(f"{source} names no column; leave --columns out for a network of the image alone")
    return drafts


def _measured(study: Study, draft: NumericDraft | CategoricalDraft, column: Column) -> Column:
    cases = tuple(case for case in study.split("train") if case.target) or study.split("train")
    known = [value for value in values_of(study, cases, column) if value is not None]
    if isinstance(column, NumericColumn):
        numbers = np.array(known, np.float64)
        asked = isinstance(draft, NumericDraft) and (draft.mean is None or draft.standard_deviation is None)
        return _with_moments(study, draft, column, numbers) if asked and isinstance(draft, NumericDraft) else column
    if column.missing != "impute" or (isinstance(draft, CategoricalDraft) and draft.imputed):
        return column
    _require(study, column, known)
    counts = Counter(map(str, known))
    return msgspec.structs.replace(column, imputed=max(column.categories, key=lambda word: counts[word]))


def _with_moments(study: Study, draft: NumericDraft, column: NumericColumn, numbers: np.ndarray) -> NumericColumn:
    _require(study, column, numbers)
    mean = float(f"{numbers.mean():.6g}") if draft.mean is None else draft.mean
    spread = float(f"{numbers.std():.6g}") if draft.standard_deviation is None else draft.standard_deviation
    if spread == 0:
        raise StudyError(
            f"{study.root.name}: {column.name} is {numbers[0]:g} in every training case, and nothing can be learned "
            "from it; leave it out of the columns file"
        )
    mean = min(max(mean, column.minimum), column.maximum)  # six digits may round over the border
    return msgspec.structs.replace(column, mean=mean, standard_deviation=spread)


def _require(study: Study, column: Column, known: Sequence[object] | np.ndarray) -> None:
    if not len(known):
        raise StudyError(
            f"{study.root.name}: no training case says {column.name}; leave it out of the columns file, or give what "
            "is measured on them (mean, standard_deviation, imputed)"
        )
