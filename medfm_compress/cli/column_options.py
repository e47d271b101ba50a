"""Columns beside the image, as ``run`` is given them: ``--column NAME=VALUE`` for all images, or a table of them.

A table's ``image`` is a file's name or as much of its path as tells it from others. A row that stands for two of the
images is refused before anything is predicted: one of them would be told of another's patient. Rows that stand for none
are said: the table may be of a larger study, or its names may be misspelt.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePath
from types import MappingProxyType
from typing import NamedTuple

from medfm_compress.cli.parse_units import parse_pairs
from medfm_compress.runtime.columns import Column, Values
from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.regular_file import read_regular

IMAGE = "image"
MOST_BYTES = 256 << 20
_NAMED = 3  # rows that a remark names


class GivenColumns(NamedTuple):
    """What is known of the images.

    Attributes:
        of_all: column → value, of every image.
        rows: image → column → value; the image's path from its end, as it stands in the table.
        remark: what a user should know of rows that no image is of; empty where there are none.
    """

    of_all: Values = MappingProxyType({})
    rows: Mapping[tuple[str, ...], Values] = MappingProxyType({})
    remark: str = ""

    def of(self, image: Path) -> Values:
        """Of one image; a column that nothing is known of is left out."""
        parts = image.parts
        own = [self.rows[parts[start:]] for start in range(len(parts)) if parts[start:] in self.rows]
        return {**self.of_all, **(own[0] if own else {})}


def given_columns(
    columns: Sequence[Column], pairs: Sequence[str] | None, table: Path | None, images: Iterable[Path]
) -> GivenColumns:
    """Read both options and check them against the model's columns and the images.

    Raises:
        InputError: no such column, a column from both, a table that is none, or a row for two images.
    """
    of_all = parse_pairs(pairs, "--column")
    _check_known(of_all, columns, "--column")
    if table is None:
        return GivenColumns(of_all)
    rows = _read_table(table, columns)
    both = sorted(set(of_all) & {name for row in rows.values() for name in row})
    if both:
        raise InputError(f"{both[0]!r} comes from --column and from {table.name}; leave one of them out")
    owners = _owners(rows, table, images)
    return GivenColumns(of_all, rows, _remark_on([name for name in rows if name not in owners], len(rows), table))


def _check_known(names: Iterable[str], columns: Sequence[Column], where: str) -> None:
    known = [column.name for column in columns]
    unknown = [name for name in names if name not in known]
    if unknown:
        takes = f"it takes {', '.join(known)}" if known else "it takes an image alone"
        raise InputError(f"{where} names {unknown[0]!r}, which is no column of the bundle; {takes}")


def _read_table(path: Path, columns: Sequence[Column]) -> dict[tuple[str, ...], Values]:
    try:
        text = read_regular(path, MOST_BYTES, "the table of columns").decode("utf-8-sig")
        reader = csv.reader(io.StringIO(text, newline=""), strict=True)
        header, *lines = [[cell.strip() for cell in line] for line in reader if any(line)] or [[]]
    except (UnicodeDecodeError, csv.Error) as exc:
        raise InputError(f"{path.name} is no CSV table in UTF-8 ({exc}); export it again") from None
    if header.count(IMAGE) != 1 or len(set(header)) != len(header):
        raise InputError(f"{path.name} has the columns {', '.join(header)}; it needs {IMAGE!r} once, and no name twice")
    _check_known([name for name in header if name != IMAGE], columns, path.name)
    rows: dict[tuple[str, ...], Values] = {}
    for number, line in enumerate(lines, 2):
        if len(line) != len(header):
            raise InputError(f"{path.name}, line {number}: {len(line)} cells, the header has {len(header)}")
        row = dict(zip(header, line, strict=True))
        image = PurePath(row.pop(IMAGE)).parts
        if not image or image in rows:
            raise InputError(f"{path.name}, line {number}: {'an image a second time' if image else 'no image'}")
        rows[image] = {name: value for name, value in row.items() if value}
    return rows


def _owners(rows: Mapping[tuple[str, ...], Values], table: Path, images: Iterable[Path]) -> dict[tuple[str, ...], Path]:
    """Row → its image: a row is of one image at most, and an image has one row at most."""
    owner: dict[tuple[str, ...], Path] = {}
    for image in images:
        parts = image.parts
        own = [parts[start:] for start in range(len(parts)) if parts[start:] in rows]
        if len(own) > 1:
            raise InputError(f"{table.name} has two rows for {image}; leave one of them out")
        if own and owner.setdefault(own[0], image) != image:
            name = "/".join(own[0])
            raise InputError(
                f"{table.name}: the row {name!r} stands for {owner[own[0]]} and for {image}; write more of their paths"
            )
    return owner


def _remark_on(unused: Sequence[tuple[str, ...]], rows: int, table: Path) -> str:
    if not unused:
        return ""
    names = ", ".join("/".join(name) for name in unused[:_NAMED]) + (", …" if len(unused) > _NAMED else "")
    return (
        f"warning: {len(unused)} of {rows} rows of {table.name} are of none of the images ({names}); write an image's "
        "name with its ending, or as much of its path as tells it from others"
    )
