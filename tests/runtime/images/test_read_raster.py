"""What is read and what is refused, by content: files, bytes and arrays."""

from __future__ import annotations

import gzip
import struct
import threading
import time
import warnings
import zlib

import numpy as np
import pytest
from encoded_images import GREY8, GREY16, RGB8, encode
from PIL import Image

from medfm_compress.runtime.errors import ImageRefused
from medfm_compress.runtime.images.quiet_decoders import quiet
from medfm_compress.runtime.read_image import is_image_file, read_image


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

    def chunk(name, body):
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    rows = zlib.compress(b"".join(b"\x00" + bytes(range(48)) for _ in range(8)))
    header = struct.pack(">IIBBBBB", 8, 8, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def bomb(side, colour=0):
    data = bytearray(encode(np.zeros((8, 8), np.uint8)))

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


@pytest.mark.skipif(not hasattr(__import__("os"), "mkfifo"), reason="this system has no named pipes")
def test_devices_and_pipes_are_refused_at_once(tmp_path):
    import os

    os.mkfifo(tmp_path / "pipe.png")
    for path in (tmp_path / "pipe.png", "/dev/zero"):
        assert not is_image_file(path)
        with pytest.raises(ImageRefused, match="a device, pipe or socket"):
            read_image(path)
