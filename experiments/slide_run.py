"""A slide of 20,000 × 20,000 px out of real tiles: memory, time, kill and resume, and whether tumours are found.

    python experiments/slide_run.py make DATA/lung-histology slide.tif [--side 20000]
    python experiments/slide_run.py measure bundle.medfm slide.tif settings.json OUT

The slide is glass with an ellipse of benign lung tissue and two discs of carcinoma in it, of the test split's tiles of
LC25000, written in JPEG tiles of 256 px. Where what lies stands beside it, as ``slide.truth.json``.
"""

from __future__ import annotations

import argparse
import csv
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from jpeg_slide import write_jpeg_slide
from medfm_compress.bench.stats.auroc import clustered_areas

Picture = NDArray[np.uint8]
PATCH_PX, FILE_TILE_PX = 224, 256
UM_PER_PX = 0.5
EACH = 48  # tiles of each kind that are kept in memory
GLASS = 242
KINDS = ("glass", "benign", "adenocarcinoma", "squamous")
DISCS = {
    "adenocarcinoma": (0.36, 0.40, 0.09),
    "squamous": (0.62, 0.60, 0.07),
}  # down, across, radius; parts of the side


def layout(side: int) -> NDArray[np.uint8]:
    """Which of `KINDS` each patch of the slide is, ``[rows, columns]``."""
    count = -(-side // PATCH_PX)
    y, x = (np.mgrid[:count, :count] + 0.5) / count
    kinds = (((y - 0.5) / 0.38) ** 2 + ((x - 0.5) / 0.32) ** 2 < 1).astype(np.uint8)
    for kind, (down, across, radius) in DISCS.items():
        kinds[(y - down) ** 2 + (x - across) ** 2 < radius**2] = KINDS.index(kind)
    return np.asarray(kinds, np.uint8)


def read_tiles(data: Path) -> dict[str, list[Picture]]:
    """Tiles of the test split of each kind."""
    tiles: dict[str, list[Picture]] = {kind: [] for kind in KINDS[1:]}
    with (data / "cases.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            if row["split"] == "test" and len(tiles[row["label"]]) < EACH:
                tiles[row["label"]].append(np.asarray(Image.open(data / row["image"]).convert("RGB")))
    return tiles


def make(data: Path, path: Path, side: int) -> None:
    """Write the slide and what it shows."""
    kinds, tiles = layout(side), read_tiles(data)
    rng = np.random.default_rng(0)
    chosen = rng.integers(0, 1 << 30, kinds.shape)
    glass = np.clip(rng.normal(GLASS, 1.5, (PATCH_PX, PATCH_PX, 1)), 0, 255).astype(np.uint8).repeat(3, axis=2)

    def patch(row: int, column: int) -> Picture:
        if row >= kinds.shape[0] or column >= kinds.shape[1] or kinds[row, column] == 0:
            return glass
        of_kind = tiles[KINDS[kinds[row, column]]]
        return np.asarray(of_kind[chosen[row, column] % len(of_kind)], np.uint8)

    def tile_of(row: int, column: int) -> Picture:
        top, left = row * FILE_TILE_PX, column * FILE_TILE_PX
        rows = range(top // PATCH_PX, (top + FILE_TILE_PX - 1) // PATCH_PX + 1)
        columns = range(left // PATCH_PX, (left + FILE_TILE_PX - 1) // PATCH_PX + 1)
        block = np.concatenate([np.concatenate([patch(r, c) for c in columns], axis=1) for r in rows])
        y, x = top - rows[0] * PATCH_PX, left - columns[0] * PATCH_PX
        return block[y : y + FILE_TILE_PX, x : x + FILE_TILE_PX]

    start = time.monotonic()
    write_jpeg_slide(path, (side, side), tile_of, UM_PER_PX)
    path.with_suffix(".truth.json").write_text(json.dumps({"kinds": KINDS, "layout": kinds.tolist()}))
    print(  # noqa: T201
        f"wrote {path}: {path.stat().st_size / 1e6:.0f} MB in {time.monotonic() - start:.0f} s"
    )


def command(arguments: list[str]) -> list[str]:
    """The product's own command line."""
    return [sys.executable, "-m", "medfm_compress", "slide", "run", *arguments]


def run(bundle: Path, slide: Path, settings: Path, out: Path) -> dict[str, Any]:
    """One run to its end; what it prints."""
    arguments = [str(bundle), str(slide), "--settings", str(settings), "--out", str(out), "--unverified", "--overwrite"]
    done = subprocess.run(command([*arguments, "--json", "--quiet"]), capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def kill_after(bundle: Path, slide: Path, settings: Path, out: Path, tiles: int) -> int:
    """Begin, and kill −9 once so many tiles are in the journal; how many there are then."""
    arguments = [str(bundle), str(slide), "--settings", str(settings), "--out", str(out), "--unverified", "--quiet"]
    process = subprocess.Popen(command(arguments))
    journal = out / "journal"
    size = 0
    while process.poll() is None:
        if journal.exists():
            header = journal.read_bytes()[:200].split(b"\n")[0]
            size = int(header.split()[4]) if len(header.split()) > 4 else 0
            if size and journal.stat().st_size > len(header) + 1 + tiles * size:
                process.send_signal(signal.SIGKILL)
                process.wait()
                return (journal.stat().st_size - len(header) - 1) // size
        time.sleep(0.02)
    raise SystemExit("it was done before it could be killed; use a larger slide")


def tile_areas(slide: Path, table: Path, findings: list[str]) -> dict[str, float]:
    """AUROC of each finding over the answered tiles; a tile's truth is what lies in its middle."""
    kinds = np.array(json.loads(slide.with_suffix(".truth.json").read_text())["layout"])
    with table.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["status"] == "answered"]
    middle = [
        ((int(r["y"]) + int(r["height"]) // 2) // PATCH_PX, (int(r["x"]) + int(r["width"]) // 2) // PATCH_PX)
        for r in rows
    ]
    truth = np.array([kinds[place] for place in middle])
    areas = {}
    for finding in findings:
        positive = (truth == KINDS.index(finding)).astype(np.int64)
        scores = np.array([[float(row[finding]) for row in rows]])
        areas[finding] = round(float(clustered_areas(scores, positive, np.arange(len(rows))).values[0]), 4)
    return areas


def measure(bundle: Path, slide: Path, settings: Path, out: Path) -> None:
    """A whole run; one that is killed and goes on; whether they gave the same bytes."""
    whole = run(bundle, slide, settings, out / "whole")
    killed_at = kill_after(bundle, slide, settings, out / "killed", whole["tiles"]["tissue"] // 2)
    resumed = run(bundle, slide, settings, out / "killed")
    names = sorted(path.name for path in (out / "whole").iterdir())
    same = names == sorted(path.name for path in (out / "killed").iterdir()) and all(
        (out / "whole" / name).read_bytes() == (out / "killed" / name).read_bytes() for name in names
    )
    print(  # noqa: T201
        json.dumps(
            {
                "slide": slide.name,
                "slide_mb": round(slide.stat().st_size / 1e6, 1),
                "size_px": whole["size_px"],
                "tiles": whole["tiles"],
                "probabilities": whole["probabilities"],
                "seconds": whole["seconds"],
                "peak_mb": whole["peak_mb"],
                "killed_at_tile": killed_at,
                "resumed_seconds": resumed["seconds"],
                "same_bytes": same,
                "files": names,
                "tile_auroc": tile_areas(slide, out / "whole" / "tiles.csv", list(whole["probabilities"])),
            },
            indent=2,
        )
    )


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(required=True)
    maker = commands.add_parser("make")
    maker.add_argument("data", type=Path)
    maker.add_argument("slide", type=Path)
    maker.add_argument("--side", type=int, default=20_000)
    maker.set_defaults(call=lambda given: make(given.data, given.slide, given.side))
    measurer = commands.add_parser("measure")
    for name in ("bundle", "slide", "settings", "out"):
        measurer.add_argument(name, type=Path)
    measurer.set_defaults(call=lambda given: measure(given.bundle, given.slide, given.settings, given.out))
    given = parser.parse_args()
    given.call(given)


if __name__ == "__main__":
    main()
