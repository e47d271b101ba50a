"""Marker segments, fill bytes and chunks are counted before any decoder sees them; what encoders write passes."""

from __future__ import annotations

import io
import struct
import time
import zlib

import jpeg_ls
import numpy as np
import pytest
from coded_frames import jpeg_2000, lossless_jpeg
from PIL import Image
from pydicom.encaps import encapsulate

from medfm_compress.runtime.dicom.read_dicom import read_dicom
from medfm_compress.runtime.errors import ImageRefused
from medfm_compress.runtime.images.image_size import image_size
from medfm_compress.runtime.images.read_mask import read_colours, read_mask
from medfm_compress.runtime.read_image import read_image

GREY = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64).astype(np.uint8)
SEGMENTS, FILL = "more than 1000 marker segments", "more than 65536 fill bytes between its segments"
COMMENT = b"\xff\xfe\x00\x02"
FLOODS = {  # before the first segment of a JPEG, each worth seconds or gigabytes
    "comments": (COMMENT * 500_000, SEGMENTS),
    "application segments": (b"\xff\xe5\x00\x02" * 500_000, SEGMENTS),
    "tables": (b"\xff\xc4\x00\x02" * 500_000, SEGMENTS),
    "without a length": (b"\xff\xd8" * 1_000_000, SEGMENTS),
    "fill bytes": (b"\xff" * 2_000_000, FILL),
    "zeros": (bytes(2_000_000), FILL),
    "restarts": (b"\xff\xd0" * 1_000_000, FILL),
    "stuffed bytes": (b"\xff\x00" * 1_000_000, FILL),
    "behind what has no length": ((b"\xff\xf0\xff\xff" + bytes(65533)) * 40, FILL),
    "large tables": (
        (b"\xff\xdb\xff\xff" + (bytes([0]) + bytes([1]) * 64) * 1008 + b"\0" * 13) * 300,
        "before its first scan",
    ),
    "a comment before each": ((b"\xff" * 1000 + COMMENT) * 2000, FILL),
}


def in_dicom(make_dicom, frame, syntax="50", side=64):
    ds = make_dicom(np.zeros((side, side), np.uint8))
    ds.file_meta.TransferSyntaxUID = f"1.2.840.10008.1.2.4.{syntax}"
    ds.PixelData = encapsulate([frame])
    ds["PixelData"].is_undefined_length = True
    return ds


def refused_quickly(source, words):
    start = time.process_time()
    with pytest.raises(ImageRefused, match=words) as refused:
        read_image(source)
    assert time.process_time() - start < 3 and "\n" not in str(refused.value)


def saved(kind="JPEG", side=64, **options):
    buffer = io.BytesIO()
    Image.fromarray(np.resize(GREY, (side, side))).save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(("flood", "words"), FLOODS.values(), ids=FLOODS)
def test_segments_and_fill_bytes_of_a_jpeg_are_limited(make_dicom, flood, words):
    data = saved(quality=90)
    at = data.index(b"\xff\xdb")
    for broken in (data[:2] + COMMENT + flood + data[2:], data[:at] + flood + data[at:]):
        refused_quickly(broken, words)
        refused_quickly(in_dicom(make_dicom, broken), words)
    refused_quickly(data[:at] + flood, words)  # no scan behind it


@pytest.mark.parametrize("name", ["comments", "tables", "fill bytes", "a comment before each"])
def test_segments_and_fill_bytes_among_scans_are_limited(make_dicom, name):
    flood, words = FLOODS[name]
    data = saved(quality=90, progressive=True)
    for at in (data.rindex(b"\xff\xda"), len(data) - 2):
        broken = data[:at] + flood + data[at:]
        refused_quickly(broken, words)
        refused_quickly(in_dicom(make_dicom, broken), words)


def test_what_photographs_have_passes(make_dicom):
    expected = read_image(saved(quality=90)).values
    exif = Image.Exif()
    exif[0x927C] = b"\xff" * 60_000  # a maker's note of an erased memory
    profile = bytes(range(256)) * 4096  # in 17 segments
    rich = saved(quality=90, icc_profile=profile, exif=exif, comment=b"\xff" * 65_000)
    packets = (b"\xff\xe1\xff\xff" + b"http://ns.adobe.com/xmp/extension/\0".ljust(65_533, b"\xff")) * 200
    padded = rich[:2] + b"\xff" * 40 + packets + bytes(4096) + rich[2:-2] + b"\xff" * 300 + rich[-2:] + rich
    np.testing.assert_array_equal(read_image(padded).values, expected)
    many = saved(quality=90, progressive=True)
    at = many.rindex(b"\xff\xda")
    read_image(many[:at] + COMMENT * 500 + many[at:])
    restarts = saved(quality=90, side=2000, restart_marker_blocks=1)
    assert restarts.count(b"\xff\xd0") > 5000
    for data in (restarts, saved(quality=90, side=2000)):
        read_image(data)
        read_image(in_dicom(make_dicom, data, side=2000))


