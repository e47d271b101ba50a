"""Faster ways of preparing an image, against the plain ones that they took the place of: not one bit may differ."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from PIL import Image

from medfm_compress.runtime.dicom import read_dicom as reading
from medfm_compress.runtime.errors import ImageRefused
from medfm_compress.runtime.image_spec import ImageSpec
from medfm_compress.runtime.images.pixels import Pixels
from medfm_compress.runtime.preprocess import LUMA, prepare
from medfm_compress.runtime.read_image import read_image
from medfm_compress.runtime.reduction import is_worth_while, shortened


def plainly_resized(pixels, size, method):
    """Float copies of the whole image, and Pillow, which is told to shorten rows before columns."""
    planes = pixels.values[..., None] if pixels.values.ndim == 2 else pixels.values
    scaled = [
        (planes[..., at].astype(np.float32) - np.float32(pixels.low)) / np.float32(pixels.high - pixels.low)
        for at in range(planes.shape[-1])
    ]
    rows = [Image.fromarray(plane).resize((size[0], len(plane)), method) for plane in scaled]
    return [np.asarray(plane.resize(size, method)) for plane in rows]


def plain_codes(values, layout, name, *, overlays, lossy):
    """Masks and comparisons of every value."""
    bits, size = layout.bits_stored, values.dtype.itemsize
    if lossy:
        half = 2 ** (bits - 1)
        values = np.clip(values, *((-half, half - 1) if layout.is_signed else (0, 2 * half - 1)))
    if bits == 8 * size:
        return values.view(f"u{size}")
    word = np.dtype(f"u{size}").type
    kept = word(~overlays & (2 ** (8 * size) - 1))
    unsigned = values.view(word) & kept
    used = unsigned & word(2**bits - 1)
    extended = False
    if layout.is_signed:
        shift = 8 * size - bits
        extended = unsigned == ((used << shift).view(values.dtype) >> shift).view(word) & kept
    if not np.all((unsigned == used) | extended):
        raise ImageRefused(f"{name}: pixels exceed the {bits} bits stored; export the image again")
    return used


def waves(height, width, seed=0):
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    smooth = (np.sin(x / 37) + np.cos(y / 51) + 2) / 4 * 50_000
    return np.clip(smooth + rng.normal(0, 300, (height, width)), 0, 65_535).astype(np.uint16)


def images():
    rng = np.random.default_rng(1)
    wave = waves(701, 977)
    y, x = np.mgrid[:701, :977]
    yield "collimated", np.where((x < 203) | (y > 611), 0, wave).astype(np.uint16)
    yield "round", np.where((x - 488) ** 2 + (y - 350) ** 2 < 330**2, wave, 0).astype(np.uint16)
    yield "smooth", wave
    yield "8 bits", (wave >> 8).astype(np.uint8)
    yield "noise", rng.integers(0, 65_536, (333, 1001)).astype(np.uint16)
    yield "nearly black", rng.integers(0, 2, (333, 1001)).astype(np.uint16)
    yield "single points", (rng.random((333, 1001)) < 0.001).astype(np.uint8)
    yield "black", np.zeros((400, 600), np.uint16)
    yield "one grey", np.full((400, 600), 77, np.uint8)
    yield "stripes", np.tile(np.array([0, 255], np.uint8), (400, 300))
    yield "colour", rng.integers(0, 256, (301, 640, 3)).astype(np.uint8)
    yield "tall", rng.integers(0, 256, (3000, 300)).astype(np.uint8)
    yield "wide", rng.integers(0, 256, (40, 5000)).astype(np.uint8)


IMAGES = dict(images())


@pytest.mark.parametrize("kind", IMAGES)
@pytest.mark.parametrize("side", [8, 63, 128, 224])
def test_a_resize_is_pillows_to_the_bit(kind, side, monkeypatch):
    monkeypatch.setattr("medfm_compress.runtime.reduction._LEAST_PIXELS", 0)
    pixels = Pixels.from_integers(IMAGES[kind])
    for colour in ("grey", "rgb") if pixels.is_colour else ("grey",):
        channels = 3 if colour == "rgb" else 1
        spec = ImageSpec(height_px=side, width_px=side, colour=colour, mean=(0.5,) * channels, std=(1.0,) * channels)
        planes = [pixels]
        if pixels.is_colour and colour == "grey":
            red, green, blue = (pixels.values[..., at].astype(np.float32) / np.float32(255) for at in range(3))
            planes = [Pixels(LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue, 0.0, 1.0)]
        expected = [part for plane in planes for part in plainly_resized(plane, (side, side), Image.Resampling.BICUBIC)]
        assert prepare(pixels, spec).tobytes() == np.clip(np.stack(expected), 0, 1).tobytes()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("colour", ["grey", "rgb"])
@pytest.mark.parametrize("high", [1.0, 0.9])
def test_an_image_of_the_networks_size_is_scaled_and_clipped(dtype, colour, high):
    rng = np.random.default_rng(0)
    channels = 3 if colour == "rgb" else 1
    spec = ImageSpec(height_px=40, width_px=56, colour=colour, mean=(0.5,) * channels, std=(0.25,) * channels)
    most = 1 if dtype == np.float32 else np.iinfo(dtype).max
    for shape in ((40, 56), (40, 56, 3)):
        values = rng.random(shape).astype(dtype) if most == 1 else rng.integers(0, most, shape, dtype, endpoint=True)
        pixels = Pixels(values, 0.0, float(round(most * high) if most > 1 else high))
        scaled = values.astype(np.float32) / np.float32(pixels.high)
        planes = [scaled[..., at] for at in range(3)] if len(shape) == 3 else [scaled]
        if len(planes) == 3 and colour == "grey":
            planes = [LUMA[0] * planes[0] + LUMA[1] * planes[1] + LUMA[2] * planes[2]]
        expected = np.clip(np.stack(planes * (channels // len(planes))), 0, 1)
        assert prepare(pixels, spec).tobytes() == expected.tobytes()


def test_rows_that_no_bound_decides_are_pillows(monkeypatch):
    """Bounds so wide that nothing is certain: every row is given to Pillow, and the result is the same."""
    from medfm_compress.runtime import reduction

    values = waves(200, 700)

    scaled = values.astype(np.float32) / np.float32(65_535)

    def fill(rows, start):
        rows[:] = scaled[start : start + len(rows)]

    expected = np.asarray(Image.fromarray(scaled).resize((100, 200), Image.Resampling.BICUBIC))
    given = []
    by_pillow = reduction._by_pillow
    monkeypatch.setattr(
        reduction, "_by_pillow", lambda rows, width: (given.append(len(rows)), by_pillow(rows, width))[1]
    )
    for roundings in (32, 2.0**30):
        monkeypatch.setattr(reduction, "_ROUNDINGS_OF_WEIGHTS", roundings)
        reduction._blocks.cache_clear()
        given.clear()
        assert shortened(fill, 200, 700, 100).T.tobytes() == expected.tobytes()
        assert (sum(given) == 200) == (roundings > 32)
    reduction._blocks.cache_clear()


def test_small_images_and_small_factors_are_left_to_pillow():
    assert is_worth_while(2000, 2000, 224)
    assert not is_worth_while(2000, 400, 224)
    assert not is_worth_while(512, 512, 96)


def test_every_dicom_file_gives_the_pixels_that_plain_ways_give(shared_data, monkeypatch):
    def outcome(path):
        try:
            pixels = read_image(path)
        except ImageRefused as exc:
            return str(exc)
        return pixels.values.tobytes(), pixels.values.dtype, pixels.values.shape, pixels[1:6]

    paths = [
        path for path in sorted((shared_data / "dicom").rglob("*")) if path.is_file() and path.stat().st_size < 2e6
    ]
    fast = [outcome(path) for path in paths]
    monkeypatch.setattr(reading, "codes_of", plain_codes)
    monkeypatch.setattr(reading, "Tabled", lambda codes, table: table[codes])
    monkeypatch.setattr(reading, "rle_pixels", lambda frame, layout: None)
    monkeypatch.setattr(reading, "is_heard", lambda plugins: False)
    monkeypatch.setattr(reading, "native_pixels", plain_native_pixels)
    assert [path.name for path, quick in zip(paths, fast, strict=True) if quick != outcome(path)] == []


def plain_native_pixels(data, layout):
    """As pydicom gives them."""
    from pydicom import Dataset
    from pydicom.dataset import FileMetaDataset
    from pydicom.pixels import pixel_array
    from pydicom.uid import ExplicitVRLittleEndian

    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.Rows, ds.Columns, ds.SamplesPerPixel = layout.rows, layout.columns, 1
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = layout.bits_allocated, layout.bits_stored, layout.bits_stored - 1
    ds.PixelRepresentation, ds.PhotometricInterpretation = int(layout.is_signed), "MONOCHROME2"
    ds.PixelData = data
    return np.ascontiguousarray(pixel_array(ds, correct_unused_bits=False))


def test_a_large_image_is_made_smaller_in_little_memory():
    values = waves(1_400, 1_800)
    pixels, spec = (
        Pixels.from_integers(values),
        ImageSpec(height_px=224, width_px=224, colour="grey", mean=(0.5,), std=(0.25,)),
    )
    prepare(pixels, spec)  # weights are made once
    tracemalloc.start()
    prepare(pixels, spec)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1.5 * values.nbytes  # a float32 copy of it is twice as large
