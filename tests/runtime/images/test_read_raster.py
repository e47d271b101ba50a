"""What is read and what is refused, by content: files, bytes and arrays."""

from __future__ import annotations

import contextlib
import gzip
import io
import random
import struct
import threading
import time
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image, UnidentifiedImageError

from medfm_compress.runtime.errors import ImageRefused
from medfm_compress.runtime.images import libtiff_errors
from medfm_compress.runtime.images.quiet_decoders import decoding, quiet
from medfm_compress.runtime.read_image import is_image_file, read_image

GREY8 = np.arange(48 * 64, dtype=np.uint16).reshape(48, 64).astype(np.uint8)
GREY16 = (np.arange(48 * 64, dtype=np.uint16) * 21).reshape(48, 64)
RGB8 = np.stack([GREY8, GREY8[::-1], GREY8.T.reshape(48, 64)], -1)


def encode(image, kind="PNG", **options):
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP"])
@pytest.mark.parametrize("values", [GREY8, RGB8], ids=["grey", "rgb"])
def test_lossless_8_bit_files_come_back_as_they_went(kind, values):
    pixels = read_image(encode(values, kind))
    np.testing.assert_array_equal(pixels.values, values)
    assert pixels.values.dtype == np.uint8
    assert (pixels.low, pixels.high, pixels.flags) == (0.0, 255.0, ())


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_grey_keeps_its_16_bits(kind):
    pixels = read_image(encode(GREY16, kind))
    np.testing.assert_array_equal(pixels.values, GREY16)
    assert pixels.values.dtype == np.uint16 and pixels.high == 65535


def test_a_16_bit_tiff_with_white_as_zero_is_turned_the_right_way_round():
    pixels = read_image(encode(GREY16, "TIFF", tiffinfo={262: 0}))
    np.testing.assert_array_equal(pixels.values, 65535 - GREY16)


def test_the_extension_does_not_matter(tmp_path):
    path = tmp_path / "scan.jpg"
    path.write_bytes(encode(GREY8, "PNG"))
    np.testing.assert_array_equal(read_image(path).values, GREY8)
    np.testing.assert_array_equal(read_image(str(path)).values, GREY8)


def test_a_palette_becomes_rgb_and_opaque_alpha_is_dropped():
    quantised = Image.fromarray(RGB8).quantize(16)
    np.testing.assert_array_equal(read_image(encode(quantised)).values, np.asarray(quantised.convert("RGB")))
    np.testing.assert_array_equal(read_image(encode(Image.fromarray(RGB8).convert("RGBA"))).values, RGB8)
    np.testing.assert_array_equal(read_image(encode(Image.fromarray(GREY8).convert("LA"))).values, GREY8)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
def test_exif_orientation_is_applied(kind):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise by a quarter
    data = encode(RGB8, kind, exif=exif, **({"quality": 100} if kind == "JPEG" else {}))
    upright = read_image(data).values
    assert upright.shape == (64, 48, 3)
    if kind != "JPEG":
        np.testing.assert_array_equal(upright, np.rot90(RGB8, -1))


TURNED = {
    **dict.fromkeys((0, 1, 9), lambda stored: stored),  # 0 and 9 are reserved: as it is
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: stored.swapaxes(0, 1),
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: stored[::-1, ::-1].swapaxes(0, 1),
    8: np.rot90,
}


