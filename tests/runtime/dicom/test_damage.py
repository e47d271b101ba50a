"""DICOM files that are damaged, truncated, hostile or without a transfer syntax: read or refused, and never loud."""

from __future__ import annotations

import io
import random
import subprocess
import sys

import jpeg_ls
import numpy as np
import pytest
from coded_frames import jpeg_2000, lossless_jpeg
from PIL import Image
from pydicom.encaps import encapsulate

from medfm_compress.runtime.dicom import gdcm_process
from medfm_compress.runtime.dicom.read_dicom import read_dicom
from medfm_compress.runtime.errors import ImageRefused
from medfm_compress.runtime.read_image import read_image

RAMP8 = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64).astype(np.uint8)
RAMP12 = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64)


def test_transfer_syntaxes_are_not_guessed(make_dicom, dicom_bytes):
    ds = make_dicom(RAMP8)
    whole = dicom_bytes(ds)
    expected = read_image(whole).values
    bare = whole[132 + 12 + int.from_bytes(whole[140:144], "little") :]
    np.testing.assert_array_equal(read_image(bare).values, expected)
    for uid, words in (
        ("1.2.840.10008.1.2.4.100", "no decoder for its transfer syntax"),
        ("1.2.3.4.5", r"no decoder for its transfer syntax \(an unknown one\)"),
    ):
        ds.file_meta.TransferSyntaxUID = uid
        with pytest.raises(ImageRefused, match=words):
            read_dicom(ds)
    del ds.file_meta
    with pytest.raises(ImageRefused, match="no transfer syntax"):
        read_dicom(ds)


def test_a_deflated_bomb_is_refused_before_it_is_inflated(make_dicom, dicom_bytes, monkeypatch):
    from pydicom.uid import DeflatedExplicitVRLittleEndian

    from medfm_compress.runtime.dicom import parse

    ds = make_dicom(np.zeros((2000, 2000), np.uint8))
    ds.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    data = dicom_bytes(ds)
    assert read_image(data).values.shape == (2000, 2000)
    monkeypatch.setattr(parse, "MAX_INFLATED_BYTES", 10**6)
    with pytest.raises(ImageRefused, match="inflates to more than"):
        read_image(data)


def encapsulated(make_dicom, frame, uid, **changes):
    from pydicom.encaps import encapsulate

    ds = make_dicom(RAMP8, **changes)
    ds.file_meta.TransferSyntaxUID = uid
    ds.PixelData = encapsulate([frame])
    ds["PixelData"].is_undefined_length = True
    return ds


