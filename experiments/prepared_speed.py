"""How many images a second are read, prepared and kept, and read back: of this tree and of others beside it.

    python experiments/prepared_speed.py GREY_FOLDER COLOUR_FOLDER [--beside TREE]

Of either folder up to 150 pictures are made 224 × 224 and turned in four ways, as JPEG (quality 90) and as PNG, for a
network of three channels and 224 px. *First* decodes, prepares and writes the cache; *again* hashes the sources, finds
the cache and reads all of it in batches of 64; *batches* is the reading alone. Fresh processes of the trees take turns,
with the two threads that the product uses. *CPU* is the processor's time of *first* an image: two cores give at most
2,000 ms / CPU images a second.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

SIDE, MOST, BATCH = 224, 150, 64
FIGURES = ("first", "again", "batches", "cpu_ms")


def write_studies(grey: Path, colour: Path, folder: Path) -> None:
    """Folders ``grey JPEG``, ``grey PNG``, ``colour JPEG`` and ``colour PNG`` of 600 images each."""
    from PIL import Image

    for name, source, mode in (("grey", grey, "L"), ("colour", colour, "RGB")):
        paths = sorted(path for path in source.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
        paths = paths[:: max(1, len(paths) // MOST)][:MOST]
        for kind, ending in (("JPEG", "jpg"), ("PNG", "png")):
            (folder / f"{name} {kind}").mkdir()
            for number, path in enumerate(paths):
                with Image.open(path) as image:
                    small = image.convert(mode).resize((SIDE, SIDE))
                for turn in range(4):
                    file = folder / f"{name} {kind}" / f"{number}-{turn}.{ending}"
                    small.rotate(90 * turn).save(file, quality=90)  # PNG has none, and ignores it


def measure(folder: Path) -> dict[str, list[float]]:
    """Of each study the `FIGURES`: images a second, and processor time an image in ms."""
    from medfm_compress.data.prepared import prepared_images
    from medfm_compress.data.sources import Files
    from medfm_compress.data.study import Case, Study
    from medfm_compress.runtime.image_spec import ImageSpec

    spec = ImageSpec(height_px=SIDE, width_px=SIDE, colour="rgb", mean=(0.5,) * 3, std=(0.25,) * 3)
    result = {}
    for path in sorted(path for path in folder.iterdir() if path.is_dir()):
        cases = tuple(Case(image=file.name, split="train", target=(0,)) for file in sorted(path.iterdir()))
        study = Study(root=path, kind="binary", labels=("a", "b"), cases=cases, source=Files(path))
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            cache = Path(scratch)
            prepared_images(study, cases[:8], spec, None)  # imports
            start, used = time.perf_counter(), time.process_time()
            prepared_images(study, cases, spec, cache)
            first, used = time.perf_counter() - start, time.process_time() - used
            start = time.perf_counter()
            rows = prepared_images(study, cases, spec, cache)
            opened = time.perf_counter()
            for at in range(0, len(cases), BATCH):
                rows[at : at + BATCH]
            end = time.perf_counter()
        count = len(cases)
        result[path.name] = [count / first, count / (end - start), count / (end - opened), 1e3 * used / count]
    return result


def table(taken: dict[tuple[str, str], list[list[float]]]) -> str:
    """Markdown: median and, of the first, the range."""
    head = ["study", "tree", "first, images/s", "least to most", "again", "batches", "CPU, ms an image"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for (study, tree), rows in sorted(taken.items()):
        first, again, batches, used = np.median(np.array(rows), axis=0)
        low, high = np.array(rows)[:, 0].min(), np.array(rows)[:, 0].max()
        figures = f"**{first:,.0f}** | {low:,.0f} to {high:,.0f} | {again:,.0f} | {batches:,.0f} | {used:.2f}"
        lines.append(f"| {study} | {tree} | {figures} |")
    return "\n".join(lines)


def main() -> None:
    """Make the studies, let processes take turns, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("grey", type=Path)
    parser.add_argument("colour", type=Path, nargs="?")
    parser.add_argument("--beside", type=Path, action="append", default=[], help="another tree of this project")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        sys.stdout.write(json.dumps(measure(arguments.grey)))
        return
    here = Path(__file__).resolve().parents[1]
    taken: dict[tuple[str, str], list[list[float]]] = {}
    with tempfile.TemporaryDirectory() as name:
        studies = Path(name) / "studies"
        studies.mkdir()
        write_studies(arguments.grey, arguments.colour, studies)
        for _ in range(arguments.rounds):
            for tree in (*arguments.beside, here):
                environment = os.environ | {"PYTHONPATH": str(tree / ".typing"), "OPENBLAS_NUM_THREADS": "1"}
                command = [sys.executable, __file__, str(studies), "--child"]
                done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
                for study, figures in json.loads(done.stdout).items():
                    taken.setdefault((study, "after" if tree == here else "before"), []).append(figures)
    sys.stdout.write(table(taken) + "\n")


if __name__ == "__main__":
    main()