def test_segments_of_lossless_jpeg_and_jpeg_ls_are_limited(make_dicom):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64)).astype(np.uint8)
    for frame, uid in ((lossless_jpeg(noise), "70"), (bytes(jpeg_ls.encode(noise)), "80")):
        ds = in_dicom(make_dicom, frame, uid)
        np.testing.assert_array_equal(read_dicom(ds).values, read_dicom(make_dicom(noise)).values)
        for flood, words in ((COMMENT * 500_000, SEGMENTS), (b"\xff" * 2_000_000, FILL)):
            ds = in_dicom(make_dicom, frame[:2] + flood + frame[2:], uid)
            with pytest.raises(ImageRefused, match=words):
                read_dicom(ds)


def test_a_large_jpeg_ls_frame_has_no_markers_among_its_data(make_dicom):
    noise = np.random.default_rng(0).integers(0, 256, (1200, 1200)).astype(np.uint8)
    frame = bytes(jpeg_ls.encode(noise))
    assert sum(frame.count(bytes((0xFF, second))) for second in range(1, 0x80)) > 1000
    np.testing.assert_array_equal(
        read_dicom(in_dicom(make_dicom, frame, "80", 1200)).values,
        read_dicom(make_dicom(noise)).values,
    )


def test_segments_of_jpeg_2000_are_limited(make_dicom):
    frame = jpeg_2000(GREY)
    length = frame.index(b"\xff\x90") + 6
    frame = frame[:length] + bytes(4) + frame[length + 4 :]  # its one tile goes to the end, however long
    main, tile = frame.index(b"\xff\x52"), frame.index(b"\xff\x93")
    comment = b"\xff\x64\x00\x04\x00\x00"
    for at, few, many in ((main, 500, 300_000), (tile, 5000, 300_000)):
        read_dicom(in_dicom(make_dicom, frame[:at] + comment * few + frame[at:], "90"))
        ds = in_dicom(make_dicom, frame[:at] + comment * many + frame[at:], "90")
        with pytest.raises(ImageRefused, match="far more marker segments than an image needs"):
            read_dicom(ds)


def chunk(kind, body=b""):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


@pytest.mark.parametrize("kind", [b"IDAT", b"tEXt"])
def test_chunks_of_a_png_are_limited(tmp_path, kind):
    data = saved("PNG")
    at = data.index(b"IDAT") - 4
    words = "more than 100000 chunks, far more than its pixels need"
    broken = data[:at] + chunk(kind) * 100_001 + data[at:]
    refused_quickly(broken, words)
    (tmp_path / "mask.png").write_bytes(broken)
    with pytest.raises(ImageRefused, match=words):
        read_mask(tmp_path / "mask.png")
    few = data[:at] + chunk(b"IDAT") * 20_000 + data[at:]
    np.testing.assert_array_equal(read_image(few).values, read_image(data).values)


def test_segments_are_limited_where_a_mask_may_be_a_jpeg(tmp_path):
    data = saved(quality=90)
    (tmp_path / "mask.jpg").write_bytes(data[:2] + COMMENT * 500_000 + data[2:])
    with pytest.raises(ImageRefused, match=SEGMENTS):
        read_colours(tmp_path / "mask.jpg", lossy=True)


@pytest.mark.parametrize("name", ["comments", "fill bytes", "large tables"])
def test_segments_are_limited_where_only_the_size_is_asked_for(tmp_path, name):
    flood, words = FLOODS[name]
    data = saved(quality=90, icc_profile=bytes(600_000))
    path = tmp_path / "image.jpg"
    path.write_bytes(data)
    assert image_size(path) == (64, 64)
    at = data.index(b"\xff\xdb")
    path.write_bytes(data[:at] + flood + data[at:])
    with pytest.raises(ImageRefused, match=words):
        image_size(path)
