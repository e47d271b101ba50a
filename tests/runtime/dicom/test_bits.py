"""1 to 32 bits a pixel, signed and not, grey, colour and palettes; lossy JPEG of 12 bits."""

from __future__ import annotations

import numpy as np
import pytest

from medfm_compress.runtime.dicom.read_dicom import read_dicom
from medfm_compress.runtime.errors import ImageRefused
from medfm_compress.runtime.image_spec import DicomRules

RNG = np.random.default_rng(5)


@pytest.mark.parametrize("bits", range(1, 33))
@pytest.mark.parametrize("signed", [False, True])
def test_every_depth_is_read_through_a_window(make_dicom, dicom_bytes, bits, signed):
    if bits == 1 and signed:
        pytest.skip("one signed bit is refused, see test_read_dicom")
    low = -(2 ** (bits - 1)) if signed else 0
    stored = RNG.integers(low, low + 2**bits, (20, 31), dtype=np.int64)
    word = f"{'i' if signed else 'u'}{1 if bits <= 8 else 2 if bits <= 16 else 4}"
    centre, width = low + 2.0 ** (bits - 1), max(2.0 ** (bits - 1), 1)
    ds = make_dicom(
        stored.astype(word), BitsStored=bits, WindowCenter=f"{centre:.10g}", WindowWidth=f"{width:.10g}",
        VOILUTFunction="LINEAR_EXACT",
    )  # fmt: skip
    expected = np.rint(np.clip((stored - float(ds.WindowCenter)) / float(ds.WindowWidth) + 0.5, 0, 1) * 65535)
    for source in (ds, dicom_bytes(ds)):
        np.testing.assert_array_equal(read_dicom(source).values, expected)


def test_one_bit_a_pixel_is_black_or_white(make_dicom):
    bits = RNG.integers(0, 2, (9, 13), dtype=np.uint8)
    ds = make_dicom(bits, BitsAllocated=1, BitsStored=1)
    packed = np.packbits(bits.ravel(), bitorder="little").tobytes()
    ds.PixelData = packed + b"\0" * (len(packed) % 2)
    np.testing.assert_array_equal(read_dicom(ds).values, bits * np.uint16(65535))
    ds.PhotometricInterpretation = "MONOCHROME1"
    np.testing.assert_array_equal(read_dicom(ds).values, (1 - bits) * np.uint16(65535))


def test_32_bits_without_a_window_are_refused_unless_their_full_range_is_declared(make_dicom):
    stored = RNG.integers(0, 2**32, (20, 31), dtype=np.uint32)
    with pytest.raises(ImageRefused, match="32 bits stored and no window that says which to show"):
        read_dicom(make_dicom(stored))
    full = read_dicom(make_dicom(stored), DicomRules(window="full_range"))
    np.testing.assert_array_equal(full.values, np.rint(stored / (2**32 - 1) * 65535))


def test_padding_of_32_bits_is_black_too(make_dicom):
    stored = RNG.integers(0, 2**20, (20, 31), dtype=np.uint32)
    stored[:3] = 7
    ds = make_dicom(stored, WindowCenter=2**19, WindowWidth=2**20, PhotometricInterpretation="MONOCHROME1")
    ds.add_new("PixelPaddingValue", "US", 7)
    values = read_dicom(ds).values
    assert (values[:3] == 0).all() and values[3:].max() > 60_000


def test_colour_of_32_bits_becomes_the_nearest_of_16(make_dicom):
    stored = RNG.integers(0, 2**32, (20, 31, 3), dtype=np.uint32)
    values = read_dicom(make_dicom(stored)).values
    np.testing.assert_array_equal(values, np.rint(stored / (2**32 - 1) * 65535))
    assert values.dtype == np.uint16


def palette(bits, count=256):
    word = np.arange(count, dtype=np.uint16) * (257 if bits == 16 else 1)
    return {
        f"{colour}PaletteColorLookupTable{part}": value
        for colour in ("Red", "Green", "Blue")
        for part, value in (("Descriptor", [count, 0, bits]), ("Data", word.astype("<u2").tobytes()))
    }


@pytest.mark.parametrize("bits", [8, 16])
def test_a_palette_without_data_is_refused(make_dicom, bits):
    stored = RNG.integers(0, 256, (20, 31), dtype=np.uint8)
    whole = palette(bits)
    assert read_dicom(make_dicom(stored, PhotometricInterpretation="PALETTE COLOR", **whole)).is_colour
    for lacking in ("RedPaletteColorLookupTableData", "BluePaletteColorLookupTableData"):
        for value in (None, b""):
            ds = make_dicom(stored, PhotometricInterpretation="PALETTE COLOR", **whole)
            setattr(ds, lacking, value)
            with pytest.raises(ImageRefused, match=r"its palette has no data|does not match"):
                read_dicom(ds)
    with pytest.raises(ImageRefused, match="8 or 16 bits allocated"):
        read_dicom(make_dicom(stored.astype(np.uint32), PhotometricInterpretation="PALETTE COLOR", **whole))


@pytest.mark.shared
def test_12_bit_jpeg_that_is_cut_off_or_damaged_is_refused(shared_data):
    """GDCM alone reads it; what it only says on standard error refuses the image, also where the file warns before."""
    from pydicom import dcmread
    from pydicom.encaps import encapsulate, get_frame

    for file in ("pydicom/data__test_files__JPEG-lossy.dcm", "pylibjpeg-data/JPEGExtended__RG2_JPLY.dcm"):
        ds = dcmread(shared_data / "dicom" / file)
        frame = get_frame(ds.PixelData, 0, number_of_frames=1)
        whole = read_dicom(ds)
        assert whole.flags[-1] == "lossy-compressed"
        half = len(frame) // 2
        for damaged in (frame[:half] + b"\xff\xd9", frame[:half] + b"\xff\xd0\x12" * 40 + frame[half + 120 :]):
            ds.PixelData = encapsulate([damaged])
            ds["PixelData"].is_undefined_length = True
            with pytest.raises(ImageRefused):
                read_dicom(ds)
        ds.PixelData = encapsulate([frame])
        ds["PixelData"].is_undefined_length = True
        np.testing.assert_array_equal(read_dicom(ds).values, whole.values)
        ds.PixelRepresentation = 1
        with pytest.raises(ImageRefused, match="no installed decoder"):
            read_dicom(ds)