@pytest.mark.parametrize("orientation", TURNED)
def test_every_orientation_is_turned_upright(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    for stored in (RGB8, GREY8):
        np.testing.assert_array_equal(read_image(encode(stored, "PNG", exif=exif)).values, TURNED[orientation](stored))


def with_xmp(orientation, exif_orientation):
    exif = Image.Exif()
    if exif_orientation:
        exif[0x0112] = exif_orientation
    packet = f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="{orientation}"/></x:xmpmeta>'
    return encode(RGB8, "JPEG", quality=100, exif=exif, xmp=packet.encode())


def test_orientations_that_contradict_each_other_are_refused():
    for exif, xmp in ((6, 6), (None, 6)):
        assert read_image(with_xmp(xmp, exif)).values.shape == (64, 48, 3)
    assert read_image(with_xmp(1, None)).values.shape == RGB8.shape
    for exif, xmp in ((6, 1), (1, 6), (6, 8)):
        with pytest.raises(ImageRefused, match="EXIF orientation and that of its XMP differ"):
            read_image(with_xmp(xmp, exif))


def transparent():
    image = Image.fromarray(RGB8).convert("RGBA")
    image.putpixel((3, 3), (0, 0, 0, 10))
    return encode(image)


def png_of_16_bit_rgb():
    import struct
    import zlib

    def chunk(name, body):
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    rows = zlib.compress(b"".join(b"\x00" + bytes(range(48)) for _ in range(8)))
    header = struct.pack(">IIBBBBB", 8, 8, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def bomb(side, colour=0):
    data = bytearray(encode(np.zeros((8, 8), np.uint8)))
    import struct
    import zlib

    data[16:24] = struct.pack(">II", side, side)
    data[25] = colour
    data[29:33] = struct.pack(">I", zlib.crc32(bytes(data[12:29])))
    return bytes(data)


def nifti():
    return (348).to_bytes(4, "little") + bytes(340) + b"n+1\x00" + bytes(1000)


REFUSED = {
    "empty": (lambda: b"", "empty"),
    "text": (lambda: b"hello, world", "not a DICOM, PNG"),
    "transparent": (transparent, "transparent"),
    "transparent palette": (lambda: encode(Image.fromarray(RGB8).quantize(16), transparency=0), "transparent"),
    "16-bit colour": (png_of_16_bit_rgb, "16 bits a channel in colour"),
    "bilevel": (lambda: encode(Image.fromarray(GREY8 > 9)), "1-bit"),
    "CMYK": (lambda: encode(Image.fromarray(RGB8).convert("CMYK"), "JPEG"), "CMYK"),
    "float TIFF": (lambda: encode(GREY8.astype(np.float32), "TIFF"), "32-bit float"),
    "int TIFF": (lambda: encode(GREY8.astype(np.int32), "TIFF"), "32-bit or signed"),
    "pages": (
        lambda: encode(GREY8, "TIFF", save_all=True, append_images=[Image.fromarray(GREY8)] * 2),
        "3 pages or frames, a 3-D volume",
    ),
    "APNG": (
        lambda: encode(GREY8, "PNG", save_all=True, append_images=[Image.fromarray(255 - GREY8)]),
        "2 pages or frames, a 3-D volume or an animation",
    ),
    "GIF": (lambda: encode(GREY8, "GIF"), "GIF"),
    "WebP": (lambda: encode(RGB8, "WEBP"), "WebP"),
    "truncated JPEG": (lambda: encode(RGB8, "JPEG")[:-300], "JPEG file is damaged, truncated"),
    "truncated PNG": (lambda: encode(RGB8)[:150], "PNG file is damaged, truncated"),
    "half a BMP": (lambda: encode(RGB8, "BMP")[:2000], "BMP file is damaged, truncated"),
    "large": (lambda: bomb(11_000), "11000×11000 px; sides"),
    "decompression bomb": (lambda: bomb(60_000), "at most 100 megapixels"),
    "many bytes a pixel": (lambda: bomb(9_000, colour=2), "9000×9000 px of 3 bytes are 243000000 bytes decoded"),
    "NIfTI": (nifti, "NIfTI 3-D volume, which is out of scope"),
    "NIfTI, zipped": (lambda: gzip.compress(nifti()), "NIfTI 3-D volume, which is out of scope"),
    "gzip": (lambda: gzip.compress(b"anything"), "gzip archive"),
    "NRRD": (lambda: b"NRRD0004\n# made by hand\n", "NRRD 3-D volume, which is out of scope"),
    "MHD": (lambda: b"ObjectType = Image\nNDims = 3\n", "MetaImage 3-D volume, which is out of scope"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_other_files_are_refused_in_one_sentence(case, tmp_path):
    make, words = REFUSED[case]
    path = tmp_path / "scan.png"
    path.write_bytes(make())
    with pytest.raises(ImageRefused, match=words) as refused:
        read_image(path)
    message = str(refused.value)
    assert message.startswith("scan.png: ") and "\n" not in message and str(tmp_path) not in message


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    with pytest.raises(ImageRefused, match=r"none\.png: No such file"):
        read_image(tmp_path / "none.png")
    with pytest.raises(ImageRefused, match="a folder, not an image"):
        read_image(tmp_path)
    with pytest.raises(ImageRefused, match="not a valid path"):
        read_image("a\0b")


def test_arrays_of_the_three_kinds_are_taken():
    assert read_image(GREY8).high == 255
    assert read_image(GREY16.astype(">u2")).values.dtype == np.dtype(np.uint16)
    np.testing.assert_array_equal(read_image(GREY16.astype(">u2")).values, GREY16)
    pixels = read_image(np.linspace(0, 1, 60, dtype=np.float64).reshape(6, 10))
    assert pixels.values.dtype == np.float32 and (pixels.low, pixels.high) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.full((4, 4), np.nan), "finite"),
        (np.full((4, 4), 1.01), r"\[0, 1\]"),
        (np.full((4, 4), -0.01), r"\[0, 1\]"),
        (np.zeros((4, 4), np.int16), "int16"),
        (np.zeros((4, 4), bool), "bool"),
        (np.zeros((30, 40, 50), np.uint8), "3-D volume"),
        (np.zeros((4, 40, 40, 40), np.uint8), r"\[height, width"),
        (np.zeros((3, 40, 50), np.uint8), r"\[height, width"),
        (np.zeros((40, 50, 4), np.uint8), r"\[height, width"),
        (np.zeros((0, 50), np.uint8), r"\[height, width"),
        (np.zeros(50, np.uint8), r"\[height, width"),
    ],
)
def test_other_arrays_are_refused(array, words):
    with pytest.raises(ImageRefused, match=words):
        read_image(array)


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


def test_files_are_told_by_their_first_bytes(tmp_path, make_dicom, dicom_bytes):
    files = {"a": encode(GREY8), "b": dicom_bytes(make_dicom(GREY16)), "c": b"cases", "d": nifti()}
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    assert [is_image_file(tmp_path / name) for name in files] == [True, True, False, False]
    assert not is_image_file(tmp_path) and not is_image_file(tmp_path / "none")


def test_silence_ends_with_the_last_thread_that_asked_for_it():
    before = list(warnings.filters)
    inside, leave = threading.Event(), threading.Event()

    def longer():
        with quiet():
            inside.set()
            leave.wait(5)

    thread = threading.Thread(target=longer)
    with quiet():
        thread.start()
        inside.wait(5)
    warnings.warn("heard by nobody: the other thread is inside", stacklevel=1)
    leave.set()
    thread.join()
    assert warnings.filters == before
    with pytest.warns(UserWarning, match="heard"):
        warnings.warn("heard again", stacklevel=1)


@pytest.mark.serial
def test_a_small_png_becomes_a_tensor_in_a_few_milliseconds(tmp_path):
    from medfm_compress.runtime.image_spec import ImageSpec
    from medfm_compress.runtime.preprocess import preprocess

    path = tmp_path / "a.png"
    path.write_bytes(encode(np.random.default_rng(0).integers(0, 256, (224, 224), np.uint8)))
    spec = ImageSpec(height_px=224, width_px=224, colour="rgb", mean=(0.5,) * 3, std=(0.5,) * 3)
    times = []
    for _ in range(20):
        start = time.perf_counter()
        preprocess(read_image(path), spec)
        times.append(time.perf_counter() - start)
    assert min(times) < 0.02  # generous: about 1 ms


def chunk(name, body):
    import struct
    import zlib

    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(rows, *, interlaced=0, end=True, pieces=1, bad_crc=False):
    """An 8-bit grey PNG of 64×48 whose IDAT holds ``rows``, filter bytes and all."""
    import struct
    import zlib

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
    import struct

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


@pytest.mark.skipif(not hasattr(__import__("os"), "mkfifo"), reason="this system has no named pipes")
def test_devices_and_pipes_are_refused_at_once(tmp_path):
    import os

    os.mkfifo(tmp_path / "pipe.png")
    for path in (tmp_path / "pipe.png", "/dev/zero"):
        assert not is_image_file(path)
        with pytest.raises(ImageRefused, match="a device, pipe or socket"):
            read_image(path)


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