def test_a_compressed_frame_must_be_whole_and_of_the_stated_size(make_dicom):
    buffer = io.BytesIO()
    Image.fromarray(RAMP8).save(buffer, "JPEG", quality=95)
    frame, baseline = buffer.getvalue(), "1.2.840.10008.1.2.4.50"
    pixels = read_dicom(encapsulated(make_dicom, frame, baseline))
    assert pixels.flags == ("no-window", "lossy-compressed") and pixels.values.shape == (64, 64)
    with pytest.raises(ImageRefused, match="truncated"):
        read_dicom(encapsulated(make_dicom, frame[: len(frame) // 2], baseline))
    with pytest.raises(ImageRefused, match="another size than Rows and Columns"):
        read_dicom(encapsulated(make_dicom, frame, baseline, Rows=63))


@pytest.mark.shared
def test_headers_that_end_gdcms_process_are_refused_before_it_sees_them(shared_data):
    """Each change of one byte in a lossless JPEG's header made the decoder abort or read wild memory."""
    whole = (shared_data / "dicom" / "pydicom-data" / "JPEG-LL.dcm").read_bytes()
    start = whole.rfind(b"\xff\xd8\xff\xc3")
    assert read_image(whole).values.shape == (1024, 256)
    for at, value in ((15, 12), (6, 85), (6, 153), (16, 1), (15, 145)):
        data = bytearray(whole)
        data[start + at] = value
        with pytest.raises(ImageRefused, match="damaged or has another size"):
            read_image(bytes(data))


def test_damaged_dicoms_are_read_or_refused_and_nothing_else(make_dicom, dicom_bytes, capfd):
    ds = make_dicom(RAMP12, BitsStored=12, WindowCenter=2000, WindowWidth=1000, PhotometricInterpretation="MONOCHROME1")
    whole, dice = dicom_bytes(ds), random.Random(11)
    header = len(whole) - RAMP12.nbytes
    for _ in range(200):
        data = bytearray(whole[: dice.randrange(1, len(whole))] if dice.random() < 0.2 else whole)
        for _ in range(dice.choice([1, 2, 12])):
            data[dice.randrange(min(header, len(data)))] = dice.randrange(256)
        try:
            assert read_image(bytes(data)).values.size > 0
        except ImageRefused as refused:
            assert "\n" not in str(refused) and "Secret" not in str(refused)
    out = capfd.readouterr()
    assert (out.out, out.err) == ("", "")


def test_no_word_of_a_decoder_reaches_a_log_that_may_be_kept(make_dicom, dicom_bytes, caplog):
    data = dicom_bytes(make_dicom(RAMP8))
    broken = data.replace(b"Secret^Patient", b"\xff\xfe^Patient\x00\x01\x02\x03")
    with caplog.at_level("DEBUG"):
        read_image(broken)
        with pytest.raises(ImageRefused):
            read_image(broken[:-500])
    assert not [record for record in caplog.records if record.name.startswith("pydicom")]


@pytest.mark.parametrize("colour", [False, True])
def test_a_jpeg_frame_whose_end_marker_comes_early_is_refused(make_dicom, colour):
    values = np.stack([RAMP8, RAMP8.T, RAMP8[::-1]], -1) if colour else RAMP8
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "JPEG", quality=95)
    frame, baseline = buffer.getvalue(), "1.2.840.10008.1.2.4.50"
    changes = {"SamplesPerPixel": 3, "PhotometricInterpretation": "YBR_FULL_422", "PlanarConfiguration": 0}
    start = frame.index(b"\xff\xda") + 14
    assert read_dicom(encapsulated(make_dicom, frame, baseline, **(changes if colour else {}))).values.size
    for share in (0.1, 0.5, 0.9):
        cut = start + round((len(frame) - start) * share)
        early = frame[: cut - (frame[cut - 1] == 0xFF)] + b"\xff\xd9"
        with pytest.raises(ImageRefused, match="truncated"):
            read_dicom(encapsulated(make_dicom, early, baseline, **(changes if colour else {})))


def test_a_grey_frame_that_ends_in_mid_grey_is_read(make_dicom):
    buffer = io.BytesIO()
    Image.fromarray(np.full((64, 64), 128, np.uint8)).save(buffer, "JPEG")
    pixels = read_dicom(encapsulated(make_dicom, buffer.getvalue(), "1.2.840.10008.1.2.4.50"))
    assert (pixels.values == 128 * 257).all()


def test_a_lossless_jpeg_frame_whose_end_marker_comes_early_is_refused(make_dicom, capfd):
    uid, noise = "1.2.840.10008.1.2.4.70", np.random.default_rng(0).integers(0, 256, (64, 64)).astype(np.uint8)
    for values in (RAMP8, noise, np.zeros_like(RAMP8)):
        frame = lossless_jpeg(values)
        pixels = read_dicom(encapsulated(make_dicom, frame, uid))
        np.testing.assert_array_equal(pixels.values, values.astype(np.uint16) * 257)
    assert capfd.readouterr().err == ""
    frame = lossless_jpeg(noise)
    start = frame.index(b"\xff\xda") + 10
    for cut in (start + 5, len(frame) // 2, len(frame) - 60, *range(len(frame) - 12, len(frame) - 2)):
        early = frame[: cut - (frame[cut - 1] == 0xFF)] + b"\xff\xd9"
        with pytest.raises(ImageRefused, match="truncated"):
            read_dicom(encapsulated(make_dicom, early, uid))


def test_fill_bytes_before_the_end_marker_of_a_lossless_jpeg_are_no_damage(make_dicom):
    """As encoders write them to make the frame even (T.81, B.1.1.2); they belong to the marker, not to the samples."""
    noise = np.random.default_rng(0).integers(0, 256, (64, 64)).astype(np.uint8)
    for fill in (1, 2, 3):
        frame = lossless_jpeg(noise)[:-2] + b"\xff" * fill + b"\xff\xd9"
        pixels = read_dicom(encapsulated(make_dicom, frame, "1.2.840.10008.1.2.4.70"))
        np.testing.assert_array_equal(pixels.values, noise.astype(np.uint16) * 257)
        early = frame[: len(frame) // 2].rstrip(b"\xff") + b"\xff" * fill + b"\xff\xd9"
        with pytest.raises(ImageRefused, match="truncated"):
            read_dicom(encapsulated(make_dicom, early, "1.2.840.10008.1.2.4.70"))


def in_16_bits(make_dicom, frame, uid, **changes):
    """A frame of 64×64 in a data set that says 16 bits allocated and 12 stored, unless ``changes`` says otherwise."""
    ds = make_dicom(RAMP12, **({"BitsStored": 12} | changes))
    ds.file_meta.TransferSyntaxUID = uid
    ds.PixelData = encapsulate([frame])
    ds["PixelData"].is_undefined_length = True
    return ds


J2K_LOSSLESS, JPEG_LS = "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.80"


@pytest.mark.parametrize(("encode", "uid"), [(jpeg_2000, J2K_LOSSLESS), (jpeg_ls.encode_array, JPEG_LS)])
def test_a_frame_of_fewer_bits_than_the_file_says_is_flagged(make_dicom, encode, uid):
    flagged = read_dicom(in_16_bits(make_dicom, encode(RAMP8), uid))
    assert "precision-below-bits-stored" in flagged.flags and flagged.values.max() < 65535 / 8
    whole = make_dicom(RAMP8)
    whole.file_meta.TransferSyntaxUID = uid
    whole.PixelData = encapsulate([encode(RAMP8)])
    whole["PixelData"].is_undefined_length = True
    assert "precision-below-bits-stored" not in read_dicom(whole).flags


@pytest.mark.shared
def test_a_real_file_that_says_16_bits_and_holds_13_is_flagged(shared_data):
    path = next((shared_data / "dicom").rglob("*OsirixFake16BitsStoredFakeSpacing.dcm"))
    assert read_image(path).flags == ("precision-below-bits-stored",)


def a_lossless_jpeg(make_dicom, damage=None):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64)).astype(np.uint8)
    frame = bytearray(lossless_jpeg(noise))
    if damage is not None:
        frame[damage : damage + 8] = b"\xfe" * 8  # no category has this code
    return encapsulated(make_dicom, bytes(frame), "1.2.840.10008.1.2.4.70")


def test_what_gdcm_only_says_on_standard_error_refuses_the_image(make_dicom, capfd):
    """Damaged entropy-coded data: its libjpeg invents the rest and says so on standard error, and GDCM is content."""
    for damage in range(200, 3000, 200):
        with pytest.raises(ImageRefused):
            read_dicom(a_lossless_jpeg(make_dicom, damage))
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("ending", ["os._exit(9)", "os.abort()", "os.close(1); time.sleep(60)", "time.sleep(60)"])
def test_the_end_of_gdcms_process_is_a_refusal_and_the_next_image_is_read(make_dicom, monkeypatch, capfd, ending):
    expected = read_dicom(a_lossless_jpeg(make_dicom)).values
    gdcm_process._PROCESS.end()
    program = [sys.executable, "-c", f"import os, sys, time; sys.stdin.buffer.readline(); {ending}"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with monkeypatch.context() as patched:
        patched.setattr(gdcm_process, "_SECONDS", 2.0)
        patched.setattr(gdcm_process, "_start", lambda: subprocess.Popen(program, **pipes))
        with pytest.raises(ImageRefused, match="no installed decoder"):
            read_dicom(a_lossless_jpeg(make_dicom))
    np.testing.assert_array_equal(read_dicom(a_lossless_jpeg(make_dicom)).values, expected)
    assert capfd.readouterr().err == ""


def test_gdcms_process_imports_nothing_from_where_the_user_stands(make_dicom, tmp_path, monkeypatch):
    expected = read_dicom(a_lossless_jpeg(make_dicom)).values
    gdcm_process._PROCESS.end()
    (tmp_path / "random.py").write_text("raise SystemExit(1)\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend("")
    np.testing.assert_array_equal(read_dicom(a_lossless_jpeg(make_dicom)).values, expected)
