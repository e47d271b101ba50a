"""Compressed colour is converted once, by what the stream says; JP2 boxes never hang; broken decoders are named."""

from __future__ import annotations

import io
import struct
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from medfm_compress.runtime.dicom.jpeg_2000 import unwrap
from medfm_compress.runtime.dicom.read_dicom import read_dicom
from medfm_compress.runtime.errors import ImageRefused, MissingDependency

J2K_LOSSLESS, J2K, BASELINE, LOSSLESS = (f"1.2.840.10008.1.2.4.{last}" for last in (90, 91, 50, 70))
Y, X = np.mgrid[0:64, 0:48]
RGB = np.stack([Y * 4, X * 5, 255 - Y * 3], -1).clip(0, 255).astype(np.uint8)
WRONG_LABEL = "colour-label-contradicted"


def encapsulated(make_dicom, values, frame, uid, **changes):
    from pydicom.encaps import encapsulate

    ds = make_dicom(values, **changes)
    ds.file_meta.TransferSyntaxUID = uid
    ds.PixelData = encapsulate([frame])
    ds["PixelData"].is_undefined_length = True
    return ds


def ybr(rgb):
    from pydicom.pixels import convert_color_space

    return convert_color_space(rgb, "RGB", "YBR_FULL")


def j2k(values, *, transform, **options):
    from openjpeg.utils import encode_array

    photometric = (2 if values.ndim == 2 else 1) if transform or values.ndim == 2 else 3
    return encode_array(values, photometric_interpretation=photometric, use_mct=transform, **options)


def box(kind, body, length=None):
    return struct.pack(">I", 8 + len(body) if length is None else length) + kind + body


def jp2(stream, *, colour=None, extra=b"", stream_length=None):
    header = b"" if colour is None else box(b"colr", bytes([1, 0, 0]) + struct.pack(">I", colour))
    return (
        box(b"jP  ", b"\r\n\x87\n")
        + box(b"ftyp", b"jp2 \0\0\0\0jp2 ")
        + box(b"jp2h", header + extra)
        + box(b"jp2c", stream, stream_length)
    )


def difference(ds, expected):
    pixels = read_dicom(ds)
    return np.abs(pixels.values.astype(int) - expected.astype(int)).max(), pixels.flags


@pytest.mark.parametrize("label", ["YBR_RCT", "RGB", "YBR_FULL", "YBR_FULL_422"])
def test_a_transformed_code_stream_is_rgb_whatever_the_label_says(make_dicom, label):
    ds = encapsulated(make_dicom, RGB, j2k(RGB, transform=True), J2K_LOSSLESS, PhotometricInterpretation=label)
    expected = (WRONG_LABEL,) if label.startswith("YBR_FULL") else ()
    assert difference(ds, RGB) == (0, expected)


def test_an_untransformed_code_stream_is_what_its_label_says(make_dicom):
    plain = encapsulated(make_dicom, RGB, j2k(RGB, transform=False), J2K_LOSSLESS)
    assert difference(plain, RGB) == (0, ())
    coded = j2k(ybr(RGB), transform=False)
    far, flags = difference(
        encapsulated(make_dicom, RGB, coded, J2K_LOSSLESS, PhotometricInterpretation="YBR_FULL"), RGB
    )
    assert far <= 2 and flags == ()
    with pytest.raises(ImageRefused, match="labelled YBR_RCT, which its code stream contradicts"):
        read_dicom(encapsulated(make_dicom, RGB, coded, J2K_LOSSLESS, PhotometricInterpretation="YBR_RCT"))


def test_an_irreversible_wavelet_is_flagged_though_the_file_says_lossless(make_dicom):
    frame = j2k(RGB, transform=True, compression_ratios=[3])
    far, flags = difference(encapsulated(make_dicom, RGB, frame, J2K_LOSSLESS, LossyImageCompression="00"), RGB)
    assert far <= 20 and flags == ("lossy-compressed",)


