"""DICOM to P-values: against pydicom's and DCMTK's own pipelines, on real files and on files made for one clause."""

from __future__ import annotations

import csv
import io
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

from medfm_compress.runtime.dicom.read_dicom import read_dicom
from medfm_compress.runtime.errors import ImageRefused
from medfm_compress.runtime.image_spec import DicomRules, ImageSpec
from medfm_compress.runtime.preprocess import preprocess
from medfm_compress.runtime.read_image import read_image

RAMP8 = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64).astype(np.uint8)
RAMP12 = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64)
CHEST = DicomRules(modalities=("CR", "DX"), view_positions=("PA", "AP"))
SPEC = ImageSpec(height_px=96, width_px=80, colour="rgb", mean=(0.5,) * 3, std=(0.25,) * 3, min_side_px=64, dicom=CHEST)

# Of the 115 real files, what a frontal chest network accepts: CR or DX, frontal or without a view, single-frame, 64 px.
ACCEPTED = {
    "highdicom/dx_image.dcm",
    "pydicom-data/RG1_J2KI.dcm",
    "pydicom-data/RG3_J2KI.dcm",
    "pydicom-data/RG3_J2KR.dcm",
    "pylibjpeg-data/JPEGExtended__RG2_JPLY.dcm",
    "pylibjpeg-data/JPEGExtended__RG2_JPLY_fixed.dcm",
    "pylibjpeg-data/JPEGLS__RG2_JLSN.dcm",
    "torchxrayvision/1.2.276.0.7230010.3.1.4.8323329.6904.1517875201.850819.dcm",
    "torchxrayvision/Fake_MONOHR1.dcm",
}


def inventory(folder):
    with (folder / "dicom" / "inventory.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def write_png(values):
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "PNG", compress_level=0)
    return buffer.getvalue()


@pytest.mark.shared
def test_a_chest_network_accepts_its_own_among_the_real_files_and_refuses_the_rest(shared_data):
    accepted, reasons = set(), {}
    for row in inventory(shared_data):
        try:
            tensor = preprocess(read_image(shared_data / "dicom" / row["file"], CHEST), SPEC)
        except ImageRefused as refused:
            reasons[row["file"]] = str(refused)
            continue
        assert tensor.shape == SPEC.shape and np.isfinite(tensor).all()
        accepted.add(row["file"])
    assert accepted == ACCEPTED
    for file, reason in reasons.items():
        assert "\n" not in reason and len(reason) < 250, (file, reason)
    assert "multi-frame" in reasons["pydicom-data/emri_small.dcm"]
    assert "SEG" in reasons["pydicom-data/liver_j2k.dcm"]
    assert "RTDOSE" in reasons["pydicom/data__test_files__badVR.dcm"]
    assert "parametric map" in reasons["pydicom-data/parametric_map_float.dcm"]
    assert "view position is LL" in reasons["pydicom/data__test_files__dicomdirtests__77654033__CR1__6154"]
    assert "shorter side" in reasons["pydicom/data__test_files__dicomdirtests__77654033__CR2__6247"]
    assert "no transfer syntax" in reasons["pydicom/data__test_files__meta_missing_tsyntax.dcm"]


@pytest.mark.shared
def test_without_rules_the_real_files_give_what_pydicoms_own_pipeline_gives(shared_data):
    """Windows and tables in float64 from pydicom, ours looked up: they may differ by one rounding."""
    from pydicom import dcmread
    from pydicom.pixels import apply_modality_lut, apply_voi_lut

    compared = 0
    for row in inventory(shared_data):
        path = shared_data / "dicom" / row["file"]
        try:
            pixels = read_dicom(path)
        except ImageRefused:
            continue
        if pixels.is_colour or pixels.flags[:1] == ("no-window",) or "RG2_JPLY" in row["file"]:
            continue  # which needs a decoder of 12-bit JPEG, and pydicom asks none; see the table of conformance
        ds = dcmread(path, force=True)
        if "VOILUTSequence" in ds:
            expected = apply_voi_lut(apply_modality_lut(ds.pixel_array, ds), ds)
            expected = expected / (2 ** ds.VOILUTSequence[0].LUTDescriptor[2] - 1) * 65535
        else:
            modality = apply_modality_lut(ds.pixel_array, ds)
            shown = apply_voi_lut(modality, ds)
            least, greatest = windowed_range(ds)
            expected = (shown - least) / (greatest - least) * 65535
        if ds.PhotometricInterpretation == "MONOCHROME1":
            expected = 65535 - expected
        if "PixelPaddingValue" in ds:
            expected = np.where(ds.pixel_array == ds.PixelPaddingValue, 0, expected)
        assert np.abs(pixels.values - expected).max() <= 0.5 + 1e-6, row["file"]
        compared += 1
    assert compared >= 20


