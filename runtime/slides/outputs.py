"""What is written of a slide: result, table of tiles, heat maps, label map, pictures. Each whole or absent."""

from __future__ import annotations

import heapq
import math
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from medfm_compress.runtime.atomic_write import replacing, write_atomically
from medfm_compress.runtime.engine import Engine
from medfm_compress.runtime.slides.aggregation import Aggregator
from medfm_compress.runtime.slides.journal import NOT_RELIABLE, PREDICTED, UNREAD
from medfm_compress.runtime.slides.pictures import TopTile, overlay, write_contact_sheet, write_overlay
from medfm_compress.runtime.slides.pillow_reader import open_tiff_with_pillow
from medfm_compress.runtime.slides.result import MAX_LISTED, UNREAD_FLAG, SlideResult, TileCounts, TileRow
from medfm_compress.runtime.slides.scan import Scan, tile_scores
from medfm_compress.runtime.slides.slide import RegionUnreadable
from medfm_compress.runtime.slides.stitch import Stitched, write_heat_map, write_label_map
from medfm_compress.runtime.slides.tiling import shown_tissue
from medfm_compress.runtime.strict_json import encode

RESULT, TILES = "result.json", "tiles.csv"
TOP_TILES = 12
_STATUS = {PREDICTED: "answered", UNREAD: "unread", NOT_RELIABLE: "not reliable"}


class _Summary(NamedTuple):
    """What one walk over the tiles leaves."""

    counts: dict[int, int]
    aggregator: Aggregator
    unread: list[TileRow]
    top: list[list[tuple[float, int]]]


def write_outputs(scan: Scan, engine: Engine, folder: Path) -> SlideResult:
    """Write everything into ``folder``, ``result.json`` last.

    Raises:
        InputError: a file cannot be written.
    """
    task = engine.task
    summary = _walk(scan, task.findings, folder / TILES)
    stitched = Stitched(scan.tiling, scan.tiles, scan.journal, scan.answers)
    down, across = scan.tiling.cell_side
    cell_um = across * scan.um_per_px[0], down * scan.um_per_px[1]
    for number, finding in enumerate(task.findings):
        heat = folder / f"heat-{_file_name(finding, number)}.tif"
        write_heat_map(heat, stitched, task.findings, finding, cell_um)
        _write_pictures(scan, heat, finding, summary.top[number])
    areas: dict[str, float] = {}
    if task.is_dense:
        cells = write_label_map(folder / "labels.tif", stitched, task.labels, cell_um)
        areas = {
            name: float(count * cell_um[0] * cell_um[1] / 1e6) for name, count in zip(task.labels, cells, strict=True)
        }
    result = _result(scan, engine, summary, areas)
    write_atomically(folder / RESULT, encode(result))
    return result


def _walk(scan: Scan, findings: tuple[str, ...], table: Path) -> _Summary:
    """Write the table of tiles; count, sum up, and keep the most probable."""
    summary = _Summary(
        dict.fromkeys(_STATUS, 0),
        Aggregator(len(findings), scan.settings.aggregation, scan.settings.top),
        [],
        [[] for _ in findings],
    )
    with replacing(table) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        file.write(",".join(["row", "column", "x", "y", "width", "height", "status", *map(_quoted, findings)]) + "\n")
        for tile, answer in tile_scores(scan):
            row, column = divmod(tile, scan.tiling.columns)
            box = scan.tiling.box(row, column)
            shown = ["" if math.isnan(score) else f"{score:.6g}" for score in answer.scores.tolist()]
            file.write(",".join([str(row), str(column), *map(str, box), _STATUS[answer.status], *shown]) + "\n")
            summary.counts[answer.status] += 1
            if answer.status == UNREAD and len(summary.unread) < MAX_LISTED:
                summary.unread.append(TileRow(**box._asdict()))
            if answer.status == PREDICTED:
                _count(summary, tile, answer.scores)
    return summary


def _count(summary: _Summary, tile: int, scores: NDArray[np.float32]) -> None:
    summary.aggregator.add(scores)
    for kept, score in zip(summary.top, scores.tolist(), strict=True):
        (heapq.heappush if len(kept) < TOP_TILES else heapq.heappushpop)(kept, (score, -tile))


