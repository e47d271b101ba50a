"""A file of columns proposed for a study: numbers and words that training cases say, none that may name a patient.

Columns of weights, dates and identifiers are no findings of a patient, and one that is the label by another name (its
subtype, or filled in for the ill alone) would hand the network the answer; what is left out is said, and why.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from medfm_compress.data.case_columns import attributes_of_cases
from medfm_compress.data.column_values import AGE, SEX, column_value
from medfm_compress.data.identifiers import identifying
from medfm_compress.data.missing_values import is_no_label
from medfm_compress.data.recorded_groups import is_age
from medfm_compress.data.study import Case, Study
from medfm_compress.data.written_forms import normal_form
from medfm_compress.runtime.columns import MOST_CATEGORIES, NumericColumn
from medfm_compress.runtime.errors import InputError, StudyError

_VIEW = "ViewPosition"
_OF_HEADERS = {"age": AGE, "sex": SEX, "view_position": _VIEW}
_MOST_WORDS = 12  # categories that are proposed
_FEWEST_NUMBERS = 3  # different ones; two or fewer are words
_OLDEST = 120
_TELLING = 10  # cases of each of two labels, of which it is no chance that a column tells them apart


class Proposal(NamedTuple):
    """A file of columns, and what it says of each.

    Attributes:
        text: YAML.
        columns: names of those in it.
        left_out: name → why.
    """

    text: str
    columns: tuple[str, ...]
    left_out: dict[str, str]


class _Seen(NamedTuple):
    """What cases say of one thing.

    Attributes:
        name: of the column.
        texts: the words as they are written, of the cases that say it.
        missing: how many do not.
        dicom: its keyword.
        labelled: of each case with a label what it says, or an empty text, and its target.
    """

    name: str
    texts: tuple[str, ...]
    missing: int
    dicom: str
    labelled: tuple[tuple[str, tuple[int, ...]], ...]


def propose_columns(study: Study) -> Proposal:
    """Columns of a study as a file that can be edited, from its training and validation cases.

    Raises:
        StudyError: nothing in the study can be a column.
    """
    cases = tuple(case for case in study.cases if case.split in ("train", "val")) or study.cases
    lines: list[str] = []
    names: list[str] = []
    left_out: dict[str, str] = {}
    for seen in _seen(study, cases):
        described = _described(seen)
        if described.startswith("-"):
            lines.append(f"  {described}  # {_share(seen, len(cases))}")
            names.append(seen.name)
        else:
            left_out[seen.name] = described
    if not names:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in left_out.items()) or "it has no further columns"
        raise StudyError(f"nothing beside the images of {study.root.name} can be a column ({reasons})")
    head = "# What the network is given beside the image. mean, standard_deviation and imputed are measured on train."
    return Proposal("\n".join([head, "columns:", *lines]) + "\n", tuple(names), left_out)


def _seen(study: Study, cases: Sequence[Case]) -> list[_Seen]:
    headers = attributes_of_cases(study, cases, tuple(_OF_HEADERS.values()))
    seen = []
    for name in dict.fromkeys((*study.subgroup_names(), *_OF_HEADERS)):
        keyword = AGE if is_age(name) else _OF_HEADERS.get(name, "")
        texts = [case.value(name) for case in cases]
        if name not in study.subgroup_names() or headers:
            texts = [text or (header[keyword] if keyword else "") for text, header in zip(texts, headers, strict=False)]
        texts = ["" if is_no_label(text) else text for text in texts]
        said = tuple(filter(None, texts))
        if said or name in study.subgroup_names():
            labelled = tuple((text, case.target) for text, case in zip(texts, cases, strict=True) if case.target)
            seen.append(_Seen(name, said, len(cases) - len(said), keyword, labelled))
    return seen


def _described(seen: _Seen) -> str:
    """A line of the file, or why there is none."""
    if not seen.texts:
        return "no training or validation case says it"
    reason = identifying(seen.name, seen.texts)
    if reason:
        return f"it may identify patients ({reason})"
    name = column_name(seen.name)
    if name != seen.name:
        return f"a column's name has small letters, digits and '_'; call it {name!r} in the table"
    numbers = _numbers(seen)
    if numbers is not None and len(set(numbers)) >= _FEWEST_NUMBERS:
        return _tells("filled in", [bool(text) for text, _ in seen.labelled], seen) or _numeric(seen, numbers)
    words = Counter(normal_form(text) for text in seen.texts)
    if not 2 <= len(words) <= min(_MOST_WORDS, MOST_CATEGORIES):
        return f"it has {len(words)} different values; a column has 2 to {_MOST_WORDS} categories, or numbers"
    return _tells("the same", [normal_form(text) for text, _ in seen.labelled], seen) or _categorical(seen, words)


def _tells(what: str, values: Sequence[object], seen: _Seen) -> str:
    """Why ``seen`` may be a label by another name: all cases with the same of ``values`` have the same one."""
    for labels in zip(*(target for _, target in seen.labelled), strict=True):
        rarer = sorted(Counter(labels).values())[:-1]
        if max(rarer, default=0) >= _TELLING and len(set(zip(values, labels, strict=True))) == len(set(values)):
            return (
                f"where it is {what}, so is the label, which it would hand to the network; write its line yourself if "
                "it is known before anybody has read the image"
            )
    return ""


def column_name(text: str) -> str:
    """``text`` with what a column's name may not have replaced."""
    plain = "".join(sign if sign.isascii() and sign.isalnum() else "_" for sign in text.lower()).strip("_")
    return plain if plain[:1].isalpha() else f"column_{plain}"


def _numbers(seen: _Seen) -> list[float] | None:
    """In years where they are ages; None where one is no number."""
    unbounded = NumericColumn(
        name=column_name(seen.name), unit="years", minimum=-1e300, maximum=1e300, dicom=seen.dicom
    )
    try:
        return [float(value) for text in seen.texts if (value := column_value(unbounded, text)) is not None]
    except InputError:
        return None


def _numeric(seen: _Seen, numbers: list[float]) -> str:
    low, high = (0.0, float(_OLDEST)) if seen.dicom == AGE else (math.floor(min(numbers)), math.ceil(max(numbers)))
    unit = "years" if seen.dicom == AGE else "1"
    return (
        f"- {{kind: numeric, name: {seen.name}, unit: {json.dumps(unit)}, minimum: {low:g}, maximum: {high:g}, "
        f"missing: {'impute' if seen.missing else 'refuse'}{_dicom(seen)}}}"
    )


def _categorical(seen: _Seen, words: Counter[str]) -> str:
    written = {normal_form(text): text for text in reversed(seen.texts)}
    names = ["F", "M"] if seen.dicom == SEX and _are_sexes(words) else [written[form] for form in sorted(words)]
    return (
        f"- {{kind: categorical, name: {seen.name}, categories: {json.dumps(names, ensure_ascii=False)}, "
        f"missing: {'category' if seen.missing else 'refuse'}{_dicom(seen)}}}"
    )


def _are_sexes(words: Counter[str]) -> bool:
    return set(words) <= {"f", "m", "female", "male", "woman", "man"}


def _dicom(seen: _Seen) -> str:
    return f", dicom: {seen.dicom}" if seen.dicom else ""


def _share(seen: _Seen, cases: int) -> str:
    return f"{seen.missing} of {cases} cases do not say it" if seen.missing else f"all {cases} cases say it"