def test_jp2_boxes_give_their_code_stream_and_its_colour(make_dicom):
    transformed, plain = j2k(RGB, transform=True), j2k(RGB, transform=False)
    for frame in (
        jp2(transformed),
        jp2(transformed, colour=16),
        jp2(transformed, stream_length=0),
        jp2(transformed)[: -len(transformed) - 8]
        + struct.pack(">I4sQ", 1, b"jp2c", 16 + len(transformed))
        + transformed,
    ):
        assert difference(encapsulated(make_dicom, RGB, frame, J2K_LOSSLESS), RGB) == (0, ())
    coded = jp2(j2k(ybr(RGB), transform=False), colour=18)
    far, flags = difference(encapsulated(make_dicom, RGB, coded, J2K_LOSSLESS), RGB)
    assert far <= 2 and flags == (WRONG_LABEL,)
    swapped = box(b"cdef", struct.pack(">10H", 3, 0, 0, 3, 1, 0, 2, 2, 0, 1))
    for frame, words in (
        (jp2(transformed, colour=18), "transform from RGB"),
        (jp2(plain, colour=14), "other than RGB and YCbCr"),
        (jp2(plain, colour=16, extra=swapped), "reorders the channels"),
    ):
        with pytest.raises(ImageRefused, match=words):
            read_dicom(encapsulated(make_dicom, RGB, frame, J2K_LOSSLESS))


GREY = np.ascontiguousarray(RGB[..., 0])


@pytest.mark.parametrize("length", [0, 1, 2, 7, 10**6, 2**32 - 1])
@pytest.mark.parametrize("inside", [False, True])
def test_a_damaged_box_length_is_refused_and_never_hangs(make_dicom, length, inside):
    stream = j2k(GREY, transform=False)
    broken = box(b"free", b"\0" * 3, length)
    frame = jp2(stream, extra=broken) if inside else jp2(b"")[:32] + broken + box(b"jp2c", stream)
    if inside and length == 0:  # the last box of the header reaches to its end, as it may
        assert read_dicom(encapsulated(make_dicom, GREY, frame, J2K_LOSSLESS)).values.shape == GREY.shape
        return
    with pytest.raises(ImageRefused, match="JP2 boxes around the compressed frame are damaged"):
        read_dicom(encapsulated(make_dicom, GREY, frame, J2K_LOSSLESS))


def test_the_walk_over_boxes_ends():
    stream = j2k(GREY, transform=False)
    nested = b""
    for _ in range(1000):
        nested = box(b"jp2h", nested)
    assert unwrap(jp2(stream, extra=nested)).code_stream == stream
    assert unwrap(jp2(stream)[:32] + box(b"free", b"") * 300 + box(b"jp2c", stream)) is None
    assert unwrap(jp2(stream) + bytes(9)) is not None
    assert unwrap(jp2(stream)[:-10]) is None


def jpeg(rgb, *, coded, subsampling=0, marks="", ids=None):
    """A baseline JPEG whose components are coded in ``coded``, with the marks asked for and no others."""
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, "JPEG", quality=98, subsampling=subsampling, keep_rgb=coded == "RGB")
    data, kept, at = buffer.getvalue(), [], 2
    ids = ids or b"\1\2\3"
    while data[at + 1] != 0xDA:
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        segment = bytearray(data[at:end])
        if segment[1] == 0xC0:
            segment[10::3] = ids
        if segment[1] not in (0xE0, 0xEE):
            kept.append(bytes(segment))
        at = end
    scan = bytearray(data[at:])
    scan[5:11:2] = ids
    jfif = b"\xff\xe0\0\x10JFIF\0\1\1\0\0\1\0\1\0\0"
    adobe = b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0"
    added = {"": b"", "JFIF": jfif, "Adobe 0": adobe + b"\0", "Adobe 1": adobe + b"\1", "Adobe 2": adobe + b"\2"}
    return b"\xff\xd8" + added[marks] + b"".join(kept) + bytes(scan)


SMOOTH = np.stack([Y * 3, 200 - Y * 2, 60 + X * 2], -1).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("label", ["RGB", "YBR_FULL", "YBR_FULL_422"])
@pytest.mark.parametrize("marks", ["", "JFIF", "Adobe 1"])
@pytest.mark.parametrize("subsampling", [0, 1, 2])
def test_a_jpeg_coded_in_ycbcr_is_converted_once(make_dicom, label, marks, subsampling):
    if not marks and not subsampling and label == "RGB":
        return  # nothing in the stream speaks against the label
    frame = jpeg(SMOOTH, coded="YBR", marks=marks, subsampling=subsampling)
    far, flags = difference(encapsulated(make_dicom, SMOOTH, frame, BASELINE, PhotometricInterpretation=label), SMOOTH)
    assert far <= 12
    assert flags == (("lossy-compressed", WRONG_LABEL) if label == "RGB" else ("lossy-compressed",))