def _result(scan: Scan, engine: Engine, summary: _Summary, areas: dict[str, float]) -> SlideResult:
    findings, settings = engine.task.findings, scan.settings
    withheld = _withheld(scan, summary)
    scores = dict(zip(findings, summary.aggregator.scores().tolist(), strict=True))
    called = {
        finding: scores[finding] >= settings.thresholds[finding] if finding in settings.thresholds else None
        for finding in findings
    }
    return SlideResult(
        slide=scan.slide.name,
        slide_sha256=scan.sha256,
        size_px=(scan.slide.levels[0].width, scan.slide.levels[0].height),
        um_per_px=scan.um_per_px,
        reader=scan.slide.backend,
        settings=settings,
        tiles=TileCounts(
            all=scan.tiling.rows * scan.tiling.columns,
            tissue=len(scan.tiles),
            answered=summary.counts[PREDICTED],
            unread=summary.counts[UNREAD],
            not_reliable=summary.counts[NOT_RELIABLE],
        ),
        probabilities={} if withheld else scores,
        findings={} if withheld else called,
        withheld=withheld,
        flags=(*((UNREAD_FLAG,) if summary.counts[UNREAD] else ()), *engine.standing_flags),
        unread=tuple(summary.unread),
        top={finding: _top_rows(scan, finding, kept) for finding, kept in zip(findings, summary.top, strict=True)},
        area_mm2=areas,
        variant=engine.variant.name,
        model_digest=engine.manifest.model_digest,
        intended_use=engine.manifest.intended_use,
    )


def _withheld(scan: Scan, summary: _Summary) -> str:
    """Why no label of the slide is given; empty where one is."""
    unread, unlike = summary.counts[UNREAD], summary.counts[NOT_RELIABLE]
    if unread and scan.settings.unread == "refuse":
        return f"{unread} tiles could not be read, and the settings refuse a label then"
    if not summary.counts[PREDICTED] or unread + unlike > scan.settings.max_missing * len(scan.tiles):
        return (
            f"{unread} of {len(scan.tiles)} tissue tiles could not be read, {unlike} are unlike the training images or "
            f"refused by the bundle's rules of images; at most {scan.settings.max_missing:.0%} may lack an answer"
        )
    return ""


def _top_rows(scan: Scan, finding: str, kept: list[tuple[float, int]]) -> tuple[TileRow, ...]:
    rows = []
    for score, tile in sorted(kept, reverse=True):
        box = scan.tiling.box(*divmod(-tile, scan.tiling.columns))
        rows.append(TileRow(**box._asdict(), probabilities={finding: score}))
    return tuple(rows)


def _write_pictures(scan: Scan, heat: Path, finding: str, kept: list[tuple[float, int]]) -> None:
    with open_tiff_with_pillow(heat) as file:
        level = file.levels[-1]
        small = file.read_region(0, 0, len(file.levels) - 1, level.width, level.height)[..., 0]
    cells = [extent / side for extent, side in zip(scan.tiling.extent, scan.tiling.cell_side, strict=True)]
    down, across = (min(1.0, part / whole) for part, whole in zip(cells, scan.tiling.map_shape, strict=True))
    note = "; ".join(
        [
            scan.slide.name,
            "tissue without colour: no answer",
            *(["grey bands: not read"] * bool(scan.seen.unread.any())),
        ]
    )
    write_overlay(
        heat.with_name(heat.stem.replace("heat-", "overlay-", 1) + ".png"),
        overlay(scan.seen, small, (down, across), shown_tissue(scan.seen, scan.settings)),
        finding,
        note,
    )
    tiles = []
    for score, tile in sorted(kept, reverse=True):
        row, column = divmod(-tile, scan.tiling.columns)
        box = scan.tiling.box(row, column)
        try:
            tiles.append(TopTile(scan.tiling.read(scan.slide, row, column), f"{score:.4f}  at {box.x}, {box.y}"))
        except RegionUnreadable:  # it was read before: the file is changing
            continue
    write_contact_sheet(
        heat.with_name(heat.stem.replace("heat-", "top-", 1) + ".png"), tiles, f"{scan.slide.name}: most {finding}"
    )


def _file_name(finding: str, number: int) -> str:
    """The finding where it is a plain word, else its number: names of files are not for anybody's text."""
    return finding if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,60}", finding) else str(number + 1)


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"' if re.search(r'[",\r\n]', text) else text