def windowed_range(ds):
    """What pydicom maps a window to: the modality values of the least and greatest possible stored value."""
    low, high = (-(2 ** (ds.BitsStored - 1)), 2 ** (ds.BitsStored - 1) - 1) if ds.PixelRepresentation else (0, None)
    high = 2**ds.BitsStored - 1 if high is None else high
    slope, intercept = float(ds.get("RescaleSlope", 1)), float(ds.get("RescaleIntercept", 0))
    return low * slope + intercept, high * slope + intercept


@pytest.mark.shared
@pytest.mark.skipif(not shutil.which("dcm2pnm"), reason="DCMTK's dcm2pnm is not installed")
@pytest.mark.parametrize(
    ("file", "options"),
    [
        ("highdicom/dx_image.dcm", ["+Wi", "1"]),
        ("pydicom-data/693_UNCR.dcm", ["+Wi", "1"]),
        ("pydicom-data/mlut_18.dcm", ["-W"]),
        ("pydicom-data/vlut_04.dcm", ["+Wl", "1"]),
        ("pydicom/data__test_files__examples_overlay.dcm", ["+Wi", "1", "-O"]),
    ],
)
def test_dcmtk_renders_the_same(shared_data, tmp_path, file, options):
    path = shared_data / "dicom" / file
    subprocess.run(["dcm2pnm", "-q", "+on2", *options, path, tmp_path / "a.png"], check=True, capture_output=True)
    with Image.open(tmp_path / "a.png") as image:
        peer = np.asarray(image).astype(int)
    assert np.abs(read_dicom(path).values.astype(int) - peer).max() <= 1


@pytest.mark.shared
@pytest.mark.parametrize("file", sorted(ACCEPTED))
def test_a_real_dicom_and_the_16_bit_png_written_from_it_give_the_same_tensor(shared_data, file):
    pixels = read_dicom(shared_data / "dicom" / file, CHEST)
    again = read_image(write_png(pixels.values))
    assert pixels.values.dtype == again.values.dtype == np.uint16
    np.testing.assert_array_equal(preprocess(pixels, SPEC), preprocess(again, SPEC))


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("window", [{}, {"WindowCenter": 1500, "WindowWidth": 2000}])
@pytest.mark.parametrize("rescale", [{}, {"RescaleSlope": "0.5", "RescaleIntercept": "-100"}])
def test_a_made_dicom_and_the_16_bit_png_written_from_it_give_the_same_tensor(
    make_dicom, dicom_bytes, photometric, window, rescale
):
    stored = np.random.default_rng(4).integers(0, 4096, (90, 110)).astype(np.uint16)
    ds = make_dicom(stored, BitsStored=12, PhotometricInterpretation=photometric, **window, **rescale)
    # The PNG is made here from the clauses of the standard, not by the code under test.
    modality = stored * 0.5 - 100 if rescale else stored.astype(float)
    low, high = (-100, 4095 * 0.5 - 100) if rescale else (0, 4095)
    shown = (modality - low) / (high - low)
    if window:
        shown = np.clip((modality - 1499.5) / 1999 + 0.5, 0, 1)
    p_values = np.rint(shown * 65535).astype(np.uint16)
    png = write_png(65535 - p_values if photometric == "MONOCHROME1" else p_values)
    tensor = preprocess(read_image(dicom_bytes(ds), CHEST), SPEC)
    np.testing.assert_array_equal(tensor, preprocess(read_image(png), SPEC))
    np.testing.assert_array_equal(tensor, preprocess(read_image(ds, CHEST), SPEC))