@pytest.mark.parametrize("label", ["RGB", "YBR_FULL", "YBR_FULL_422"])
@pytest.mark.parametrize(("marks", "ids"), [("", b"RGB"), ("", b"rgb"), ("Adobe 0", b"\1\2\3"), ("Adobe 0", b"RGB")])
def test_a_jpeg_coded_in_rgb_is_not_converted(make_dicom, label, marks, ids):
    frame = jpeg(SMOOTH, coded="RGB", marks=marks, ids=ids)
    far, flags = difference(encapsulated(make_dicom, SMOOTH, frame, BASELINE, PhotometricInterpretation=label), SMOOTH)
    assert far <= 12
    assert flags == (("lossy-compressed",) if label == "RGB" else ("lossy-compressed", WRONG_LABEL))


@pytest.mark.parametrize(
    ("marks", "ids", "subsampling", "label", "words"),
    [
        ("JFIF", b"RGB", 0, "RGB", "contradicts itself"),
        ("Adobe 0", b"\1\2\3", 2, "RGB", "contradicts itself"),
        ("Adobe 2", b"\1\2\3", 0, "RGB", "contradicts itself"),
        ("", b"RGB", 2, "RGB", "contradicts itself"),
        ("", b"\1\2\3", 0, "YBR_RCT", "only JPEG 2000"),
    ],
)
def test_a_jpeg_that_leaves_no_one_reading_is_refused(make_dicom, marks, ids, subsampling, label, words):
    frame = jpeg(SMOOTH, coded="YBR", marks=marks, ids=ids, subsampling=subsampling)
    with pytest.raises(ImageRefused, match=words):
        read_dicom(encapsulated(make_dicom, SMOOTH, frame, BASELINE, PhotometricInterpretation=label))


def test_a_decoder_that_raises_gives_way_to_the_next(make_dicom, monkeypatch):
    from pydicom.pixels.decoders import JPEG2000LosslessDecoder

    def fails(*_):
        raise ValueError("not today")

    monkeypatch.setitem(JPEG2000LosslessDecoder._available, "pylibjpeg", fails)
    frame = j2k(RGB, transform=True)
    assert difference(encapsulated(make_dicom, RGB, frame, J2K_LOSSLESS), RGB) == (0, ("second-decoder",))
    monkeypatch.setitem(JPEG2000LosslessDecoder._available, "pillow", fails)
    with pytest.raises(ImageRefused, match=r"no installed decoder .pylibjpeg, pillow. reads these JPEG 2000"):
        read_dicom(encapsulated(make_dicom, RGB, frame, J2K_LOSSLESS))


def test_gdcm_reads_what_no_other_installed_decoder_can(make_dicom, monkeypatch):
    from pydicom.pixels.decoders import JPEG2000LosslessDecoder

    frame = j2k(RGB, transform=True)
    monkeypatch.delitem(JPEG2000LosslessDecoder._available, "pylibjpeg")
    monkeypatch.delitem(JPEG2000LosslessDecoder._available, "pillow")
    assert JPEG2000LosslessDecoder.available_plugins == ("gdcm",)
    ds = encapsulated(make_dicom, RGB, frame, J2K_LOSSLESS, PhotometricInterpretation="YBR_RCT")
    assert difference(ds, RGB) == (0, ())


def test_a_decoder_that_cannot_be_imported_is_no_fault_of_the_image(make_dicom, dicom_bytes, tmp_path):
    """A fresh interpreter finds an extension module `gdcm` that was built for another Python."""
    (tmp_path / "gdcm.py").write_text("raise AttributeError(\"module 'dl' has no attribute 'RTLD_LAZY'\")\n")
    (tmp_path / "a.dcm").write_bytes(dicom_bytes(make_dicom(GREY)))
    program = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from medfm_compress.runtime.read_image import read_image\n"
        "from medfm_compress.runtime.errors import MissingDependency\n"
        "for _ in range(2):\n"
        "    try: read_image(sys.argv[1] + '/a.dcm')\n"
        "    except MissingDependency as exc: print(exc)\n"
    )
    run = subprocess.run([sys.executable, "-c", program, tmp_path], capture_output=True, text=True, check=True)
    lines = run.stdout.splitlines()
    assert len(lines) == 2
    assert all("cannot be imported (AttributeError: module 'dl'" in line and "no fault of" in line for line in lines)


def test_a_broken_pillow_is_no_fault_of_a_png(monkeypatch):
    from medfm_compress.runtime.images import read_raster

    def broken(_):
        raise AttributeError("module 'PIL' has no attribute '_imaging'")

    monkeypatch.setattr(read_raster.importlib, "import_module", broken)
    buffer = io.BytesIO()
    Image.fromarray(GREY).save(buffer, "PNG")
    with pytest.raises(MissingDependency, match="PNG decoder cannot be imported"):
        read_raster.decode_raster(buffer.getvalue(), "a.png")


