"""Pyramids that other readers read, the same bytes for the same pixels."""

from __future__ import annotations

import numpy as np
import pytest

from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.slides.pyramid_file import write_pyramid
from medfm_compress.runtime.slides.stitch import mean_of_seen, upper_left
from medfm_compress.runtime.slides.table import open_slide


@pytest.fixture
def values():
    return np.random.default_rng(0).integers(0, 256, (700, 1300), dtype=np.uint8)


def write(path, values, reduce=upper_left):
    padded = np.pad(values, ((0, 256), (0, 256)))
    write_pyramid(
        path, values.shape, lambda r, c: padded[r * 256 : r * 256 + 256, c * 256 : c * 256 + 256], reduce,
        um_per_px=(2.0, 4.0), description="text",
    )  # fmt: skip
    return path


@pytest.mark.parametrize("reader", ["tifffile", "pillow", "openslide"])
def test_every_reader_finds_levels_resolution_and_pixels(tmp_path, values, reader):
    if reader == "openslide":
        pytest.importorskip("openslide")
    with open_slide(write(tmp_path / "a.tif", values), reader=reader) as slide:
        assert [tuple(level[:2]) for level in slide.levels] == [(1300, 700), (650, 350), (325, 175)]
        assert slide.um_per_px == pytest.approx((2.0, 4.0), rel=1e-4)
        for number in range(3):
            level, step = slide.levels[number], 2**number
            region = slide.read_region(0, 0, number, level.width, level.height)
            assert np.array_equal(region[..., 0], values[::step, ::step][: level.height, : level.width])


def test_the_same_pixels_give_the_same_bytes(tmp_path, values):
    assert write(tmp_path / "a.tif", values).read_bytes() == write(tmp_path / "b.tif", values).read_bytes()


def test_means_are_of_what_was_seen():
    block = np.array([[0, 0, 10, 20], [0, 0, 30, 41], [0, 100, 0, 0], [0, 0, 0, 7]], np.uint8)
    assert mean_of_seen(block).tolist() == [[0, 25], [100, 7]]


def test_a_file_that_cannot_be_written_leaves_nothing(tmp_path, values):
    def fails(row, column):
        raise InputError("no more")

    with pytest.raises(InputError):
        write_pyramid(tmp_path / "a.tif", (300, 300), fails, upper_left, um_per_px=(1, 1), description="")
    assert not list(tmp_path.iterdir())
