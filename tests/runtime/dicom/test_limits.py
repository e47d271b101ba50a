"""Small files that would cost seconds or gigabytes are refused before they do."""

from __future__ import annotations

import io
import struct
import time
import zlib

import numpy as np
import pytest
from PIL import Image

from medfm_compress.runtime.dicom import frame as frames
from medfm_compress.runtime.dicom import parse
from medfm_compress.runtime.dicom.read_dicom import read_dicom
from medfm_compress.runtime.errors import ImageRefused
from medfm_compress.runtime.images import size_limits
from medfm_compress.runtime.images.completeness import check_scans
from medfm_compress.runtime.read_image import read_image

GREY = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64).astype(np.uint8)
DEFLATED, IMPLICIT, RLE = "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2", "1.2.840.10008.1.2.5"
ITEM = b"\xfe\xff\x00\xe0"


def split(data):
    """Meta information and data set of a file with preamble."""
    at = 144 + int.from_bytes(data[140:144], "little")
    return data[:at], data[at:]


def deflated(make_dicom, dicom_bytes, before=b"", after=b""):
    """A deflated file with further elements around those of an image."""
    ds = make_dicom(GREY)
    meta = make_dicom(GREY)
    meta.file_meta.TransferSyntaxUID = DEFLATED
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    body = split(dicom_bytes(ds))[1]
    return split(dicom_bytes(meta))[0] + packer.compress(before + body + after) + packer.flush()


def refused_quickly(data, words):
    start = time.process_time()
    with pytest.raises(ImageRefused, match=words) as refused:
        read_image(data)
    assert time.process_time() - start < 3 and "\n" not in str(refused.value)


def test_a_deflated_file_is_read_as_it_was_and_a_short_one_refused(make_dicom, dicom_bytes):
    data = deflated(make_dicom, dicom_bytes)
    np.testing.assert_array_equal(read_image(data).values, read_dicom(make_dicom(GREY)).values)
    refused_quickly(data[:-20], "deflated data end early")


def test_millions_of_elements_are_not_all_parsed(make_dicom, dicom_bytes):
    empty = struct.pack("<HH2sH", 9, 0x1001, b"LO", 0)
    refused_quickly(deflated(make_dicom, dicom_bytes, before=empty * 3_000_000), "more data elements than any image")


def test_items_and_nesting_are_limited(make_dicom, dicom_bytes):
    head = struct.pack("<HH", 0x28, 0x3010) + b"SQ\0\0"
    item = ITEM + bytes(4)
    many = head + struct.pack("<I", 8 * 500_000) + item * 500_000
    deep = (head + b"\xff" * 4 + ITEM + b"\xff" * 4) * 5000
    meta, body = split(dicom_bytes(make_dicom(GREY)))
    at = body.index(b"\xe0\x7f\x10\x00")
    refused_quickly(meta + body[:at] + many + body[at:], r"\(0028,3010\) has 4000000 bytes")
    refused_quickly(meta + body[:at] + deep + body[at:], "nested deeper than in any image")


def called_at(depth, call):
    return called_at(depth - 1, call) if depth else call()


def test_nesting_is_said_wherever_the_stack_ends(make_dicom, dicom_bytes):
    deep = (struct.pack("<HH", 0x28, 0x3010) + b"SQ\0\0" + b"\xff" * 4 + ITEM + b"\xff" * 4) * 2000
    meta, body = split(dicom_bytes(make_dicom(GREY)))
    data = meta + body[: body.index(b"\xe0\x7f\x10\x00")] + deep
    for depth in range(12):  # between two items' headers there are a few calls
        with pytest.raises(ImageRefused, match="nested deeper than in any image"):
            called_at(depth, lambda: parse.parse(data, "x"))


def test_a_long_value_is_not_converted(make_dicom, dicom_bytes):
    ds = make_dicom(GREY, WindowCenter="128", WindowWidth="256")
    ds.file_meta.TransferSyntaxUID = IMPLICIT
    data = dicom_bytes(ds)
    old = struct.pack("<HHI", 0x28, 0x1050, 4) + b"128 "
    text = b"1\\" * 2_000_000
    long = data.replace(old, struct.pack("<HHI", 0x28, 0x1050, len(text)) + text)
    refused_quickly(long, r"\(0028,1050\) has 4000000 bytes; at most 65536")


