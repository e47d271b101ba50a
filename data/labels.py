"""From label columns to a task: which kind, which names, in which order.

Exclusive labels stand in one column ``label``; two values make a binary task, more a multi-class one. A binary task's
finding is its second label, so the conventional names of "nothing found" come first; else the order is alphabetical.
Independent findings stand in columns ``label:NAME`` of 0 and 1, in the table's order: a multi-label task.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from medfm_compress.runtime.errors import StudyError
from medfm_compress.runtime.task import TaskKind

NEGATIVE_NAMES = ("normal", "negative", "benign", "healthy", "none", "no", "other", "absent", "control", "false", "0")
PREFIX = "label:"


def label_names(values: Iterable[str]) -> tuple[str, ...]:
    """Distinct labels, the negative one first, then alphabetically."""

    def rank(name: str) -> tuple[int, str]:
        low = name.lower()
        negative = low in NEGATIVE_NAMES or low.startswith(("no ", "no_", "no-"))
        return (0 if negative else 1, name)

    return tuple(sorted({value for value in values if value}, key=rank))


def task_kind(labels: Sequence[str], source: str) -> TaskKind:
    """``binary`` or ``multiclass`` from the number of exclusive labels.

    Raises:
        StudyError: exactly one label, which leaves nothing to tell apart.
    """
    if len(labels) == 1:
        raise StudyError(f"{source}: every labelled image is {labels[0]!r}; at least two labels are needed")
    return "binary" if len(labels) == 2 else "multiclass"


def independent_targets(row: dict[str, str], columns: Sequence[str], source: str) -> tuple[int, ...]:
    """0/1 of the ``label:NAME`` columns; empty where all of them are empty.

    Raises:
        StudyError: a value other than 0, 1 or all empty.
    """
    values = [row[column].strip() for column in columns]
    if not any(values):
        return ()
    for column, value in zip(columns, values, strict=True):
        if value not in {"0", "1"}:
            raise StudyError(f"{source}: column {column!r} has {value!r}; multi-label columns hold 0 or 1")
    return tuple(int(value) for value in values)
