"""Which of several windows and tables shows the image; lookup tables of every depth; presentation LUTs."""

from __future__ import annotations

import numpy as np
import pytest

from medfm_compress.runtime.dicom.read_dicom import read_dicom
from medfm_compress.runtime.errors import ImageRefused, InputError
from medfm_compress.runtime.image_spec import DicomRules

RAMP = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64)


def shown(centre, width):
    return np.rint(np.clip((RAMP - (centre - 0.5)) / (width - 1) + 0.5, 0, 1) * 65535)


def table(entries, bits, first=0, explanation=""):
    import pydicom

    item = pydicom.Dataset()
    item.add_new("LUTDescriptor", "US", [len(entries) % 2**16, first, bits])
    item.LUTExplanation = explanation
    item.add_new("LUTData", "OW", np.asarray(entries, "<u2").tobytes())
    return item


def test_several_windows_are_chosen_by_number_or_by_explanation(make_dicom):
    ds = make_dicom(
        RAMP, BitsStored=12, WindowCenter=[1000, 2000, 3000], WindowWidth=[500, 600, 700],
        WindowCenterWidthExplanation=["LUNG", "BONE", "LUNG"],
    )  # fmt: skip
    for rules, expected in (
        (DicomRules(), (1000, 500)),
        (DicomRules(window_number=3), (3000, 700)),
        (DicomRules(window_explanation=" bone"), (2000, 600)),
    ):
        np.testing.assert_array_equal(read_dicom(ds, rules).values, shown(*expected))
    with pytest.raises(ImageRefused, match="has 3 windows, and this network was made for number 4"):
        read_dicom(ds, DicomRules(window_number=4))
    for text, found in (("LUNG", 2), ("HEART", 0)):
        with pytest.raises(ImageRefused, match=f"{found} of its 3 windows are explained as '{text}'"):
            read_dicom(ds, DicomRules(window_explanation=text))


@pytest.mark.parametrize(
    ("centres", "widths", "expected"),
    [
        (["", 2000], ["", 600], (2000, 600)),
        ([1000, ""], [500, ""], (1000, 500)),
        (["", "", 3000], ["", "", 700], (3000, 700)),
        ([1000, 2000], [500], (1000, 500)),
    ],
)
def test_an_empty_window_among_several_is_none(make_dicom, dicom_bytes, centres, widths, expected):
    ds = make_dicom(RAMP, BitsStored=12, WindowCenter=centres, WindowWidth=widths)
    for source in (ds, dicom_bytes(ds)):
        pixels = read_dicom(source)
        np.testing.assert_array_equal(pixels.values, shown(*expected))
        assert pixels.flags == ()


def test_a_half_or_empty_window_that_is_asked_for_is_refused(make_dicom):
    ds = make_dicom(RAMP, BitsStored=12, WindowCenter=["", 2000, 3000], WindowWidth=["", 600])
    with pytest.raises(ImageRefused, match="window 1 of 3, for which this network was made, is empty"):
        read_dicom(ds, DicomRules(window_number=1))
    with pytest.raises(ImageRefused, match="must both be there"):
        read_dicom(ds, DicomRules(window_number=3))
    half = make_dicom(RAMP, BitsStored=12, WindowCenter=["", 2000], WindowWidth=[500, 600])
    with pytest.raises(ImageRefused, match="must both be there"):
        read_dicom(half)
    empty = make_dicom(RAMP, BitsStored=12, WindowCenter=["", ""], WindowWidth=["", ""])
    assert read_dicom(empty).flags == ("no-window",)


def test_tables_are_chosen_as_windows_are(make_dicom):
    rising, steep = np.arange(4096), np.clip(np.arange(4096) * 2, 0, 4095)
    ds = make_dicom(
        RAMP, BitsStored=12, WindowCenter=1, WindowWidth=1,
        VOILUTSequence=[table(rising, 12, explanation="NORMAL"), table(steep, 12, explanation="HARDER")],
    )  # fmt: skip
    for rules, entries in (
        (DicomRules(), rising),
        (DicomRules(window_number=2), steep),
        (DicomRules(window_explanation="HARDER"), steep),
    ):
        np.testing.assert_array_equal(read_dicom(ds, rules).values, np.rint(entries[RAMP] / 4095 * 65535))


@pytest.mark.parametrize("bits", range(8, 17))
@pytest.mark.parametrize("keyword", ["ModalityLUTSequence", "VOILUTSequence"])
def test_tables_of_every_depth_use_their_whole_range(make_dicom, bits, keyword):
    entries = np.rint(np.linspace(0, 2**bits - 1, 4096)).astype(np.uint16)
    pixels = read_dicom(make_dicom(RAMP, BitsStored=12, **{keyword: [table(entries, bits)]}))
    np.testing.assert_array_equal(pixels.values, np.rint(entries[RAMP] / (2**bits - 1) * 65535))


@pytest.mark.parametrize("bits", [8, 10, 16])
@pytest.mark.parametrize("count", [2, 256, 4096, 65536])
def test_a_presentation_lut_stands_behind_the_window(make_dicom, bits, count):
    entries = np.rint(np.linspace(0, 1, count) ** 2 * (2**bits - 1))
    ds = make_dicom(
        RAMP, BitsStored=12, WindowCenter=2000, WindowWidth=1000, PresentationLUTSequence=[table(entries, bits)]
    )
    y = np.clip((RAMP - 1999.5) / 999 + 0.5, 0, 1)
    expected = np.rint(entries[np.rint(y * (count - 1)).astype(int)] / (2**bits - 1) * 65535)
    np.testing.assert_array_equal(read_dicom(ds).values, expected)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"PhotometricInterpretation": "MONOCHROME1"}, "black is uncertain"),
        ({"PresentationLUTSequence": [table(np.arange(256)[::-1], 8)]}, "black is uncertain"),
        ({"PresentationLUTShape": "IDENTITY"}, "one table or one shape"),
        ({"PresentationLUTSequence": []}, "one table or one shape"),
        ({"PresentationLUTSequence": [table(np.arange(256), 8, first=3)]}, "does not match its descriptor"),
        ({"PresentationLUTSequence": [table(np.arange(256), 7)]}, "does not match its descriptor"),
    ],
)
def test_a_presentation_lut_that_leaves_black_uncertain_is_refused(make_dicom, changes, words):
    with pytest.raises(ImageRefused, match=words):
        read_dicom(make_dicom(RAMP, BitsStored=12, **{"PresentationLUTSequence": [table(np.arange(256), 8)]} | changes))


def test_rules_of_windows_are_checked():
    for wrong in (
        {"window_number": 0},
        {"window_number": 1, "window_explanation": "LUNG"},
        {"window_explanation": " "},
        {"window": "full_range", "window_number": 2},
    ):
        with pytest.raises(InputError, match="window"):
            DicomRules(**wrong)
