"""What a file claims beside the pixels does not change them: planes of a compressed frame, loss in the past, signs."""

from __future__ import annotations

import io

import jpeg_ls
import numpy as np
import pytest
from coded_frames import jpeg_2000
from PIL import Image
from pydicom.encaps import encapsulate
from pydicom.uid import ExplicitVRBigEndian, ImplicitVRLittleEndian, RLELossless

from medfm_compress.runtime.dicom.read_dicom import read_dicom
from medfm_compress.runtime.errors import ImageRefused

RNG = np.random.default_rng(8)
COLOURS = np.stack([RNG.integers(0, 256, (16, 24)), np.full((16, 24), 200), np.zeros((16, 24))], -1).astype(np.uint8)
SIGNED = RNG.integers(-2048, 2048, (16, 24)).astype(np.int16)


def jpeg(values: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(values).save(out, "JPEG", quality=95, subsampling=0)
    return out.getvalue()


@pytest.mark.parametrize(
    ("coder", "syntax", "label"),
    [
        (jpeg, "50", "YBR_FULL_422"),
        (jpeg_2000, "90", "RGB"),
        (lambda values: bytes(jpeg_ls.encode(values)), "80", "RGB"),
    ],
)
def test_a_compressed_frame_says_itself_how_its_colours_lie(make_dicom, dicom_bytes, coder, syntax, label):
    def read(planar):
        ds = make_dicom(COLOURS, PlanarConfiguration=planar, PhotometricInterpretation=label)
        ds.file_meta.TransferSyntaxUID = f"1.2.840.10008.1.2.4.{syntax}"
        ds.PixelData = encapsulate([coder(COLOURS)])
        ds["PixelData"].is_undefined_length = True
        return read_dicom(dicom_bytes(ds)).values

    interleaved = read(0)
    assert np.abs(interleaved.astype(int) - COLOURS).max() <= (0 if coder is not jpeg else 60)
    for claimed in (1, None):
        np.testing.assert_array_equal(read(claimed), interleaved)


@pytest.mark.parametrize(
    ("label", "planar", "words"),
    [
        ("YBR_FULL_422", 1, "Planar Configuration is 1; of uncompressed YBR_FULL_422 it must be 0"),
        ("RGB", 2, "Planar Configuration is 2; of uncompressed RGB it must be 0 or 1"),
        ("RGB", None, "has no PlanarConfiguration"),
    ],
)
def test_uncompressed_colour_of_uncertain_planes_is_refused(make_dicom, label, planar, words):
    ds = make_dicom(COLOURS, PlanarConfiguration=planar, PhotometricInterpretation=label)
    if label != "RGB":
        ds.PixelData = ds.PixelData[: 2 * len(ds.PixelData) // 3]
    with pytest.raises(ImageRefused, match=words):
        read_dicom(ds)


def written(ds, words, syntax):
    """The data set with its 16-bit words in a transfer syntax."""
    ds.file_meta.TransferSyntaxUID = syntax or ds.file_meta.TransferSyntaxUID
    if syntax == RLELossless:
        ds.compress(RLELossless, words, encoding_plugin="pydicom", generate_instance_uid=False)
    else:
        ds.PixelData = words.astype(">u2" if syntax == ExplicitVRBigEndian else "<u2").tobytes()
    return ds


@pytest.mark.parametrize("syntax", [None, ExplicitVRBigEndian, RLELossless])
@pytest.mark.parametrize("lossy", ["00", "01"])
def test_loss_in_the_past_clips_nothing(make_dicom, dicom_bytes, syntax, lossy):
    """Unused bits of signed values may be zero (PS3.5 8.1.1), and then lie above what 12 signed bits hold."""
    expected = np.rint((SIGNED.astype(float) + 2048) / 4095 * 65535)
    claims = {"LossyImageCompression": lossy, "WindowCenter": 0, "WindowWidth": 4096}
    ds = make_dicom(SIGNED.view(np.uint16), **claims)
    ds = written(ds, SIGNED.view(np.uint16) & 0xFFF, syntax)
    ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 12, 11, 1
    pixels = read_dicom(dicom_bytes(ds))
    np.testing.assert_allclose(pixels.values, expected, atol=1)
    assert ("lossy-compressed" in pixels.flags) == (lossy == "01")


@pytest.mark.parametrize("lossy", ["00", "01"])
def test_loss_in_the_past_excuses_no_wrong_bits_stored(make_dicom, lossy):
    stored = RNG.integers(0, 2**16, (16, 24), dtype=np.uint16)
    with pytest.raises(ImageRefused, match="pixels exceed the 12 bits stored"):
        read_dicom(make_dicom(stored, BitsStored=12, LossyImageCompression=lossy, WindowCenter=2048, WindowWidth=4096))


def test_a_lookup_table_that_begins_above_32767_is_placed_there_in_implicit_vr_too(make_dicom, dicom_bytes):
    """pydicom reads its descriptor as signed where the pixels are; what is behind the rescale is not (C.11.2.1.1)."""
    from pydicom import Dataset

    stored = np.arange(-2048, 2048, dtype=np.int16).reshape(64, 64)
    rising = np.linspace(0, 4095, 3000).astype("<u2")
    values = 8.0 * stored + 20_000
    expected = np.rint(rising[np.clip(values - 33_000, 0, 2999).astype(int)] / 4095 * 65535)
    for syntax in (None, ImplicitVRLittleEndian):
        item = Dataset()
        item.add_new("LUTDescriptor", "US", [3000, 33_000, 12])
        item.add_new("LUTData", "OW", rising.tobytes())
        ds = make_dicom(stored, BitsStored=12, RescaleSlope=8, RescaleIntercept=20_000, VOILUTSequence=[item])
        if syntax:
            ds.file_meta.TransferSyntaxUID = syntax
        np.testing.assert_allclose(read_dicom(dicom_bytes(ds)).values, expected, atol=1)


def test_a_table_that_begins_below_all_values_stays_there(make_dicom):
    from pydicom import Dataset

    item = Dataset()
    item.add_new("LUTDescriptor", "SS", [300, -5, 8])
    item.add_new("LUTData", "OW", np.clip(np.arange(300), 0, 255).astype("<u2").tobytes())
    stored = np.arange(256, dtype=np.uint8).reshape(16, 16)
    expected = np.minimum(stored.astype(int) + 5, 255) * 257
    np.testing.assert_array_equal(read_dicom(make_dicom(stored, VOILUTSequence=[item])).values, expected)


@pytest.mark.parametrize(
    ("kind", "padding", "vr", "said", "label"),
    [("u2", 63_536, "SS", -2000, "MONOCHROME2"), ("i2", -2000, "US", 63_536, "MONOCHROME1")],
)
def test_padding_of_the_other_sign_is_black(make_dicom, kind, padding, vr, said, label):
    stored = RNG.integers(0, 300, (16, 24)).astype(kind)
    stored[:4] = padding
    ds = make_dicom(stored, WindowCenter=150, WindowWidth=300, PhotometricInterpretation=label)
    ds.add_new("PixelPaddingValue", vr, said)
    values = read_dicom(ds).values
    assert (values[:4] == 0).all() and values[4:].max() > 60_000


@pytest.mark.parametrize("big_endian", [False, True])
def test_a_segmented_palette_of_bytes_has_the_words_of_its_file(make_dicom, dicom_bytes, big_endian):
    stored = np.arange(256, dtype=np.uint8).reshape(16, 16)
    segments = bytes([0, 2, 10, 20, 1, 100, 220, 0, 3, 5, 6, 7, 1, 151, 7]) + b"\0"
    entries = np.concatenate([[10, 20], np.rint(20 + 2 * np.arange(1, 101)), [5, 6, 7], np.full(151, 7)])
    swapped = np.frombuffer(segments, np.uint8).reshape(-1, 2)[:, ::-1].tobytes()
    ds = make_dicom(stored, PhotometricInterpretation="PALETTE COLOR")
    for colour in ("Red", "Green", "Blue"):
        ds.add_new(f"{colour}PaletteColorLookupTableDescriptor", "US", [256, 0, 8])
        ds.add_new(f"Segmented{colour}PaletteColorLookupTableData", "OW", swapped if big_endian else segments)
    if big_endian:
        ds.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
        ds["PixelData"].VR = "OB"
    values = read_dicom(dicom_bytes(ds)).values
    np.testing.assert_array_equal(values, np.repeat(entries.reshape(16, 16, 1), 3, -1))
