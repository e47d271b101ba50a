"""What ``run`` prints for people: a line an image, or the rows of a table for folders, each as soon as it is there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from medfm_compress.runtime.errors import MedfmError

if TYPE_CHECKING:
    from medfm_compress.runtime.prediction import Prediction
    from medfm_compress.runtime.segmentation.result import Segmentation
    from medfm_compress.runtime.task import Task

SHOWN_CLASSES = 5  # of a multiclass task, the most probable ones; --json gives all
_COLUMNS = 4  # findings that have a column of their own
_LONGEST_NAME = 120  # characters of a path that the columns behind it are aligned for
_SHOWN_OF_HASH = 12  # of a SHA-256; --json gives it whole
_CALLED = {True: "called", False: "not called", None: "no operating point"}


def as_line(image: Path, outcome: Prediction | MedfmError | str) -> str:
    """``chest.dcm: opacity 0.913 (called)``."""
    return f"{image.name}{_frame(outcome)}: {_in_words(image, outcome, _findings)}"


class Rows:
    """A table that is printed row by row, so that its columns have to be known beforehand.

    Attributes:
        header: the first line.
    """

    def __init__(self, task: Task, longest: int) -> None:
        """Columns for the findings of ``task`` and paths of up to ``longest`` characters."""
        self._image = max(min(longest, _LONGEST_NAME), len("image"))
        single = task.kind != "multiclass" and len(task.findings) <= _COLUMNS
        heads = {name: name if task.gives_probabilities else f"{name} score" for name in task.findings}
        widths = {name: max(len(head), len("0.000 not called")) for name, head in heads.items()}
        self._columns = widths if single else {}
        headers = [f"{heads[name]:{width}}" for name, width in self._columns.items()] or ["findings"]
        self.header = "  ".join([f"{'image':{self._image}}", *headers]).rstrip()

    def row(self, image: Path, outcome: Prediction | MedfmError | str) -> str:
        """The row of an image: what was predicted, why it was refused, or why it was skipped."""
        text = _in_words(image, outcome, self._cells if self._columns else _findings)
        return f"{f'{image}{_frame(outcome)}':{self._image}}  {text}"

    def _cells(self, outcome: Prediction) -> str:
        cells = (
            f"{f'{outcome.probabilities[name]:.3f} {_CALLED[outcome.findings[name]]}':{width}}"
            for name, width in self._columns.items()
        )
        return "  ".join(cells).rstrip()


def _frame(outcome: Prediction | MedfmError | str) -> str:
    number = None if isinstance(outcome, (str, MedfmError)) else outcome.frame
    return "" if number is None else f", frame {number}"


def _in_words(image: Path, outcome: Prediction | MedfmError | str, predicted: Callable[[Prediction], str]) -> str:
    if isinstance(outcome, str):
        return f"skipped: {outcome}"
    if isinstance(outcome, MedfmError):
        return f"refused: {str(outcome).removeprefix(f'{image.name}: ')}"  # the name stands before it already
    flags = f"  [{', '.join(outcome.flags)}]" if outcome.flags else ""
    if not outcome.probabilities:
        return f"not reliable: {outcome.not_reliable} (typicality {outcome.typicality:.3g}){flags}"
    areas = f"  {_areas(outcome.segmentation)}" if outcome.segmentation is not None else ""
    alike = f"  most like training case {outcome.nearest[0][:_SHOWN_OF_HASH]}" if outcome.nearest else ""
    beside = "".join(f", {name} {source}" for name, source in outcome.columns.items())
    told = f"  ({beside.removeprefix(', ')})" if beside else ""
    return predicted(outcome) + areas + alike + told + flags


def _areas(segmentation: Segmentation) -> str:
    """``lesion 1,204 px in 2 regions``, of structures that are shown."""
    mm2 = segmentation.area_mm2
    return ", ".join(
        f"{name} {f'{count:,} px' if mm2 is None else f'{mm2[name]:.4g} mm²'} in "
        f"{len(segmentation.regions[name])} region(s)"
        for name, count in segmentation.area_px.items()
        if count
    )


def _findings(outcome: Prediction) -> str:
    names = list(outcome.probabilities)
    if outcome.label is not None:
        names = sorted(names, key=outcome.probabilities.__getitem__, reverse=True)[:SHOWN_CLASSES]
    what = " score" if outcome.is_score else ""
    return ", ".join(
        f"{name}{what} {outcome.probabilities[name]:.3f} ({_CALLED[outcome.findings[name]]})" for name in names
    )