def test_8_bits_without_a_window_are_multiplied_by_257(make_dicom):
    pixels = read_dicom(make_dicom(RAMP8))
    np.testing.assert_array_equal(pixels.values, RAMP8.astype(np.uint16) * 257)
    assert pixels.flags == ("no-window",)


@pytest.mark.parametrize("shapes", [{}, {"PresentationLUTShape": "INVERSE"}])
def test_monochrome1_is_inverted_once(make_dicom, shapes):
    pixels = read_dicom(make_dicom(RAMP8, PhotometricInterpretation="MONOCHROME1", **shapes))
    np.testing.assert_array_equal(pixels.values, 65535 - RAMP8.astype(np.uint16) * 257)


def test_a_windows_three_functions_follow_their_formulas(make_dicom):
    x = RAMP12.astype(float)
    formulas = {
        "LINEAR": np.clip((x - 1999.5) / 999 + 0.5, 0, 1),
        "LINEAR_EXACT": np.clip((x - 2000) / 1000 + 0.5, 0, 1),
        "SIGMOID": 1 / (1 + np.exp(-4 * (x - 2000) / 1000)),
    }
    for name, expected in formulas.items():
        ds = make_dicom(RAMP12, BitsStored=12, WindowCenter=[2000, 9], WindowWidth=[1000, 9], VOILUTFunction=name)
        assert np.abs(read_dicom(ds).values - expected * 65535).max() <= 0.5 + 1e-6, name
    step = read_dicom(make_dicom(RAMP12, BitsStored=12, WindowCenter=2000, WindowWidth=1))
    np.testing.assert_array_equal(step.values, np.where(RAMP12 > 1999.5, 65535, 0))
    assert step.flags == ()


def test_rules_choose_the_window(make_dicom):
    ds = make_dicom(RAMP12, BitsStored=12, WindowCenter=2000, WindowWidth=1000)
    full = read_dicom(ds, DicomRules(window="full_range"))
    np.testing.assert_array_equal(full.values, np.rint(RAMP12 / 4095 * 65535))
    assert full.flags == ()
    fixed = read_dicom(ds, DicomRules(window="fixed", window_center=100, window_width=101))
    np.testing.assert_array_equal(fixed.values, np.rint(np.clip((RAMP12 - 99.5) / 100 + 0.5, 0, 1) * 65535))


def test_signed_pixels_are_read_whether_or_not_their_sign_is_extended(make_dicom):
    stored = np.tile(np.arange(-512, 512, dtype=np.int16), (64, 1))
    expected = np.rint((stored + 512) / 1023 * 65535)
    for values in (stored, (stored & 0x3FF).astype(np.int16)):
        pixels = read_dicom(make_dicom(values, BitsStored=10))
        np.testing.assert_array_equal(pixels.values, expected)


def test_padding_is_black_also_in_monochrome1(make_dicom):
    for photometric in ("MONOCHROME1", "MONOCHROME2"):
        ds = make_dicom(RAMP8, PhotometricInterpretation=photometric, PixelPaddingValue=250, PixelPaddingRangeLimit=255)
        values = read_dicom(ds).values
        assert (values[RAMP8 >= 250] == 0).all()
        assert (values[(RAMP8 > 0) & (RAMP8 < 250)] > 0).any()


