"""A DICOM file whose transfer syntax changes in the middle: never pixels of one read as those of the other."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from PIL import Image

from medfm_compress.runtime.dicom.read_dicom import decoded_frames, read_dicom
from medfm_compress.runtime.errors import ImageRefused
from medfm_compress.runtime.image_spec import DicomRules

STORED = np.random.default_rng(0).integers(0, 4096, (32, 40)).astype(np.uint16)
PIXELS = struct.pack("<HH", 0x7FE0, 0x0010)
ALL = DicomRules(frame="all", frame_aggregation="max")


def implicit(tag, value):
    return struct.pack("<HHI", tag >> 16, tag & 0xFFFF, len(value)) + value


def outcome(data):
    try:
        return read_dicom(data).values
    except ImageRefused as exc:
        return str(exc)


def test_implicit_elements_behind_explicit_ones_are_refused_or_give_the_same_pixels(make_dicom, dicom_bytes):
    ds = make_dicom(STORED, BitsStored=12, WindowCenter=2048, WindowWidth=4096)
    data, expected = dicom_bytes(ds), read_dicom(ds).values
    at = data.rindex(PIXELS)
    for changed in (
        data[:at] + implicit(0x7FE00010, STORED.tobytes()),
        data.replace(struct.pack("<HH", 0x28, 0x10) + b"US\x02\x00", struct.pack("<HHI", 0x28, 0x10, 2)),
    ):
        assert changed != data
        result = outcome(changed)
        assert isinstance(result, str) or np.array_equal(result, expected)


def test_an_element_that_stands_twice_is_refused(make_dicom, dicom_bytes):
    ds = make_dicom(STORED, BitsStored=12, WindowCenter=2048, WindowWidth=4096)
    data = dicom_bytes(ds)
    at = data.rindex(PIXELS)
    explicit = struct.pack("<HH", 0x28, 0x1050) + b"DS" + struct.pack("<H", 4) + b"1000"
    for again in (explicit, implicit(0x00281050, b"1000")):
        assert "attribute 0028,1050 stands twice" in outcome(data[:at] + again + data[at:])
    unread = struct.pack("<HH", 0x10, 0x10) + b"PN" + struct.pack("<H", 4) + b"A^B "
    assert np.array_equal(outcome(data[:at] + unread + data[at:]), read_dicom(ds).values)  # it is not read


def test_a_second_transfer_syntax_in_the_data_set_changes_nothing(make_dicom, dicom_bytes):
    ds = make_dicom(STORED, BitsStored=12, WindowCenter=2048, WindowWidth=4096)
    data, expected = dicom_bytes(ds), read_dicom(ds).values
    at = data.rindex(PIXELS)
    uid = b"1.2.840.10008.1.2.2\0"  # big endian
    again = struct.pack("<HH", 0x0002, 0x0010) + b"UI" + struct.pack("<H", len(uid)) + uid
    result = outcome(data[:at] + again + data[at:])
    assert isinstance(result, str) or np.array_equal(result, expected)


def test_frames_of_another_code_than_the_first_are_refused(make_dicom, dicom_bytes):
    from pydicom.encaps import encapsulate

    def coded(kind, **options):
        buffer = io.BytesIO()
        Image.fromarray((STORED >> 4).astype(np.uint8)).save(buffer, kind, **options)
        return buffer.getvalue()

    jpeg, jpeg_2000 = coded("JPEG", quality=95), coded("JPEG2000", no_jp2=True)
    ds = make_dicom((STORED >> 4).astype(np.uint8), NumberOfFrames=3)
    ds.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.50"
    ds.PixelData = encapsulate([jpeg, jpeg_2000, jpeg])
    ds["PixelData"].is_undefined_length = True
    ds["PixelData"].VR = "OB"
    frames = decoded_frames(dicom_bytes(ds), "cine.dcm", ALL)
    assert next(frames).values.shape == STORED.shape
    with pytest.raises(ImageRefused, match="cine"):
        next(frames)
