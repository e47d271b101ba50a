"""Read a slide with a bundle: overview, tissue, tiles, journal. What comes of it is written by `outputs`.

Memory holds an overview, a few tiles and what the network needs, whatever the size of the slide. The journal makes it
resumable: it depends on the slide's bytes, the model, and every setting that an answer depends on.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from medfm_compress.runtime.engine import Engine
from medfm_compress.runtime.errors import ImageRefused, InputError
from medfm_compress.runtime.progress import Progress, counted, no_progress
from medfm_compress.runtime.slides.answers import TileAnswers, answers_of
from medfm_compress.runtime.slides.journal import NOT_RELIABLE, UNREAD, Journal, TileAnswer, sha256_of
from medfm_compress.runtime.slides.overview import Overview, overview
from medfm_compress.runtime.slides.settings import SlideSettings, check_findings
from medfm_compress.runtime.slides.slide import RegionUnreadable, Slide
from medfm_compress.runtime.slides.table import open_slide
from medfm_compress.runtime.slides.tiling import Tiling, make_tiling, tissue_tiles
from medfm_compress.runtime.threads import map_in_threads

JOURNAL = "journal"


class SlideFile(NamedTuple):
    """A slide as the user names it.

    Attributes:
        path: its file.
        um_per_px: of level 0, instead of what the file says; None takes the file's word.
        reader: one of `table.READERS`; empty takes the first that can.
    """

    path: Path
    um_per_px: float | None = None
    reader: str = ""


class Scan(NamedTuple):
    """A slide that is being read.

    Attributes:
        slide: open.
        sha256: of its file.
        um_per_px: of level 0, (across, down).
        settings: as declared.
        seen: it made small.
        tiling: all tiles.
        tiles: numbers of those that show tissue, in order.
        journal: of their answers.
        answers: how they are answered.
    """

    slide: Slide
    sha256: str
    um_per_px: tuple[float, float]
    settings: SlideSettings
    seen: Overview
    tiling: Tiling
    tiles: NDArray[np.int64]
    journal: Journal
    answers: TileAnswers


@contextmanager
def open_scan(
    engine: Engine, file: SlideFile, settings: SlideSettings, folder: Path, progress: Progress = no_progress
) -> Iterator[Scan]:
    """Everything before the first tile; the journal in ``folder`` goes on where it ended.

    Raises:
        ImageRefused: no slide, no resolution, scanned too coarsely, or no tissue.
        InputError: the bundle's answers make no map, it takes columns beside the image, a threshold of an unknown
            finding, or an unwritable folder.
    """
    if engine.manifest.told:
        names = ", ".join(column.name for column in engine.manifest.told)
        raise InputError(f"the bundle takes columns beside the image ({names}), and a slide is read without any")
    answers, spec = answers_of(engine.task), engine.manifest.image_spec
    check_findings(settings, engine.task.findings)
    with open_slide(file.path, reader=file.reader) as slide:
        um_per_px = _resolution(slide, file.um_per_px)
        tiling = make_tiling(slide, um_per_px, spec, settings, answers.cells(spec))
        seen = overview(slide, progress)
        tiles = tissue_tiles(tiling, seen, settings)
        if not len(tiles):
            raise ImageRefused(
                f"{slide.name} shows no tissue: no tile has {settings.min_tissue:.0%} of it; lower min_tissue, or read "
                "everything with the setting tissue 'everything'"
            )
        sha256 = sha256_of(file.path)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as exc:
            raise InputError(f"cannot write {folder}: {exc.strerror}; choose another folder") from None
        depends = _depends_on(engine, slide, sha256, um_per_px, settings)
        journal = Journal(
            folder / JOURNAL, [*depends, tiles.tolist()], len(engine.task.findings), answers.map_shape(spec)
        )
        try:
            yield Scan(slide, sha256, um_per_px, settings, seen, tiling, tiles, journal, answers)
        finally:
            journal.close()


def answer_tiles(scan: Scan, engine: Engine, threads: int = 1, progress: Progress = no_progress) -> None:
    """Answer every tile that the journal lacks, each at batch 1, on ``threads`` threads; in order.

    A tile that the bundle's own rules refuse (of another colour, without its stains) is not reliable; the rest go on.

    Raises:
        Refused: the network gives no result.
        InputError: the journal cannot be written.
    """
    unread, refused = (_no_answer(engine, scan, status) for status in (UNREAD, NOT_RELIABLE))

    def answer(number: int) -> TileAnswer:
        row, column = divmod(int(scan.tiles[number]), scan.tiling.columns)
        try:
            region = scan.tiling.read(scan.slide, row, column)
        except RegionUnreadable:
            return unread
        try:
            return scan.answers.answer(engine, region)
        except ImageRefused:
            return refused

    left = range(scan.journal.done, len(scan.tiles))
    if left and scan.journal.done:
        progress(f"{scan.journal.done} of {len(scan.tiles)} tiles are in the journal; going on")
    answered = map_in_threads(answer, left, threads)
    for item in counted(answered, "read tiles", len(left), progress):
        scan.journal.add(item)


def tile_scores(scan: Scan) -> Iterator[tuple[int, TileAnswer]]:
    """Number of each tile that shows tissue, and its answer; one after the other."""
    for number, tile in enumerate(scan.tiles):
        yield int(tile), scan.journal.read(number)


def _no_answer(engine: Engine, scan: Scan, status: int) -> TileAnswer:
    shape = scan.answers.map_shape(engine.manifest.image_spec)
    findings = len(engine.task.findings)
    maps = np.zeros((findings, *shape) if shape else (0,), np.uint8)
    return TileAnswer(status, np.full(findings, np.nan, np.float32), maps)


def _resolution(slide: Slide, declared: float | None) -> tuple[float, float]:
    if declared is not None:
        if not 0 < declared <= 100:
            raise InputError(f"--um-per-px is {declared}; it must be above 0 and at most 100 micrometres a pixel")
        return declared, declared
    if slide.um_per_px is None:
        raise ImageRefused(
            f"{slide.name} does not say how many micrometres a pixel is; give --um-per-px, e.g. 0.25 of a 40× scan"
        )
    return slide.um_per_px


def _depends_on(
    engine: Engine, slide: Slide, sha256: str, um_per_px: tuple[float, float], settings: SlideSettings
) -> list[Any]:
    cut = (settings.tile_um_per_px, settings.overlap, settings.tissue, settings.min_tissue)
    return [sha256, slide.backend, um_per_px, engine.manifest.model_digest, engine.variant.name, cut]