def test_tables_are_applied_in_order(make_dicom):
    import pydicom

    modality, voi = pydicom.Dataset(), pydicom.Dataset()
    modality.LUTDescriptor, modality.LUTData = [256, 0, 16], list(range(0, 512, 2))
    voi.LUTDescriptor, voi.LUTData = [511, 0, 8], [value // 2 for value in range(511)]
    for item in (modality, voi):
        item["LUTDescriptor"].VR = item["LUTData"].VR = "US"
    ds = make_dicom(RAMP8, ModalityLUTSequence=[modality], VOILUTSequence=[voi], WindowCenter=1, WindowWidth=1)
    np.testing.assert_array_equal(read_dicom(ds).values, RAMP8.astype(np.uint16) * 257)
    voi.LUTDescriptor = [400, 0, 8]
    with pytest.raises(ImageRefused, match="VOI lookup table does not match its descriptor"):
        read_dicom(ds)


def test_colour_keeps_its_depth_and_a_palette_its_byte_order(make_dicom):
    from pydicom.uid import ExplicitVRBigEndian

    rgb = np.random.default_rng(0).integers(0, 256, (64, 70, 3)).astype(np.uint8)
    np.testing.assert_array_equal(read_dicom(make_dicom(rgb)).values, rgb)
    deep = read_dicom(make_dicom(rgb.astype(np.uint16) * 16, BitsStored=12))
    assert deep.high == 4095 and deep.values.dtype == np.uint16
    table = np.arange(256, dtype=np.uint16) * 257
    palette = {
        f"{colour}PaletteColorLookupTable{part}": value
        for colour, data in (("Red", table), ("Green", table[::-1]), ("Blue", table))
        for part, value in (("Descriptor", [256, 0, 16]), ("Data", data.astype(">u2").tobytes()))
    }
    ds = make_dicom(RAMP8, PhotometricInterpretation="PALETTE COLOR", **palette)
    ds.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    values = read_dicom(ds).values
    np.testing.assert_array_equal(values[..., 0], RAMP8.astype(np.uint16) * 257)
    np.testing.assert_array_equal(values[..., 1], 65535 - values[..., 0])


def test_flags_tell_of_loss_and_of_burned_in_text(make_dicom):
    ds = make_dicom(RAMP8, WindowCenter=128, WindowWidth=256, LossyImageCompression="01", BurnedInAnnotation="YES")
    assert read_dicom(ds).flags == ("lossy-compressed", "burned-in-annotation")


def test_rules_accept_absent_attributes_but_for_the_modality(make_dicom):
    rules = DicomRules(modalities=("DX",), view_positions=("PA",), body_parts=("CHEST",))
    assert read_dicom(make_dicom(RAMP8), rules).values.size
    assert read_dicom(make_dicom(RAMP8, ViewPosition="PA", BodyPartExamined="CHEST"), rules).values.size
    for changes, words in (
        ({"Modality": None}, r"no Modality \(0008,0060\)"),
        ({"Modality": "CT"}, "modality is CT; this network was made for DX"),
        ({"ViewPosition": "LL"}, "view position is LL"),
        ({"BodyPartExamined": "HAND"}, "body part is HAND"),
    ):
        with pytest.raises(ImageRefused, match=words):
            read_dicom(make_dicom(RAMP8, **changes), rules)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"NumberOfFrames": 2}, "2 frames, a multi-frame object or 3-D volume, out of scope"),
        ({"PerFrameFunctionalGroupsSequence": []}, "enhanced multi-frame"),
        ({"PresentationIntentType": "FOR PROCESSING"}, "raw detector data"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.66.4"}, "SEG"),
        ({"Modality": "RTDOSE"}, "dose grid"),
        ({"Modality": "PR"}, "presentation state"),
        ({"PixelData": None}, "no image"),
        ({"Rows": None}, "no image"),
        ({"BitsAllocated": 64, "BitsStored": 64}, "64 bits stored in 64; 1 to 32 bits"),
        ({"BitsAllocated": 24, "BitsStored": 24}, "24 bits stored in 24"),
        ({"BitsStored": 1, "PixelRepresentation": 1}, "one signed bit"),
        ({"BitsAllocated": 1, "BitsStored": 1, "PhotometricInterpretation": "PALETTE COLOR"}, "pixels of one bit"),
        ({"BitsStored": 7}, "exceed the 7 bits stored"),
        ({"HighBit": 3}, "High Bit is 3"),
        ({"Rows": 65535, "Columns": 65535}, "megapixels"),
        ({"Rows": 0}, "0 px"),
        ({"Rows": 65}, "truncated, 4096 of 4160 bytes"),
        ({"Rows": 32}, "more than one frame"),
        ({"PhotometricInterpretation": "HSV"}, "photometric interpretation is HSV"),
        ({"PhotometricInterpretation": "RGB"}, "1 samples per pixel; RGB has 3"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "palette has no data for red"),
        ({"WindowCenter": 10, "WindowWidth": 0}, "WindowWidth is 0; it must be at least 1"),
        ({"WindowCenter": 10, "WindowWidth": 0, "VOILUTFunction": "SIGMOID"}, "above 0 for SIGMOID"),
        ({"WindowCenter": 10, "WindowWidth": 5, "VOILUTFunction": "CUBIC"}, "VOI LUT Function must be one of"),
        ({"WindowCenter": 10}, "WindowCenter and WindowWidth must both"),
        ({"WindowCenter": 5000, "WindowWidth": 10}, "single grey"),
        ({"RescaleSlope": 0, "RescaleIntercept": 1}, "the slope not 0"),
        ({"RescaleSlope": 2}, "must both be there"),
        ({"PresentationLUTShape": "INVERSE"}, "INVERSE contradicts MONOCHROME2"),
        ({"PresentationLUTShape": "IDENTITY", "PhotometricInterpretation": "MONOCHROME1"}, "contradicts MONOCHROME1"),
    ],
)
def test_what_has_no_one_certain_reading_is_refused(make_dicom, changes, words):
    with pytest.raises(ImageRefused, match=words) as refused:
        read_dicom(make_dicom(RAMP8, **changes))
    assert "Secret" not in str(refused.value)


