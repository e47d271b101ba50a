"""What an image shows decides, not how it is stored; what is of neither kind is never held against it."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace
from numpy.typing import NDArray
from PIL import Image

from medfm_compress.runtime import colour_kind as colour_kind_module
from medfm_compress.runtime.colour_kind import COLOUR_FOR_GREY, GREY_FOR_COLOUR, colour_flags, colour_kind
from medfm_compress.runtime.errors import ImageRefused
from medfm_compress.runtime.image_spec import ColourRule, ImageSpec
from medfm_compress.runtime.images.pixels import Pixels
from medfm_compress.runtime.preprocess import prepare
from medfm_compress.runtime.read_image import read_image

GREY = ImageSpec(
    height_px=32, width_px=32, colour="grey", mean=(0.5,), std=(0.25,), colour_rule=ColourRule(images="grey")
)
RGB = replace(GREY, colour="rgb", mean=(0.5,) * 3, std=(0.25,) * 3, colour_rule=ColourRule(images="colour"))


def field(side: int = 160, seed: int = 0) -> NDArray[np.float32]:
    """A smooth grey picture with fine detail, ``[side, side]`` in 0 to 255."""
    random = np.random.default_rng(seed)
    coarse = Image.fromarray(random.random((9, 9)).astype(np.float32)).resize((side, side), Image.Resampling.BICUBIC)
    return np.clip(np.asarray(coarse) * 220 + random.normal(0, 6, (side, side)), 0, 255).astype(np.float32)


def jpeg(values: NDArray[np.float32], quality: int = 80) -> Pixels:
    file = io.BytesIO()
    Image.fromarray(np.clip(values, 0, 255).round().astype(np.uint8)).save(file, "JPEG", quality=quality)
    return read_image(file.getvalue())


def stacked(*planes: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.stack(planes, axis=-1)


def photograph(seed: int = 0) -> NDArray[np.float32]:
    """Skin with a lesion: no colour of it follows from its brightness alone."""
    light, hue = field(seed=seed), field(seed=seed + 100)
    return stacked(60 + light * 0.6 + hue * 0.12, 40 + light * 0.5, 30 + light * 0.45 - hue * 0.1)


TINTS = {
    "warm": lambda g: stacked(g, g * 0.96, g * 0.9),
    "cool": lambda g: stacked(g * 0.85, g * 0.93, g),
    "yellowed": lambda g: stacked(g, g * 0.92, g * 0.8),
    "tone curves": lambda g: 255 * stacked((g / 255) ** 0.8, (g / 255) ** 0.95, (g / 255) ** 1.1),
    "paper": lambda g: stacked(30 + g * 0.85, 24 + g * 0.82, 20 + g * 0.72),
    "half sepia": lambda g: stacked(g * 1.18, g * 1.1, g * 0.97),
}


@pytest.mark.parametrize("quality", [60, 95])
def test_equal_channels_are_grey_however_they_are_stored(quality: int) -> None:
    grey = field()
    assert colour_kind(jpeg(grey, quality)) == "grey"
    stored = jpeg(stacked(grey, grey, grey), quality)
    assert stored.is_colour
    assert colour_kind(stored) == "grey"
    assert colour_kind(Pixels.from_integers(np.zeros((40, 40, 3), np.uint8))) == "grey"


@pytest.mark.parametrize("tint", TINTS)
@pytest.mark.parametrize("noise", [0, 4])
def test_a_tinted_scan_is_of_neither_kind(tint: str, noise: float) -> None:
    for seed in range(4):
        values = TINTS[tint](field(seed=seed)) + np.random.default_rng(seed).normal(0, noise, (160, 160, 3))
        pixels = jpeg(values.astype(np.float32))
        assert colour_kind(pixels) is None
        assert colour_flags(pixels, GREY) == colour_flags(pixels, RGB) == ()


def test_noise_of_a_colour_scanner_leaves_a_grey_image_grey() -> None:
    grey = field(640)
    noisy = stacked(grey, grey, grey) + np.random.default_rng(1).normal(0, 8, (640, 640, 3))
    assert colour_kind(jpeg(noisy.astype(np.float32))) == "grey"


def test_a_coloured_mark_leaves_a_radiograph_grey_and_an_overlay_makes_no_photograph() -> None:
    marked = stacked(*[field()] * 3)
    marked[5:25, 5:45] = (255, 0, 0)
    assert colour_kind(jpeg(marked)) == "grey"
    marked[5:70, 5:60] = (0, 200, 255)
    assert colour_kind(jpeg(marked)) is None


@pytest.mark.parametrize("side", [(160, 160), (40, 40), (33, 500), (1000, 70)])
def test_a_photograph_is_in_colour_at_any_size_and_depth(side: tuple[int, int]) -> None:
    picture = np.asarray(Image.fromarray(np.clip(photograph(), 0, 255).astype(np.uint8)).resize(side[::-1]))
    assert colour_kind(Pixels.from_integers(picture)) == "colour"
    assert colour_kind(Pixels.from_integers(picture.astype(np.uint16) * 257)) == "colour"
    assert colour_kind(Pixels((picture / 255).astype(np.float32), 0.0, 1.0)) == "colour"


def test_a_strong_single_colour_is_no_tint() -> None:
    green = np.zeros((64, 64, 3), np.uint8)
    green[..., 1] = np.linspace(60, 255, 64)
    assert colour_kind(Pixels.from_integers(green)) == "colour"


@pytest.mark.parametrize("pixels", [(1, 1), (1, 7), (2, 3)])
def test_the_smallest_images_have_a_kind(pixels: tuple[int, int]) -> None:
    values = np.zeros((*pixels, 3), np.uint8)
    values[..., 0] = 200
    assert colour_kind(Pixels.from_integers(values)) == "colour"


def test_only_the_clearly_other_kind_is_flagged() -> None:
    photo, grey = jpeg(photograph()), jpeg(field())
    assert colour_flags(photo, GREY) == (COLOUR_FOR_GREY,)
    assert colour_flags(grey, RGB) == (GREY_FOR_COLOUR,)
    assert colour_flags(grey, GREY) == colour_flags(photo, RGB) == ()
    silent = ImageSpec(height_px=32, width_px=32, colour="grey", mean=(0.5,), std=(0.25,))
    assert colour_flags(photo, silent) == ()


def test_the_other_kind_is_refused_where_the_rule_says_so() -> None:
    strict = replace(GREY, colour_rule=ColourRule(images="grey", others="refuse"))
    with pytest.raises(ImageRefused, match="the image is in colour, and the network was made for grey images"):
        prepare(jpeg(photograph()), strict)
    assert prepare(jpeg(field()), strict).shape == (1, 32, 32)
    assert prepare(jpeg(TINTS["yellowed"](field())), strict).shape == (1, 32, 32)
    strict = replace(RGB, colour_rule=ColourRule(images="colour", others="refuse"))
    with pytest.raises(ImageRefused, match="the image is grey, and the network was made for colour images"):
        prepare(jpeg(field()), strict)


def test_dicom_is_judged_by_what_its_photometric_interpretation_makes_of_it(make_dicom, dicom_bytes) -> None:
    picture = np.clip(photograph(), 0, 255).astype(np.uint8)
    grey = np.clip(field(), 0, 255).astype(np.uint8)
    ybr = np.asarray(Image.fromarray(picture).convert("YCbCr"))
    kinds = {
        "MONOCHROME1": colour_kind(read_image(dicom_bytes(make_dicom(grey, PhotometricInterpretation="MONOCHROME1")))),
        "MONOCHROME2": colour_kind(read_image(dicom_bytes(make_dicom(grey)))),
        "RGB": colour_kind(read_image(dicom_bytes(make_dicom(picture)))),
        "RGB, equal": colour_kind(read_image(dicom_bytes(make_dicom(stacked(grey, grey, grey))))),
        "YBR_FULL": colour_kind(read_image(dicom_bytes(make_dicom(ybr, PhotometricInterpretation="YBR_FULL")))),
    }
    assert kinds == {
        "MONOCHROME1": "grey",
        "MONOCHROME2": "grey",
        "RGB": "colour",
        "RGB, equal": "grey",
        "YBR_FULL": "colour",
    }


@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "false_kind", "at_least"),
    [
        ("chest-xray-pneumonia", "colour", 1.0),
        ("skin-lesion", "grey", 0.85),
        ("lung-histology", "grey", 0.98),
        ("polyps", "grey", 0.98),
        ("nuclei", "grey", 0.5),
    ],
)
def test_no_real_image_is_taken_for_the_other_kind(
    shared_data: Path, name: str, false_kind: str, at_least: float
) -> None:
    with (shared_data / name / "cases.csv").open() as table:
        images = [row["image"] for row in csv.DictReader(table)]
    kinds = [colour_kind(read_image(shared_data / name / image)) for image in images[:: max(1, len(images) // 100)]]
    assert false_kind not in kinds
    assert sum(kind is not None for kind in kinds) >= at_least * len(kinds)


def plain_cells(pixels: Pixels) -> NDArray[np.float32]:
    """Mean colours ``[cells, 3]`` by numpy's own sums."""
    sides = [-(-size // 48) for size in pixels.values.shape[:2]]
    steps = [-(-side // 8) for side in sides]
    values = pixels.values[:: steps[0], :: steps[1]]
    rows, columns = (max(1, side // step) for side, step in zip(sides, steps, strict=True))
    down, across = values.shape[0] // rows, values.shape[1] // columns
    whole = values[: down * rows, : across * columns].reshape(down, rows, across, columns, 3)
    means = whole.sum(axis=1, dtype=np.float32).sum(axis=2).reshape(-1, 3) / np.float32(rows * columns)
    return (means - np.float32(pixels.low)) / np.float32(pixels.high - pixels.low)


def plain_residue(cells: NDArray[np.float32]) -> NDArray[np.float32]:
    """A median of each level of brightness by numpy's own."""
    brightness = cells @ np.array((0.299, 0.587, 0.114), np.float32)
    chroma, residue = cells - brightness[:, None], np.zeros(len(cells), np.float32)
    for level in np.array_split(np.argsort(brightness, kind="stable"), min(16, len(cells))):
        residue[level] = np.abs(chroma[level] - np.median(chroma[level], axis=0)).max(axis=1)
    return residue


def plain_kind(pixels: Pixels) -> str | None:
    """Two quantiles by numpy's own."""
    cells = plain_cells(pixels)
    spread = cells.max(axis=1) - cells.min(axis=1)
    if np.quantile(spread, 0.9) <= colour_kind_module._GREY_SPREAD:
        return "grey"
    residue = np.quantile(plain_residue(cells), 0.75) >= colour_kind_module._COLOUR_RESIDUE
    return "colour" if spread.mean() >= 0.25 or residue else None


def various() -> list[Pixels]:
    random = np.random.default_rng(0)
    result = [jpeg(photograph(seed)) for seed in range(3)] + [jpeg(tint(field())) for tint in TINTS.values()]
    for shape in ((1, 1), (1, 7), (3, 100), (48, 48), (49, 97), (224, 224), (900, 40), (16, 1), (17, 1)):
        for dtype in (np.uint8, np.uint16):
            most = np.iinfo(dtype).max
            values = random.integers(0, most, (*shape, 3), endpoint=True).astype(dtype)
            pale = (values // 50 + random.integers(0, most // 2, (*shape, 1)).astype(dtype)).astype(dtype)
            result += [Pixels.from_integers(part) for part in (values, pale, np.full_like(values, most))]
            result.append(Pixels(values % 200, 0.0, 200.0))
        result.append(Pixels(random.random((*shape, 3)).astype(np.float32), 0.0, 1.0))
    return result


def test_the_quick_way_is_the_plain_one_to_the_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = set()
    for pixels in various():
        cells = plain_cells(pixels)
        assert np.ascontiguousarray(colour_kind_module._cells(pixels).T).tobytes() == cells.tobytes()
        residue = plain_residue(cells)
        assert (
            np.sort(colour_kind_module._residue(np.ascontiguousarray(cells.T))).tobytes() == np.sort(residue).tobytes()
        )
        spread = cells.max(axis=1) - cells.min(axis=1)
        limits = [(0.015, 0.014), (float(np.quantile(spread, 0.9)), float(np.quantile(residue, 0.75)))]
        for grey, colour in [*limits, (limits[1][0] - 1e-7, limits[1][1] + 1e-7)]:
            monkeypatch.setattr(colour_kind_module, "_GREY_SPREAD", grey)
            monkeypatch.setattr(colour_kind_module, "_COLOUR_RESIDUE", colour)
            kind = colour_kind(pixels)
            kinds.add(kind)
            assert kind == plain_kind(pixels)
            assert (colour_flags(pixels, RGB) == (GREY_FOR_COLOUR,)) == (kind == "grey")
            assert (colour_flags(pixels, GREY) == (COLOUR_FOR_GREY,)) == (kind == "colour")
    assert kinds == {"grey", "colour", None}


def test_a_photograph_is_told_from_a_part_of_its_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    is_grey = colour_kind_module._is_grey
    monkeypatch.setattr(colour_kind_module, "_is_grey", lambda cells: (asked.append(cells.shape), is_grey(cells))[1])
    assert colour_flags(jpeg(photograph(0)), RGB) == ()
    assert asked == []
    grey = Pixels.from_integers(np.full((96, 96, 3), 70, np.uint8))
    assert colour_flags(grey, RGB) == (GREY_FOR_COLOUR,)
    assert asked == [(3, 48 * 48)]


@pytest.mark.parametrize("rows", range(49))
def test_how_much_of_an_image_is_coloured_counts_and_not_where(rows: int) -> None:
    """A part of rows that holds all the colour, or none of it, says nothing of the whole by itself."""
    for step in (1, 4):
        values = np.full((48, 48, 3), 70, np.uint8)
        chosen = np.resize(np.argsort(np.arange(48) % step, kind="stable"), 48)[:rows]
        values[chosen, :, 0] = 90
        pixels = Pixels.from_integers(values)
        assert (colour_flags(pixels, RGB) == (GREY_FOR_COLOUR,)) == (plain_kind(pixels) == "grey")
