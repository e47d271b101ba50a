"""Files that are cut short or changed: refused in one sentence, or whole in what is read of them."""

from __future__ import annotations

import contextlib
import io
import random
import struct
import warnings
import zlib

import numpy as np
import pytest
from encoded_images import GREY8, GREY16, RGB8, encode
from PIL import Image, UnidentifiedImageError

from medfm_compress.runtime.errors import ImageRefused
from medfm_compress.runtime.images import libtiff_errors
from medfm_compress.runtime.images.quiet_decoders import decoding
from medfm_compress.runtime.read_image import read_image


def test_damaged_pngs_are_read_or_refused_and_nothing_else():
    whole = encode(GREY16)
    dice = random.Random(7)
    for _ in range(150):
        data = bytearray(whole[: dice.randrange(1, len(whole) + 1)] if dice.random() < 0.3 else whole)
        for _ in range(dice.choice([1, 2, 10])):
            data[dice.randrange(len(data))] = dice.randrange(256)
        try:
            assert read_image(bytes(data)).values.size > 0
        except ImageRefused as refused:
            assert "\n" not in str(refused)


def chunk(name, body):
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(rows, *, interlaced=0, end=True, pieces=1, bad_crc=False):
    """An 8-bit grey PNG of 64×48 whose IDAT holds ``rows``, filter bytes and all."""
    packed = zlib.compress(rows)
    step = -(-len(packed) // pieces)
    idat = b"".join(chunk(b"IDAT", packed[at : at + step]) for at in range(0, len(packed), step))
    if bad_crc:
        idat = idat[:-1] + bytes([idat[-1] ^ 1])
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 64, 48, 8, 0, 0, 0, interlaced))
    return b"\x89PNG\r\n\x1a\n" + header + idat + (chunk(b"IEND", b"") if end else b"")


ROWS = b"".join(b"\0" + row.tobytes() for row in GREY8)


def test_a_png_without_some_of_its_rows_is_refused():
    for whole in (png(ROWS), png(ROWS, pieces=5), png(ROWS) + b"behind the end"):
        np.testing.assert_array_equal(read_image(whole).values, GREY8)
    for rows in (0, 1, 24, 47):
        with pytest.raises(ImageRefused, match="PNG file is damaged, truncated: rows are missing"):
            read_image(png(ROWS[: rows * 65]))
    with pytest.raises(ImageRefused, match="no end"):
        read_image(png(ROWS, end=False))
    with pytest.raises(ImageRefused, match="CRC differs"):
        read_image(png(ROWS, bad_crc=True))


def test_interlaced_pngs_are_counted_by_their_passes():
    rows = []
    for x, y, step_x, step_y in (
        *((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8)),
        *((2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)),
    ):
        rows += [b"\0" + row.tobytes() for row in np.ascontiguousarray(GREY8[y::step_y, x::step_x])]
    np.testing.assert_array_equal(read_image(png(b"".join(rows), interlaced=1)).values, GREY8)
    with pytest.raises(ImageRefused, match="rows are missing"):
        read_image(png(b"".join(rows[:-1]), interlaced=1))