def test_a_dataset_is_not_changed(make_dicom):
    ds = make_dicom(RAMP12, BitsStored=12, WindowCenter=2000, WindowWidth=1000)
    before = ds.to_json()
    read_dicom(ds)
    assert ds.to_json() == before


def with_overlay(ds, position, allocated=16):
    ds.add_new(0x60020100, "US", allocated)
    ds.add_new(0x60020102, "US", position)
    return ds


@pytest.mark.parametrize("position", [12, 15])
def test_an_overlay_in_unused_bits_is_masked_where_the_file_names_its_bit(make_dicom, dicom_bytes, position):
    drawn = (np.indices(RAMP12.shape).sum(0) % 7 == 0).astype(np.uint16)
    expected = read_dicom(make_dicom(RAMP12, BitsStored=12)).values
    stored = RAMP12 | (drawn << position)
    ds = with_overlay(make_dicom(stored, BitsStored=12), position)
    np.testing.assert_array_equal(read_dicom(ds).values, expected)
    np.testing.assert_array_equal(read_image(dicom_bytes(ds)).values, expected)
    for other in (
        with_overlay(make_dicom(stored, BitsStored=12), 13),
        with_overlay(make_dicom(stored, BitsStored=12), position, allocated=1),
        make_dicom(stored, BitsStored=12),
    ):
        with pytest.raises(ImageRefused, match="exceed the 12 bits stored"):
            read_dicom(other)


def test_an_overlay_over_signed_pixels_leaves_their_sign(make_dicom):
    stored = np.tile(np.arange(-512, 512, dtype=np.int16), (64, 1))
    expected = read_dicom(make_dicom(stored, BitsStored=10)).values
    drawn = (np.indices(stored.shape).sum(0) % 3 == 0).astype(np.int16)
    for values in (stored, stored & np.int16(0x3FF)):
        ds = with_overlay(make_dicom(values ^ (drawn << 11), BitsStored=10), 11)
        np.testing.assert_array_equal(read_dicom(ds).values, expected)


