"""One frame of several, by rule: native and encapsulated, with and without functional groups."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from medfm_compress.runtime.dicom.read_dicom import read_dicom
from medfm_compress.runtime.errors import ImageRefused, InputError
from medfm_compress.runtime.image_spec import DicomRules

FIRST, MIDDLE = DicomRules(frame="first"), DicomRules(frame="middle")
RLE, JPEG, J2K = "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.90"


def numbered(number):
    return DicomRules(frame="numbered", frame_number=number)


def stack(count=5, dtype=np.uint8, shape=(33, 41)):
    high = np.iinfo(dtype).max
    return np.random.default_rng(3).integers(0, high, (count, *shape), endpoint=True).astype(dtype)


def several(make_dicom, frames, **attributes):
    """A multi-frame object of native frames."""
    ds = make_dicom(frames[0], NumberOfFrames=len(frames), **attributes)
    ds.PixelData = frames.tobytes() + b"\0" * (frames.nbytes % 2)
    return ds


def encapsulated(make_dicom, frame, coded, syntax, *, has_bot, **attributes):
    from pydicom.encaps import encapsulate

    ds = make_dicom(frame, NumberOfFrames=len(coded), **attributes)
    ds.file_meta.TransferSyntaxUID = syntax
    ds.PixelData = encapsulate(coded, has_bot=has_bot)
    ds["PixelData"].is_undefined_length = True
    ds["PixelData"].VR = "OB"
    return ds


def jpeg(values, kind="JPEG"):
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, kind, **({"quality": 95} if kind == "JPEG" else {"no_jp2": True}))
    return buffer.getvalue()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_rule_picks_the_frame_and_without_one_several_are_refused(make_dicom, dicom_bytes, dtype):
    frames = stack(4, dtype)
    ds = several(make_dicom, frames)
    for rules, place in ((FIRST, 0), (MIDDLE, 1), (numbered(4), 3)):
        expected = read_dicom(make_dicom(frames[place])).values
        np.testing.assert_array_equal(read_dicom(ds, rules).values, expected)
        np.testing.assert_array_equal(read_dicom(dicom_bytes(ds), rules).values, expected)
    assert ds.NumberOfFrames == 4 and len(ds.PixelData) == frames.nbytes  # as it was
    with pytest.raises(ImageRefused, match="4 frames, a multi-frame object"):
        read_dicom(ds)
    with pytest.raises(ImageRefused, match="has 4 frames, and this network was made for frame 5"):
        read_dicom(ds, numbered(5))
    single = make_dicom(frames[0])
    for rules in (FIRST, MIDDLE, numbered(1)):
        np.testing.assert_array_equal(read_dicom(single, rules).values, read_dicom(single).values)


def test_frames_of_one_bit_follow_each_other_within_a_byte(make_dicom):
    frames = stack(3, shape=(5, 7)) & 1
    ds = several(make_dicom, frames, BitsAllocated=1, BitsStored=1)
    packed = np.packbits(frames.ravel(), bitorder="little").tobytes()
    ds.PixelData = packed + b"\0" * (len(packed) % 2)
    for number in (1, 2, 3):
        np.testing.assert_array_equal(read_dicom(ds, numbered(number)).values, frames[number - 1] * np.uint16(65535))


def test_frames_of_subsampled_colour_have_two_samples_a_pixel(make_dicom):
    rng = np.random.default_rng(0)
    pairs = rng.integers(16, 240, (3, 8, 5, 4), dtype=np.uint8)  # Y1 Y2 Cb Cr
    ds = make_dicom(
        np.zeros((8, 10, 3), np.uint8), NumberOfFrames=3, PhotometricInterpretation="YBR_FULL_422",
        PixelData=pairs.tobytes(),
    )  # fmt: skip
    one = make_dicom(
        np.zeros((8, 10, 3), np.uint8), PhotometricInterpretation="YBR_FULL_422", PixelData=pairs[1].tobytes()
    )
    np.testing.assert_array_equal(read_dicom(ds, numbered(2)).values, read_dicom(one).values)


def test_big_endian_frames_are_cut_where_words_end(make_dicom):
    from pydicom.uid import ExplicitVRBigEndian

    frames = stack(3, np.uint16)
    ds = several(make_dicom, frames)
    ds.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    ds.PixelData = frames.astype(">u2").tobytes()
    np.testing.assert_array_equal(read_dicom(ds, numbered(2)).values, frames[1])
    odd = several(make_dicom, stack(3))
    odd.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    with pytest.raises(ImageRefused, match="odd number of bytes"):
        read_dicom(odd, numbered(2))


def test_encapsulated_frames_are_found_by_an_extended_offset_table(make_dicom):
    from pydicom.encaps import encapsulate_extended

    frames = stack(3, shape=(40, 48))
    coded = [jpeg(frame, "JPEG2000") for frame in frames]
    ds = encapsulated(make_dicom, frames[0], coded, J2K, has_bot=False)
    ds.PixelData, ds.ExtendedOffsetTable, ds.ExtendedOffsetTableLengths = encapsulate_extended(coded)
    for number in (1, 2, 3):
        np.testing.assert_array_equal(
            read_dicom(ds, numbered(number)).values, frames[number - 1].astype(np.uint16) * 257
        )
    ds.ExtendedOffsetTable = ds.ExtendedOffsetTable[:16]
    with pytest.raises(ImageRefused, match="name 2 frames, its Number of Frames is 3"):
        read_dicom(ds, FIRST)


@pytest.mark.parametrize("has_bot", [True, False])
def test_encapsulated_frames_are_found_with_and_without_an_offset_table(make_dicom, has_bot):
    frames = stack(3, shape=(40, 48))
    for syntax, kind in ((J2K, "JPEG2000"), (JPEG, "JPEG")):
        coded = [jpeg(frame, kind) for frame in frames]
        ds = encapsulated(make_dicom, frames[0], coded, syntax, has_bot=has_bot)
        for number in (1, 3):
            single = encapsulated(make_dicom, frames[0], coded[number - 1 : number], syntax, has_bot=True)
            del single.NumberOfFrames
            alone = read_dicom(single).values
            np.testing.assert_array_equal(read_dicom(ds, numbered(number)).values, alone)
            if syntax == J2K:
                np.testing.assert_array_equal(alone, frames[number - 1].astype(np.uint16) * 257)


def test_a_frame_that_changes_its_code_in_the_middle_is_refused_and_the_others_are_read(make_dicom):
    frames = stack(3, shape=(40, 48))
    coded = [jpeg(frames[0]), jpeg(frames[1], "JPEG2000"), jpeg(frames[2])]
    ds = encapsulated(make_dicom, frames[0], coded, JPEG, has_bot=True)
    assert read_dicom(ds, FIRST).values.shape == (40, 48)
    with pytest.raises(ImageRefused, match="coded otherwise than its transfer syntax says"):
        read_dicom(ds, numbered(2))


@pytest.mark.parametrize(("frame_syntax", "label"), [("JPEG", J2K), ("JPEG2000", JPEG), ("JPEG", RLE)])
def test_a_single_frame_in_another_code_than_its_transfer_syntax_is_refused(make_dicom, frame_syntax, label):
    frame = stack(1, shape=(40, 48))[0]
    with pytest.raises(ImageRefused, match=r"coded otherwise|RLE segments"):
        read_dicom(encapsulated(make_dicom, frame, [jpeg(frame, frame_syntax)], label, has_bot=True))


@pytest.mark.parametrize("encoding", ["1.2.840.10008.1.2", "1.2.840.10008.1.2.2"])
@pytest.mark.parametrize("tag", [b"\x28\x00\x10\x00", b"\x28\x00\x50\x10", b"\xe0\x7f\x10\x00"])
def test_a_data_set_that_changes_its_encoding_in_the_middle_gives_no_other_image(
    make_dicom, dicom_bytes, encoding, tag
):
    """From Rows, from the window or from the pixels on it is implicit, or big-endian."""
    ds = make_dicom(stack(1, np.uint16, (20, 20))[0], WindowCenter="30000", WindowWidth="60000")
    explicit = dicom_bytes(ds)
    expected = read_dicom(explicit)
    ds.file_meta.TransferSyntaxUID = encoding
    if encoding.endswith(".2.2"):
        ds.PixelData = ds.PixelData[::-1]  # other pixels, so that a misreading shows
    other = dicom_bytes(ds)
    there = tag if encoding == "1.2.840.10008.1.2" else tag[1::-1] + tag[:1:-1]
    try:
        pixels = read_dicom(explicit[: explicit.index(tag)] + other[other.rindex(there) :])
    except ImageRefused:
        return
    np.testing.assert_array_equal(pixels.values, expected.values)
    assert pixels.flags == expected.flags


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"NumberOfFrames": 4}, "truncated"),
        ({"NumberOfFrames": 2}, "more than 2 frames"),
        ({"NumberOfFrames": 0}, "Number of Frames is 0"),
        ({"NumberOfFrames": -3}, "Number of Frames is -3"),
    ],
)
def test_pixels_of_another_number_of_frames_are_refused(make_dicom, change, words):
    ds = several(make_dicom, stack(3, np.uint16))
    for keyword, value in change.items():
        setattr(ds, keyword, value)
    with pytest.raises(ImageRefused, match=words):
        read_dicom(ds, FIRST)


def test_encapsulated_pixels_of_another_number_of_frames_are_refused(make_dicom):
    frames = stack(3, shape=(40, 48))
    for has_bot in (True, False):
        ds = encapsulated(make_dicom, frames[0], [jpeg(frame) for frame in frames], JPEG, has_bot=has_bot)
        ds.NumberOfFrames = 2
        with pytest.raises(ImageRefused, match="name 3 frames, its Number of Frames is 2"):
            read_dicom(ds, FIRST)


def item(**attributes):
    import pydicom

    ds = pydicom.Dataset()
    for keyword, value in attributes.items():
        setattr(ds, keyword, value)
    return ds


def enhanced(make_dicom, frames, per_frame, shared=None):
    ds = several(make_dicom, frames, BitsStored=12)
    ds.SharedFunctionalGroupsSequence = [shared or item()]
    ds.PerFrameFunctionalGroupsSequence = per_frame
    return ds


def test_rescale_and_window_of_an_enhanced_object_are_those_of_its_frame(make_dicom, dicom_bytes):
    frames = stack(3, np.uint16) % 4096
    windows = [(500, 200, 2.0, -10), (900, 700, 0.5, 3), (2000, 1000, 1.0, 0)]
    groups = [
        item(
            FrameVOILUTSequence=[item(WindowCenter=centre, WindowWidth=width, VOILUTFunction="LINEAR_EXACT")],
            PixelValueTransformationSequence=[item(RescaleSlope=slope, RescaleIntercept=intercept, RescaleType="US")],
        )
        for centre, width, slope, intercept in windows
    ]
    shared = item(PixelMeasuresSequence=[item(PixelSpacing=[0.5, 0.5])])
    ds = enhanced(make_dicom, frames, groups, shared)
    ds.WindowCenter, ds.WindowWidth = 1, 1  # of the object, where no standard puts one
    for number, (centre, width, slope, intercept) in enumerate(windows, 1):
        modality = slope * frames[number - 1].astype(float) + intercept
        expected = np.rint(np.clip((modality - centre) / width + 0.5, 0, 1) * 65535)
        for source in (ds, dicom_bytes(ds)):
            pixels = read_dicom(source, numbered(number))
            np.testing.assert_array_equal(pixels.values, expected)
            assert pixels.spacing_mm == 0.5
    with pytest.raises(ImageRefused, match="multi-frame"):
        read_dicom(ds)


def test_groups_that_are_shared_hold_for_every_frame_and_twice_is_refused(make_dicom):
    frames = stack(2, np.uint16) % 4096
    shared = item(FrameVOILUTSequence=[item(WindowCenter=1000, WindowWidth=500)])
    ds = enhanced(make_dicom, frames, [item(), item()], shared)
    plain = make_dicom(frames[1], BitsStored=12, WindowCenter=1000, WindowWidth=500)
    np.testing.assert_array_equal(read_dicom(ds, numbered(2)).values, read_dicom(plain).values)
    own = item(FrameVOILUTSequence=[item(WindowCenter=10, WindowWidth=50)])
    with pytest.raises(ImageRefused, match="FrameVOILUTSequence is there more than once"):
        read_dicom(enhanced(make_dicom, frames, [own, own], shared), FIRST)
    with pytest.raises(ImageRefused, match="1 functional groups for 2 frames"):
        read_dicom(enhanced(make_dicom, frames, [own]), FIRST)


def test_rules_of_frames_are_checked():
    for wrong in ({"frame": "numbered"}, {"frame_number": 2}, {"frame": "numbered", "frame_number": 0}):
        with pytest.raises(InputError, match="frame"):
            DicomRules(**wrong)


@pytest.mark.parametrize("has_bot", [True, False])
def test_all_frames_are_those_that_each_number_names(make_dicom, has_bot):
    from medfm_compress.runtime.read_image import read_frames

    everything = DicomRules(frame="all", frame_aggregation="each")
    frames = stack(4)
    coded = encapsulated(make_dicom, frames[0], [jpeg(frame) for frame in frames], JPEG, has_bot=has_bot)
    for ds in (coded, several(make_dicom, frames)):
        shown = list(read_frames(ds, everything))
        assert len(shown) == 4
        for number, pixels in enumerate(shown, 1):
            np.testing.assert_array_equal(pixels.values, read_dicom(ds, numbered(number)).values)
    coded.NumberOfFrames = 5
    with pytest.raises(ImageRefused, match="name 4 frames, its Number of Frames is 5"):
        next(read_frames(coded, everything))
    coded.NumberOfFrames = 10_001
    with pytest.raises(ImageRefused, match="at most 10000 are answered for"):
        next(read_frames(coded, everything))