def test_bilevel_depths_are_counted_in_bytes():
    sixteen = Image.fromarray(GREY8 // 16 * 17).quantize(16)
    np.testing.assert_array_equal(read_image(encode(sixteen, bits=4)).values, np.asarray(sixteen.convert("RGB")))
    np.testing.assert_array_equal(read_image(encode(GREY16)).values, GREY16)


JPEGS = {
    "grey": (GREY8, {}),
    "grey of odd size": (GREY8[:43, :61], {}),
    "4:4:4": (RGB8, {"subsampling": 0}),
    "4:2:0 of odd size": (RGB8[:43, :61], {"subsampling": 2}),
    "restarts": (RGB8, {"restart_marker_blocks": 3}),
    "progressive": (GREY8, {"progressive": True}),
    "progressive colour": (RGB8, {"progressive": True}),
    "mid-grey": (np.full((48, 64), 128, np.uint8), {}),
    "mid-grey colour": (np.full((48, 64, 3), 128, np.uint8), {}),
}


@pytest.mark.parametrize("case", JPEGS)
def test_whole_jpegs_are_read_as_pillow_reads_them(case):
    values, options = JPEGS[case]
    data = encode(np.ascontiguousarray(values), "JPEG", quality=90, **options)
    with Image.open(io.BytesIO(data)) as image:
        expected = np.asarray(image)
    for whole in (data, data + b"\0", data + b"a preview of \xff\xd8 anything"):
        np.testing.assert_array_equal(read_image(whole).values, expected)


@pytest.mark.parametrize("case", [case for case in JPEGS if "mid-grey" not in case])
def test_a_jpeg_whose_end_marker_comes_early_is_refused(case):
    values, options = JPEGS[case]
    data = encode(np.ascontiguousarray(values), "JPEG", quality=90, **options)
    start = data.index(b"\xff\xda") + 14
    for share in np.linspace(0.05, 0.9, 18):
        cut = start + round((len(data) - start) * share)
        cut -= data[cut - 1] == 0xFF
        with pytest.raises(ImageRefused, match="JPEG file is damaged, truncated"):
            read_image(data[:cut] + b"\xff\xd9")
        with pytest.raises(ImageRefused, match="JPEG file is damaged, truncated"):
            read_image(data[:cut])


@pytest.mark.parametrize("separate", [False, True])
def test_a_tiff_without_some_of_its_strips_is_refused(separate):
    def tiff(strips):
        planes = 3 if separate else 1
        values = np.ascontiguousarray(RGB8.transpose(2, 0, 1)) if separate else GREY8
        table = 8 + values.size
        offsets = [8 + at * 16 * 64 for at in range(strips)]
        entries = [(256, 64), (257, 48), (258, 8), (259, 1), (262, 2 if separate else 1), (277, planes), (278, 16)]
        entries += [(284, 2)] if separate else []
        directory = table + 8 * strips
        rows = [struct.pack("<HHII", tag, 3, 1, value) for tag, value in entries]
        rows += [struct.pack("<HHII", 273, 4, strips, table), struct.pack("<HHII", 279, 4, strips, table + 4 * strips)]
        if separate:
            rows[2] = struct.pack("<HHII", 258, 3, 3, directory + 2 + 12 * len(rows) + 4)
        return b"".join(
            [
                b"II*\0" + struct.pack("<I", directory) + values.tobytes(),
                struct.pack(f"<{strips}I", *offsets) + struct.pack(f"<{strips}I", *[16 * 64] * strips),
                struct.pack("<H", len(rows)) + b"".join(sorted(rows)) + bytes(4) + struct.pack("<3H", 8, 8, 8),
            ]
        )

    strips = 9 if separate else 3
    np.testing.assert_array_equal(read_image(tiff(strips)).values, RGB8 if separate else GREY8)
    with pytest.raises(ImageRefused, match="strips are missing"):
        read_image(tiff(strips - 1))


def damaged_tiffs(compression):
    values = np.random.default_rng(0).integers(0, 256, (24, 20)).astype(np.uint8)
    whole = encode(values, "TIFF", compression=compression)
    for at in range(8, len(whole)):
        yield whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]


def load_with_pillow(data):
    with warnings.catch_warnings(), contextlib.suppress(Exception):
        warnings.simplefilter("ignore")
        Image.open(io.BytesIO(data)).load()
        return True
    return False


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_deflate", "packbits", "lzma", "zstd"])
def test_nothing_that_libtiff_says_reaches_standard_error_and_all_of_it_refuses(compression, capfd):
    """libtiff writes its errors to descriptor 2; of a check sum that differs Pillow itself says nothing at all."""
    heard, passed_over = 0, 0
    for damaged in damaged_tiffs(compression):
        is_loaded = load_with_pillow(damaged)
        has_errors = bool(capfd.readouterr().err)
        is_read = True
        try:
            read_image(damaged)
        except ImageRefused:
            is_read = False
        assert capfd.readouterr().err == ""
        assert not (has_errors and is_read)
        heard, passed_over = heard + has_errors, passed_over + (has_errors and is_loaded)
    assert heard > 0 and (passed_over > 0 or compression != "lzma")


def test_libtiffs_own_handler_is_back_when_the_last_one_leaves(capfd):
    damaged = next(data for data in damaged_tiffs("tiff_deflate") if not load_with_pillow(data))
    assert capfd.readouterr().err
    with libtiff_errors.tiff_errors() as outer:
        with libtiff_errors.tiff_errors() as inner:
            load_with_pillow(damaged)
        load_with_pillow(damaged)
        assert inner.count == outer.count > 0
    assert capfd.readouterr().err == ""
    load_with_pillow(damaged)
    assert capfd.readouterr().err


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (UnidentifiedImageError("secret"), "its header cannot be read"),
        (SyntaxError("secret"), "its header cannot be read"),
        (OSError("secret"), "its pixels cannot be decoded to their end"),
        (struct.error("secret"), "a part of it ends too early or does not unpack"),
        (zlib.error("secret"), "a part of it ends too early or does not unpack"),
        (KeyError("secret"), "a part of it is missing"),
        (UnicodeDecodeError("utf-8", b"x", 0, 1, "secret"), "a value in it is not allowed"),
        (TypeError("secret"), "its decoder failed"),
    ],
    ids=repr,
)
def test_what_a_decoder_raised_is_said_in_words(error, words):
    with pytest.raises(ImageRefused) as refused, decoding("x.jpg", "JPEG"):
        raise error
    said = f"x.jpg: the JPEG file is damaged, truncated or of an unsupported form: {words}; export it again"
    assert str(refused.value) == said


def test_a_truncated_jpeg_is_refused_without_the_name_of_a_class():
    data = encode(RGB8, "JPEG")
    with pytest.raises(ImageRefused, match="its pixels cannot be decoded to their end") as refused:
        read_image(data[: len(data) // 2])
    assert "Error" not in str(refused.value)