def test_a_table_that_fills_a_fraction_of_its_depth_is_flagged(make_dicom):
    import pydicom

    flag = "lookup-table-partly-filled"
    lut = pydicom.Dataset()
    lut.LUTDescriptor, lut.LUTData = [256, 0, 16], [value * 16 for value in range(256)]
    for element in ("LUTDescriptor", "LUTData"):
        lut[element].VR = "US"
    assert read_dicom(make_dicom(RAMP8, VOILUTSequence=[lut])).flags == (flag,)
    assert read_dicom(make_dicom(RAMP8, ModalityLUTSequence=[lut])).flags == ("no-window", flag)
    windowed = make_dicom(RAMP8, ModalityLUTSequence=[lut], WindowCenter=2048, WindowWidth=4096)
    assert read_dicom(windowed).flags == ()
    lut.LUTDescriptor[2] = 12
    assert read_dicom(make_dicom(RAMP8, VOILUTSequence=[lut])).flags == ()
    palette = {
        f"{colour}PaletteColorLookupTable{part}": value
        for colour in ("Red", "Green", "Blue")
        for part, value in (("Descriptor", [256, 0, 16]), ("Data", np.arange(256, dtype="<u2").tobytes()))
    }
    assert read_dicom(make_dicom(RAMP8, PhotometricInterpretation="PALETTE COLOR", **palette)).flags == (flag,)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"1000,5", "WindowCenter is written with a comma, and DICOM takes a decimal point only"),
        (b"WINDOW", "WindowCenter is text, not a number"),
        (b"NaN   ", "WindowCenter is not a finite number"),
        (b"1_0   ", "WindowCenter is text, not a number"),
        (b"1_000 ", "WindowCenter is text, not a number"),
        (b"10\\1_0", "WindowCenter is text, not a number"),
        (b"0x10  ", "WindowCenter is text, not a number"),
    ],
)
def test_a_window_that_is_no_number_is_named_as_such(make_dicom, dicom_bytes, text, words):
    data = dicom_bytes(make_dicom(RAMP8, WindowCenter="1234.5", WindowWidth="100"))
    with pytest.raises(ImageRefused, match=words):
        read_image(data.replace(b"1234.5", text))


@pytest.mark.parametrize("text", ["1_0", "1_0.5", "1e1_0"])
@pytest.mark.parametrize("keyword", ["RescaleSlope", "RescaleIntercept", "WindowWidth"])
def test_an_underscore_makes_no_number(make_dicom, dicom_bytes, keyword, text):
    attributes = {"RescaleSlope": "1", "RescaleIntercept": "0", "WindowCenter": "128", "WindowWidth": "256"}
    data = dicom_bytes(make_dicom(RAMP8, **attributes | {keyword: "1234567.8"}))
    with pytest.raises(ImageRefused, match=f"{keyword} is text, not a number"):
        read_image(data.replace(b"1234567.8", text.encode().ljust(9)))


@pytest.mark.parametrize("representation", ["LO", "UC", "OB"])
def test_a_decimal_of_another_representation_is_its_text_or_refused(make_dicom, dicom_bytes, representation):
    """A file may say of any attribute that it is a text, or bytes, of which the first was once a slope of 49."""
    import pydicom

    ds = make_dicom(RAMP8)
    ds.RescaleIntercept, value = "0", b"1_" if representation == "OB" else "1_0"
    ds["RescaleSlope"] = pydicom.DataElement("RescaleSlope", representation, value)
    with pytest.raises(ImageRefused, match="RescaleSlope is text, not a number"):
        read_image(dicom_bytes(ds))


@pytest.mark.parametrize("text", ["1_", "1.5", "1.", "0x1", "1e0", "\xb9"])
def test_an_integer_string_is_digits(make_dicom, dicom_bytes, text):
    data = dicom_bytes(make_dicom(RAMP8, NumberOfFrames="12345678"))
    with pytest.raises(ImageRefused, match="NumberOfFrames is not one integer"):
        read_image(data.replace(b"12345678", text.encode("latin-1").ljust(8)))


def test_a_spacing_with_an_underscore_is_as_if_not_said(make_dicom, dicom_bytes):
    data = dicom_bytes(make_dicom(RAMP8, PixelSpacing=["1234567.8", "1"], ImagerPixelSpacing=["0.2", "0.2"]))
    spacings = [read_dicom(data.replace(b"1234567.8", text)).spacing_mm for text in (b"1_0      ", b"0.5      ")]
    assert spacings[0] == pytest.approx(0.2)
    assert spacings[1] != spacings[0]


def test_full_length_pixels_labelled_422_are_named_as_such(make_dicom):
    rgb = np.zeros((64, 64, 3), np.uint8)
    with pytest.raises(ImageRefused, match="those of three full samples a pixel"):
        read_dicom(make_dicom(rgb, PhotometricInterpretation="YBR_FULL_422"))