def test_inflated_bytes_are_limited_by_the_largest_image():
    assert size_limits.MAX_DECODED_BYTES < parse.MAX_INFLATED_BYTES < 1.2 * size_limits.MAX_DECODED_BYTES


def test_decoded_bytes_are_limited_and_not_pixels_alone(make_dicom):
    for changes in (
        {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "PlanarConfiguration": 0},
        {"PhotometricInterpretation": "PALETTE COLOR"},
    ):
        with pytest.raises(ImageRefused, match=r"9000×9000 px of \d bytes are \d+ bytes decoded"):
            read_dicom(make_dicom(GREY, Rows=9000, Columns=9000, **changes))


def rle(make_dicom, dicom_bytes, segment):
    from pydicom.encaps import encapsulate

    ds = make_dicom(GREY)
    ds.file_meta.TransferSyntaxUID = RLE
    ds.PixelData = encapsulate([struct.pack("<II", 1, 64).ljust(64, b"\0") + segment])
    ds["PixelData"].is_undefined_length = True
    return dicom_bytes(ds)


def test_rle_runs_are_counted_before_they_are_expanded(make_dicom, dicom_bytes):
    literal = b"".join(b"\x7f" + GREY.tobytes()[at : at + 128] for at in range(0, GREY.size, 128))
    np.testing.assert_array_equal(
        read_image(rle(make_dicom, dicom_bytes, literal)).values, read_dicom(make_dicom(GREY)).values
    )
    refused_quickly(rle(make_dicom, dicom_bytes, b"\x81\x00" * 1_000_000), "RLE segments do not fit")


def test_fragments_are_counted_before_they_are_joined(make_dicom, monkeypatch):
    monkeypatch.setattr(frames, "_MAX_FRAGMENTS", 10)
    ds = make_dicom(GREY)
    ds.file_meta.TransferSyntaxUID = RLE
    ds.PixelData = (ITEM + bytes(4)) * 12
    ds["PixelData"].is_undefined_length = True
    with pytest.raises(ImageRefused, match="more than 10 fragments"):
        read_dicom(ds)


def jpeg_of_scans(count, side=64, **options):
    """A JPEG whose last scan comes again and again, ``count`` scans in all."""
    buffer = io.BytesIO()
    Image.fromarray(np.resize(GREY, (side, side))).save(buffer, "JPEG", quality=90, **options)
    data = buffer.getvalue()
    last = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + last * (count - data.count(b"\xff\xda")) + data[-2:]


def as_dicom(make_dicom, dicom_bytes, frame, side):
    from pydicom.encaps import encapsulate

    ds = make_dicom(np.zeros((side, side), np.uint8))
    ds.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.50"
    ds.PixelData = encapsulate([frame])
    ds["PixelData"].is_undefined_length = True
    return dicom_bytes(ds)


@pytest.mark.parametrize("is_progressive", [True, False])
@pytest.mark.parametrize(("side", "most"), [(64, 200), (6000, 55)])
def test_scans_of_a_jpeg_are_limited_by_its_pixels(make_dicom, dicom_bytes, is_progressive, side, most):
    data = jpeg_of_scans(most + 1, side, progressive=is_progressive)
    for file in (data, as_dicom(make_dicom, dicom_bytes, data, side)):
        refused_quickly(file, f"more than {most} scans of {side}×{side} px")


def test_as_many_scans_as_an_encoder_may_make_pass():
    data = jpeg_of_scans(100, progressive=True)
    assert data.count(b"\xff\xda") == 100
    check_scans(data, 4000, 5000, "x")
    check_scans(jpeg_of_scans(20, progressive=True), 10_000, 10_000, "x")
    with pytest.raises(ImageRefused, match="more than 20 scans"):
        check_scans(data, 10_000, 10_000, "x")
