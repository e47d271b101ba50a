"""Read and write ``cases.csv``: UTF-8, comma-separated, one header line. A complaint names the column or the line."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from medfm_compress.data.labels import PREFIX, names_of
from medfm_compress.data.masks import mask_folder
from medfm_compress.data.sources import ARCHIVE_MARK, locate
from medfm_compress.data.study import Case, Study
from medfm_compress.runtime.atomic_write import write_atomically
from medfm_compress.runtime.errors import InputError, StudyError
from medfm_compress.runtime.regular_file import read_regular

MASK, MASK_PREFIX = "mask", "mask:"
_MOST_BYTES = 1 << 30


class Table(NamedTuple):
    """A parsed table.

    Attributes:
        path: of the file.
        columns: header names.
        rows: cells by column, stripped.
    """

    path: Path
    columns: tuple[str, ...]
    rows: tuple[dict[str, str], ...]

    @property
    def mask_columns(self) -> tuple[str, ...]:
        """``mask``, or the columns ``mask:NAME``, one a structure."""
        return tuple(name for name in self.columns if name == MASK or name.startswith(MASK_PREFIX))

    @property
    def structures(self) -> tuple[str, ...]:
        """Names of the structures that have a column of their own."""
        return tuple(name.removeprefix(MASK_PREFIX).strip() for name in self.mask_columns if name != MASK)

    @property
    def label_columns(self) -> tuple[str, ...]:
        """The 0/1 columns ``label:NAME``."""
        return tuple(name for name in self.columns if name.startswith(PREFIX))

    @property
    def findings(self) -> tuple[str, ...]:
        """Their names."""
        return tuple(name.removeprefix(PREFIX).strip() for name in self.label_columns)


def read_table(path: Path) -> Table:
    """Parse a CSV file.

    Raises:
        StudyError: unreadable, not UTF-8, no rows, a doubled or unnamed column, or a line of another length.
    """
    lines = list(_lines(path))
    if not lines:
        raise StudyError(f"{path.name} is empty; it needs a header line and one line an image")
    header = tuple(cell.strip() for cell in lines[0][1])
    _check_header(path, header)
    for number, cells in lines:
        if len(cells) != len(header):
            raise StudyError(f"{path.name} line {number} has {len(cells)} cells, the header has {len(header)}")
    if len(lines) == 1:
        raise StudyError(f"{path.name} has a header but no rows; add one line an image")
    rows = tuple(dict(zip(header, (cell.strip() for cell in cells), strict=True)) for _, cells in lines[1:])
    return Table(path, header, rows)


def require_columns(table: Table, columns: Iterable[str]) -> None:
    """Refuse a table that lacks a column.

    Raises:
        StudyError: naming the column, what is there and what to do.
    """
    hints = {"split": ": 'train' in every row will do, 'medfm-compress study split' then cuts val and test"}
    for column in columns:
        if column not in table.columns:
            raise StudyError(
                f"{table.path.name} has no column {column!r}; it has {', '.join(table.columns)}. Add it"
                + hints.get(column, "")
            )


def write_table(study: Study, path: Path) -> None:
    """Write the cases of ``study`` so that opening ``path`` gives them again, wherever ``path`` is; atomic.

    Images below the folder of ``path`` are written relative to it, all others as absolute paths.
    """
    folder = path.absolute().parent
    labels, masks = _label_columns(study), _mask_columns(study)
    optional = ["patient"] if any(case.patient for case in study.cases) else []
    subgroups = study.subgroup_names()
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["image", "split", *labels, *masks, *optional, *subgroups])
    for case in study.cases:
        drawn = _mask_cells(study, case, len(masks), folder)
        groups = [case.value(name) for name in subgroups]
        targets = _label_cells(study, case, len(labels))
        image = _place(study, case.image, folder)
        writer.writerow([image, case.split, *targets, *drawn, *([case.patient] * len(optional)), *groups])
    write_atomically(path, text.getvalue().encode())


def _label_columns(study: Study) -> list[str]:
    if study.kind in ("segmentation", "anomaly"):  # their labels are a subgroup
        return []
    return [PREFIX + label for label in study.labels] if study.independent else ["label"] * bool(study.labels)


def _mask_columns(study: Study) -> list[str]:
    """Of a segmentation study one a structure, so that the table says what its masks show; else those it came with."""
    if study.kind == "segmentation":
        return [MASK_PREFIX + label for label in study.labels]
    return list(study.mask_columns)


def _mask_cells(study: Study, case: Case, width: int, folder: Path) -> list[str]:
    """Paths; a file that holds every structure stands for each of them."""
    paths = [_path_from(folder, mask_folder(study) / mask) if mask else "" for mask in case.masks] or [""]
    return paths * width if len(paths) == 1 else paths


def _label_cells(study: Study, case: Case, width: int) -> Sequence[str]:
    if not case.target or not width:
        return [""] * width
    return [str(value) for value in case.target] if study.independent else names_of(study, case)


def _place(study: Study, image: str, folder: Path) -> str:
    file, mark, key = locate(study.source, image).partition(ARCHIVE_MARK)
    text = _path_from(folder, Path(file + ".npz" if mark else file))
    return f"{text}#{key}" if mark else text


def _path_from(folder: Path, path: Path) -> str:
    """Relative where it lies below the folder, else absolute."""
    path = path.absolute()
    text = path.relative_to(folder).as_posix() if path.is_relative_to(folder) else path.as_posix()
    if text != text.strip():
        raise StudyError(f"{text!r} begins or ends with a space, which a cell of a table does not keep; rename it")
    return text


def _lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Lines that are not empty, with their numbers."""
    reader = csv.reader(io.StringIO(_text(path), newline=""), strict=True)
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                yield reader.line_num, cells
    except csv.Error as exc:
        raise StudyError(f"{path.name} line {reader.line_num} is not valid CSV: {exc}; save it again as CSV") from None


def _text(path: Path) -> str:
    try:
        # utf-8-sig: Excel begins its "CSV UTF-8" with a byte order mark.
        return read_regular(path, _MOST_BYTES, "table").decode("utf-8-sig")
    except InputError as exc:
        raise StudyError(f"{exc}; give a readable CSV file") from None
    except UnicodeDecodeError as exc:
        raise StudyError(f"{path.name} is not UTF-8 (byte {exc.start}); save it as 'CSV UTF-8'") from None


def _check_header(path: Path, header: tuple[str, ...]) -> None:
    if len(header) == 1 and any(mark in header[0] for mark in ";\t"):
        raise StudyError(f"{path.name} does not separate its columns by commas; save it as comma-separated CSV")
    doubled = [name for name, count in Counter(header).items() if count > 1]
    if doubled:
        raise StudyError(f"{path.name} has the column {doubled[0]!r} twice; rename or remove one")
    if not all(header):
        raise StudyError(f"{path.name} has a column without a name; name or remove it")
