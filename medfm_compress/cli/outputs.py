"""What --out may name: nothing that is there is replaced unless the user says so."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from medfm_compress.cli.engine_choice import is_folder
from medfm_compress.runtime.errors import InputError


def check_file_out(out: Path, suffix: str, overwrite: bool) -> None:
    """Said before any work: --out names a file of this kind, which is not there yet or may be replaced.

    Raises:
        InputError: an empty path, another suffix, a folder, or a file that is there.
    """
    check_place(out)
    if out.suffix.lower() != suffix:
        raise InputError(f"--out is {out}; give the path of a {suffix} file")
    if out.is_dir():
        raise InputError(f"--out {out} is a folder; give the path of a {suffix} file")
    if out.exists() and not overwrite:
        raise InputError(f"--out {out} exists; name another file, or replace it with --overwrite")


def check_place(out: Path) -> None:
    """Said before any work: --out names a place that can be written, which an empty one does not.

    An empty --out is read as the current folder, which nobody means to fill.

    Raises:
        InputError: it is empty, or the current folder by its short name, or its folder cannot be written.
    """
    if out == Path():
        raise InputError("--out is empty or '.'; give the path of what is to be written")
    _check_writable("--out", out)


def _check_writable(option: str, path: Path) -> None:
    """``path`` is a folder that takes files, or lies in one, or its folder can be made."""
    import tempfile

    places = (path, *path.absolute().parents) if path.is_dir() else path.absolute().parents
    folder = next(place for place in places if place.exists())
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as exc:
        raise InputError(
            f"{option} {path} cannot be written: {folder}: {exc.strerror}; choose a folder that exists and is writable"
        ) from None


REPORT_FILES = ("report.json", "report.html", "flips.csv", "gallery.html")
"""What bench writes into its folder; the log of evaluations there is only added to."""


def check_report_out(out: Path, overwrite: bool, holds: Sequence[str] = REPORT_FILES) -> None:
    """Said before any work: --out is a folder in which there is no report yet, or one that may be replaced.

    Raises:
        InputError: an empty path, a file, or a folder that holds any of ``holds``, which would be replaced.
    """
    check_place(out)
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out} is a file; give a folder")
    there = [name for name in holds if os.path.lexists(out / name)]
    if there and not overwrite:
        raise InputError(f"--out {out} has {there[0]} already; name another folder, or replace it with --overwrite")


def check_new_folders(folders: Mapping[str, Path | None], images: Sequence[Path]) -> None:
    """Said before any work: of files that are named after images, each option has a new or empty folder of its own.

    Else an image, or another option's file, would be replaced; and what is written among images would be read as one.

    Raises:
        InputError: an empty path, a file, a folder that holds something, that two options share, or that lies in a
            folder of ``images``.
    """
    taken: dict[Path, str] = {}
    for option, folder in folders.items():
        if folder is None:
            continue
        if folder == Path() or (os.path.lexists(folder) and not folder.is_dir()):
            raise InputError(f"{option} is {str(folder)!r}; give the path of a folder")
        try:
            place, holds = folder.resolve(), folder.is_dir() and any(folder.iterdir())
        except (OSError, ValueError, RuntimeError) as exc:
            raise InputError(f"{option}: {folder} cannot be looked into ({exc}); give another folder") from None
        if place in taken:
            raise InputError(f"{taken[place]} and {option} are both {folder}; give each a folder of its own")
        if holds:
            raise InputError(f"{folder} already holds something; give {option} a new or empty folder")
        searched = filter(is_folder, images)
        inside = next((image for image in searched if image.resolve() in (place, *place.parents)), None)
        if inside is not None:
            raise InputError(f"{option} lies in {inside}, where images are looked for; give a folder elsewhere")
        _check_writable(option, folder)
        taken[place] = option


def check_new_files(files: Mapping[str, Path | None], overwrite: bool) -> None:
    """Said before any work: none of the files that options name is there, or all may be replaced.

    Raises:
        InputError: an empty path, a folder, or a file that is there.
    """
    for option, path in files.items():
        if path is None:
            continue
        if path == Path() or path.is_dir():
            raise InputError(f"{option} is {str(path)!r}; give the path of a file")
        if path.exists() and not overwrite:
            raise InputError(f"{option} {path} exists; name another file, or replace it with --overwrite")
        _check_writable(option, path)
