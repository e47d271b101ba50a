"""An image that is looked up where it is prepared, against one that was looked up before: not one bit may differ."""

from __future__ import annotations

import numpy as np
import pytest

from medfm_compress.runtime.dicom.orientation import Turn, turned
from medfm_compress.runtime.image_spec import ImageSpec
from medfm_compress.runtime.images.pixels import Pixels
from medfm_compress.runtime.images.tabled import Tabled, look_up
from medfm_compress.runtime.preprocess import prepare


def tabled(bits, shape, seed=0):
    """Codes of an image with a black border, and a table that rises, wraps around and has black in its midst."""
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 2**bits, shape).astype(np.uint8 if bits <= 8 else np.uint16)
    table = (np.arange(2**bits) * 40_503 % 65_536).astype(np.uint16)
    table[2**bits // 3 : 2**bits // 2] = 0
    codes[: shape[0] // 5] = codes[:, shape[1] // 2 :] = 2**bits // 3
    return Tabled(codes, table)


@pytest.mark.parametrize("bits", [1, 8, 12, 16])
@pytest.mark.parametrize("filtering", ["bicubic", "bilinear", "nearest"])
@pytest.mark.parametrize(("shape", "resize"), [((901, 1103), "stretch"), ((70, 90), "longest"), ((48, 64), "stretch")])
def test_it_is_prepared_as_its_values_are(bits, filtering, shape, resize):
    held = tabled(bits, shape)
    for colour in ("grey", "rgb"):
        channels = 3 if colour == "rgb" else 1
        spec = ImageSpec(
            height_px=48, width_px=64, colour=colour, mean=(0.5,) * channels, std=(1.0,) * channels, resize=resize,
            filter=filtering,
        )  # fmt: skip
        plain = Pixels.from_integers(held.table[held.codes])
        assert prepare(Pixels(held, 0.0, 65_535.0), spec).tobytes() == prepare(plain, spec).tobytes()


def test_preparing_a_large_one_looks_no_values_up_for_keeps():
    held = tabled(12, (1000, 1100))
    prepare(Pixels(held, 0.0, 65_535.0), ImageSpec(height_px=64, width_px=64, colour="grey", mean=(0.5,), std=(1.0,)))
    assert held._values is None
    assert held.values is held.values


@pytest.mark.parametrize("count", [1, 16_383, 16_384, 16_385, 50_000])
@pytest.mark.parametrize("entries", [np.uint16, np.float32, np.float64])
def test_looking_up_is_indexing(count, entries):
    rng = np.random.default_rng(count)
    table = rng.random(4096) * 60_000
    table = table.astype(entries)
    codes = rng.integers(0, 4096, (count, 1)).astype(np.uint16)
    found = np.empty(codes.shape, entries)
    look_up(table, codes, found)
    assert found.tobytes() == table[codes].tobytes()


@pytest.mark.parametrize("turn", [Turn(True), Turn(False, True), Turn(True, False, True), Turn(True, True, True)])
def test_it_is_turned_as_its_values_are(turn):
    held = tabled(12, (31, 47))
    plain = turned(Pixels.from_integers(held.values), turn)
    pixels = turned(Pixels(held, 0.0, 65_535.0, aspect=2.0), turn)
    assert isinstance(pixels.held, Tabled)
    assert pixels.values.tobytes() == plain.values.tobytes()
    assert pixels.shape == plain.shape
    assert pixels.aspect == (0.5 if turn.transposed else 2.0)
