"""Native pixels of a large file are not copied out of it, and are read as if they were."""

from __future__ import annotations

import numpy as np
import pytest
from pydicom.uid import ExplicitVRBigEndian, ImplicitVRLittleEndian, RLELossless

from medfm_compress.runtime.dicom import parse as parsing
from medfm_compress.runtime.dicom.read_dicom import read_dicom
from medfm_compress.runtime.errors import ImageRefused
from medfm_compress.runtime.image_spec import DicomRules

RNG = np.random.default_rng(3)
SIDE = 1100  # of 16 bits, or 8 in colour: more than 2 MiB


def noise(dtype, *shape):
    ends = np.iinfo(dtype)
    return RNG.integers(ends.min, ends.max, shape, dtype, endpoint=True)


def outcome(data, rules=None):
    try:
        pixels = read_dicom(data, rules or DicomRules())
    except ImageRefused as exc:
        return str(exc)
    return pixels.values.tobytes(), pixels.values.dtype, pixels[1:5]


def assert_as_copied(data, monkeypatch, rules=None):
    viewed = outcome(data, rules)
    assert isinstance(parsing.parse(data, "file")["PixelData"].value, memoryview)
    with monkeypatch.context() as patch:
        patch.setattr(parsing, "_NATIVE", ())
        assert isinstance(parsing.parse(data, "file")["PixelData"].value, bytes)
        assert viewed == outcome(data, rules)
    return viewed


@pytest.mark.parametrize("dtype", [np.uint16, np.int16, np.uint32])
@pytest.mark.parametrize("syntax", [None, ImplicitVRLittleEndian])
def test_grey(make_dicom, dicom_bytes, monkeypatch, dtype, syntax):
    ds = make_dicom(noise(dtype, SIDE, SIDE), WindowCenter=20_000, WindowWidth=30_000)
    if syntax:
        ds.file_meta.TransferSyntaxUID = syntax
    assert not isinstance(assert_as_copied(dicom_bytes(ds), monkeypatch), str)


@pytest.mark.parametrize("planar", [0, 1])
def test_colour(make_dicom, dicom_bytes, monkeypatch, planar):
    values = noise(np.uint8, SIDE, SIDE, 3)
    ds = make_dicom(values)
    ds.PlanarConfiguration = planar
    ds.PixelData = (np.moveaxis(values, -1, 0) if planar else values).tobytes()
    data = dicom_bytes(ds)
    assert_as_copied(data, monkeypatch)
    assert np.array_equal(read_dicom(data).values, values)


def test_a_frame_of_several(make_dicom, dicom_bytes, monkeypatch):
    values = noise(np.uint16, 5, 600, 600)
    ds = make_dicom(values[0], WindowCenter=32_768, WindowWidth=65_536, VOILUTFunction="LINEAR_EXACT")
    ds.NumberOfFrames, ds.PixelData = 5, values.tobytes()
    data = dicom_bytes(ds)
    for number in (1, 3, 5):
        rules = DicomRules(frame="numbered", frame_number=number)
        assert_as_copied(data, monkeypatch, rules)
        assert np.abs(read_dicom(data, rules).values.astype(int) - values[number - 1]).max() <= 1


def test_pixels_at_an_odd_place(make_dicom, dicom_bytes, monkeypatch):
    """An element of an odd length before them is against PS3.5 7.1.1, and is met."""
    ds = make_dicom(noise(np.uint16, SIDE, SIDE), WindowCenter=20_000, WindowWidth=30_000)
    whole = dicom_bytes(ds)
    at = whole.rindex(b"\xe0\x7f\x10\x00OW")
    odd = whole[:at] + b"\x09\x00\x01\x10UN\x00\x00\x03\x00\x00\x00abc" + whole[at:]
    assert assert_as_copied(odd, monkeypatch) == outcome(whole)


def test_pixels_that_are_cut_short_are_refused(make_dicom, dicom_bytes, monkeypatch):
    data = dicom_bytes(make_dicom(noise(np.uint16, SIDE, SIDE)))[:-1000]
    assert "truncated" in assert_as_copied(data, monkeypatch)


def test_another_long_value_is_refused_still(make_dicom, dicom_bytes):
    ds = make_dicom(noise(np.uint16, SIDE, SIDE))
    ds.add_new("WindowCenterWidthExplanation", "UT", "a" * 3_000_000)
    with pytest.raises(ImageRefused, match="3000000 bytes; at most"):
        read_dicom(dicom_bytes(ds))


@pytest.mark.parametrize("syntax", [RLELossless, ExplicitVRBigEndian])
def test_what_a_decoder_reads_is_bytes(make_dicom, dicom_bytes, syntax):
    ds = make_dicom(noise(np.uint16, SIDE, SIDE))
    if syntax == RLELossless:
        ds.compress(syntax)
    else:
        ds.file_meta.TransferSyntaxUID = syntax
    data = dicom_bytes(ds)
    assert isinstance(parsing.parse(data, "file")["PixelData"].value, bytes)
    assert read_dicom(data).shape == (SIDE, SIDE)