def test_jpeg_2000_with_subsampled_components_is_refused(make_dicom):
    frame = bytearray(j2k(RGB, transform=False))
    at = frame.index(b"\xff\x51") + 2 + 38  # the first component's Ssiz, XRsiz, YRsiz
    frame[at + 4] = 2
    with pytest.raises(ImageRefused, match="subsampled components"):
        read_dicom(encapsulated(make_dicom, RGB, bytes(frame), J2K_LOSSLESS, PhotometricInterpretation="YBR_FULL"))


def test_a_jpeg_ls_frame_that_contradicts_its_label_is_refused(make_dicom):
    import jpeg_ls

    frame = bytes(jpeg_ls.encode_array(RGB, interleave_mode=2))
    jpeg_ls_lossless = "1.2.840.10008.1.2.4.80"
    assert difference(encapsulated(make_dicom, RGB, frame, jpeg_ls_lossless), RGB) == (0, ())
    for ids, label in ((b"RGB", "YBR_FULL"), (b"rgb", "YBR_FULL")):
        named = bytearray(frame)
        at = frame.index(b"\xff\xf7") + 10
        named[at : at + 9 : 3] = ids
        scan = frame.index(b"\xff\xda") + 5
        named[scan : scan + 6 : 2] = ids
        ds = encapsulated(make_dicom, RGB, bytes(named), jpeg_ls_lossless, PhotometricInterpretation=label)
        with pytest.raises(ImageRefused, match="labelled YBR_FULL, which its JPEG header contradicts"):
            read_dicom(ds)


def test_a_tile_that_overrides_the_colour_transform_is_refused(make_dicom):
    frame = j2k(RGB, transform=False)
    at, end = frame.index(b"\xff\x90"), frame.index(b"\xff\x93")
    start = frame.index(b"\xff\x52")
    style = bytearray(frame[start : start + 2 + int.from_bytes(frame[start + 2 : start + 4], "big")])
    for transform, is_read in ((0, True), (1, False)):
        style[8] = transform
        length = int.from_bytes(frame[at + 6 : at + 10], "big") + len(style)
        longer = frame[: at + 6] + struct.pack(">I", length) + frame[at + 10 : end] + bytes(style) + frame[end:]
        ds = encapsulated(make_dicom, RGB, longer, J2K_LOSSLESS)
        if is_read:
            assert difference(ds, RGB) == (0, ())
        else:
            with pytest.raises(ImageRefused, match="compressed frame is damaged"):
                read_dicom(ds)


@pytest.mark.parametrize("coded", ["signed", "unsigned"])
def test_a_code_stream_of_the_other_sign_than_the_file_says_is_refused(make_dicom, coded):
    unsigned = (Y * 60).astype(np.uint16)
    signed = unsigned.astype(np.int16) - 2000
    values = signed if coded == "signed" else unsigned
    frame = j2k(values, transform=False, bits_stored=12)
    agreed = encapsulated(make_dicom, values, frame, J2K_LOSSLESS, BitsStored=12)
    np.testing.assert_array_equal(read_dicom(agreed).values, read_dicom(make_dicom(values, BitsStored=12)).values)
    other = encapsulated(make_dicom, unsigned if coded == "signed" else signed, frame, J2K_LOSSLESS, BitsStored=12)
    said = r"1 \(signed\)" if coded == "unsigned" else r"0 \(unsigned\)"
    with pytest.raises(ImageRefused, match=f"Pixel Representation is {said}, and its .* holds {coded} values"):
        read_dicom(other)


def test_a_signed_component_of_a_colour_code_stream_is_refused(make_dicom):
    frame = bytearray(j2k(RGB, transform=False))
    frame[4 + 38 + 3] |= 0x80  # Ssiz of the second component
    with pytest.raises(ImageRefused, match="code stream holds signed values"):
        read_dicom(encapsulated(make_dicom, RGB, bytes(frame), J2K_LOSSLESS))


@pytest.mark.parametrize("marker", [b"\xff\x51", b"\xff\x52"])
def test_two_segments_of_which_a_main_header_has_one_are_refused(make_dicom, marker):
    frame = j2k(RGB, transform=True)
    start = frame.index(marker)
    end = start + 2 + int.from_bytes(frame[start + 2 : start + 4], "big")
    ds = encapsulated(make_dicom, RGB, frame[:end] + frame[start:end] + frame[end:], J2K_LOSSLESS)
    with pytest.raises(ImageRefused, match="compressed frame is damaged"):
        read_dicom(ds)
