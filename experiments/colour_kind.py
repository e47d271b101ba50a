"""How often is a real image taken for the wrong kind of colour? Writes docs/results/colour-kind.md.

    python experiments/colour_kind.py --data "$MEDFM_SHARED/data" --out docs/results/colour-kind.md

1. Every image of five public sets, with the kind that the runtime takes it for.
2. Every eighth radiograph, tinted as scans of films and prints are, with noise, marks and overlays.
3. Every fourth dermoscopy image, with less and less of its saturation.
"""

from __future__ import annotations

import argparse
import csv
import io
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance

from medfm_compress.runtime.atomic_write import write_atomically
from medfm_compress.runtime.colour_kind import colour_kind
from medfm_compress.runtime.image_spec import ColourKind
from medfm_compress.runtime.images.pixels import Pixels
from medfm_compress.runtime.read_image import read_image

Plane = NDArray[np.float64]
Counts = Counter[ColourKind | None]

SETS = ("chest-xray-pneumonia", "skin-lesion", "lung-histology", "polyps", "nuclei")
QUALITY = 75
NOISE = 8.0


def gains(red: float, green: float, blue: float) -> Callable[[Plane], Plane]:
    """A tint that is proportional to brightness."""
    return lambda grey: grey[..., None] * np.array((red, green, blue))


def tone_curves(grey: Plane) -> Plane:
    """Another gamma for each channel."""
    return 255 * np.stack([(grey / 255) ** power for power in (0.8, 0.95, 1.1)], axis=-1)


def on_paper(grey: Plane) -> Plane:
    """A print: warm paper, blacks that are not black."""
    return np.array((30, 24, 20)) + gains(0.85, 0.82, 0.72)(grey)


def noisy(tint: Callable[[Plane], Plane], seed: int = 0) -> Callable[[Plane], Plane]:
    """The same with the noise of a colour scanner, independent in each channel."""
    random = np.random.default_rng(seed)
    return lambda grey: tint(grey) + random.normal(0, NOISE, (*grey.shape, 3))


def marked(height: int, width: int) -> Callable[[Plane], Plane]:
    """A red mark of so many pixels."""

    def mark(grey: Plane) -> Plane:
        values = gains(1, 1, 1)(grey)
        values[5 : 5 + height, 5 : 5 + width] = (255, 0, 0)
        return values

    return mark


CHANGES: dict[str, Callable[[Plane], Plane]] = {
    "three equal channels": gains(1, 1, 1),
    f"the same, noise of {NOISE:g} of 255 a channel": noisy(gains(1, 1, 1)),
    "warm, 5% between the channels": gains(1, 0.975, 0.95),
    "bluish film, 15%": gains(0.85, 0.95, 1),
    "yellowed, 20%": gains(1, 0.92, 0.8),
    f"the same, noise of {NOISE:g}": noisy(gains(1, 0.92, 0.8)),
    "another gamma for each channel": tone_curves,
    "print on warm paper": on_paper,
    "half sepia": gains(1.18, 1.1, 0.97),
    "full sepia, clipped": gains(1.351, 1.203, 0.937),
    "red mark on 1.6% of the area": marked(20, 40),
    "red box on 11% of the area": marked(65, 85),
}


def paths(folder: Path, every: int = 1) -> list[Path]:
    """Images of one set, in the table's order."""
    with (folder / "cases.csv").open() as table:
        return [folder / row["image"] for row in list(csv.DictReader(table))[::every]]


def as_jpeg(image: Image.Image) -> Pixels:
    """An image as a file of this quality gives it back."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=QUALITY)
    return read_image(file.getvalue())


def changed(path: Path, change: Callable[[Plane], Plane]) -> Pixels:
    """A radiograph after ``change``."""
    grey = read_image(path).values[..., 0].astype(np.float64)
    return as_jpeg(Image.fromarray(np.clip(change(grey), 0, 255).round().astype(np.uint8)))


def faded(path: Path, saturation: float) -> Pixels:
    """A photograph with this share of its saturation."""
    with Image.open(path) as image:
        return as_jpeg(ImageEnhance.Color(image.convert("RGB")).enhance(saturation))


def row(name: str, kinds: Iterable[ColourKind | None]) -> str:
    """One line of a table."""
    counts: Counts = Counter(kinds)
    total = counts.total()
    cells = [f"{counts[kind]} ({counts[kind] / total:.1%})" for kind in ("grey", None, "colour")]
    return f"| {name} | {total} | {' | '.join(cells)} |"


def report(data: Path) -> Iterator[str]:
    """The page, line by line."""
    yield "# Grey or in colour: how often is an image taken for the wrong kind?\n"
    yield "Reproduce with\n"
    yield '```sh\npython experiments/colour_kind.py --data "$MEDFM_SHARED/data" --out docs/results/colour-kind.md'
    yield "```\n"
    yield (
        "A bundle says which kind of images it is for, and the device flags what is clearly of the other kind\n"
        "(`medfm_compress.runtime.colour_kind`). What is of neither kind is never flagged. A false flag is a\n"
        "radiograph in the column *colour*, or a photograph in the column *grey*.\n"
    )
    head = "| images | number | grey | neither | colour |\n|---|---|---|---|---|"
    yield f"## Real images as they are\n\n{head}"
    yield from (row(name, (colour_kind(read_image(path)) for path in paths(data / name))) for name in SETS)
    yield (
        "\nAll radiographs are stored as JPEG with three channels. The limits were chosen on these sets; they are no\n"
        "independent test. What is missed is pale: skin of little saturation, and tissue in one stain, whose colour\n"
        "follows from its brightness as a tinted scan's does.\n"
    )
    yield f"## Radiographs as scans of films and prints (every eighth, JPEG quality {QUALITY})\n\n{head}"
    films = paths(data / SETS[0], 8)
    yield from (row(name, (colour_kind(changed(path, tint)) for path in films)) for name, tint in CHANGES.items())
    yield f"\n## Dermoscopy with less saturation (every fourth)\n\n{head}"
    skin = paths(data / "skin-lesion", 4)
    yield from (
        row(f"{share:.0%} of the saturation", (colour_kind(faded(path, share)) for path in skin))
        for share in (1, 0.5, 0.25, 0)
    )


def main() -> None:
    """Measure and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    write_atomically(arguments.out, ("\n".join(report(arguments.data)) + "\n").encode())


if __name__ == "__main__":
    main()
