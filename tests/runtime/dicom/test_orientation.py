"""Images are turned to what a network was made for, by what the file says; what does not say it is refused."""

from __future__ import annotations

import numpy as np
import pytest
import tiny_bundle as tiny
from msgspec.structs import replace

from medfm_compress.runtime.bundle.bundle import Bundle
from medfm_compress.runtime.dicom.read_dicom import read_dicom
from medfm_compress.runtime.errors import ImageRefused, InputError
from medfm_compress.runtime.image_spec import AXES, DicomRules
from medfm_compress.runtime.task import Task
from medfm_compress.runtime.tasks.table import rules_of

STORED = np.random.default_rng(0).integers(0, 256, (32, 40), dtype=np.uint8)
CHEST = DicomRules(orientation="LF")
VECTORS = {"L": (1, 0, 0), "R": (-1, 0, 0), "P": (0, 1, 0), "A": (0, -1, 0), "H": (0, 0, 1), "F": (0, 0, -1)}
PAIRS = [row + column for row in AXES for column in AXES if AXES[row] != AXES[column]]


def shown(make_dicom, rules, **attributes):
    return read_dicom(make_dicom(STORED, **attributes), rules).values


def by_places(stored, found, wanted):
    """Every pixel carried to where its place in the patient is shown."""
    if {AXES[letter] for letter in found} != {AXES[letter] for letter in wanted}:
        return None
    rows, columns = stored.shape
    place = {}  # axis → length along it, and how a pixel's distance along its positive direction follows
    is_same = AXES[found[0]] == AXES[wanted[0]]
    result = np.empty(stored.shape if is_same else stored.shape[::-1], stored.dtype)
    for row in range(rows):
        for column in range(columns):
            place[AXES[found[0]]] = column if found[0] in "LPH" else columns - 1 - column
            place[AXES[found[1]]] = row if found[1] in "LPH" else rows - 1 - row
            at = [
                place[AXES[letter]] if letter in "LPH" else result.shape[1 - side] - 1 - place[AXES[letter]]
                for side, letter in enumerate(wanted)
            ]
            result[at[1], at[0]] = stored[row, column]
    return result


@pytest.mark.parametrize("found", PAIRS)
def test_every_way_to_lie_is_turned_by_either_attribute(make_dicom, found):
    plain = read_dicom(make_dicom(STORED)).values
    for wanted in ("LF", "PF", "LP", "FA"):
        expected = by_places(plain, found, wanted)
        for attributes in (
            {"PatientOrientation": list(found)},
            {"ImageOrientationPatient": [*VECTORS[found[0]], *VECTORS[found[1]]]},
        ):
            if expected is None:
                with pytest.raises(ImageRefused, match=f"run to {found}, so it shows another plane"):
                    shown(make_dicom, DicomRules(orientation=wanted), **attributes)
            else:
                turned = shown(make_dicom, DicomRules(orientation=wanted), **attributes)
                np.testing.assert_array_equal(turned, expected)
                assert turned.flags.c_contiguous


def test_files_say_it_as_data_sets_do_and_pixels_that_are_not_square_turn_too(make_dicom, dicom_bytes):
    ds = make_dicom(STORED, PatientOrientation=["F", "L"], PixelSpacing=[0.2, 0.1])
    turned = read_dicom(dicom_bytes(ds), CHEST)
    np.testing.assert_array_equal(turned.values, read_dicom(ds).values.T)
    assert turned.aspect == pytest.approx(0.5) and read_dicom(ds).aspect == pytest.approx(2)
    assert turned.spacing_mm == read_dicom(ds).spacing_mm


def test_the_principal_direction_decides_of_an_image_that_is_a_little_tilted(make_dicom):
    plain = read_dicom(make_dicom(STORED)).values
    np.testing.assert_array_equal(shown(make_dicom, CHEST, PatientOrientation=["LP", "FA"]), plain)
    cosine, sine = np.cos(0.3), np.sin(0.3)
    tilted = [cosine, sine, 0, 0, 0, -1]
    np.testing.assert_array_equal(shown(make_dicom, CHEST, ImageOrientationPatient=tilted), plain)


@pytest.mark.parametrize(
    ("attributes", "words"),
    [
        ({}, "neither Patient Orientation nor"),
        ({"PatientOrientation": ["", ""]}, "neither Patient Orientation nor"),
        ({"PatientOrientation": ["L", "F"], "ImageOrientationPatient": [-1, 0, 0, 0, 0, -1]}, "run to LF, .*run to RF"),
        ({"PatientOrientation": ["L"]}, "must be two directions"),
        ({"PatientOrientation": ["L", "R"]}, "on two axes"),
        ({"PatientOrientation": ["LE", "V"]}, "must be two directions"),
        ({"PatientOrientation": ["LR", "F"]}, "must be two directions"),
        ({"PatientOrientation": ["LL", "FF"]}, "must be two directions"),
        ({"PatientOrientation": ["L", "FPF"]}, "must be two directions"),
        ({"PatientOrientation": ["L", ""]}, "must be two directions"),
        ({"ImageOrientationPatient": [1, 0, 0, 0, 0]}, "six numbers"),
        ({"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]}, "right angles"),
        ({"ImageOrientationPatient": [0, 0, 0, 0, 0, 0]}, "unit vectors"),
        ({"ImageOrientationPatient": [0.70710678, 0.70710678, 0, 0, 0, -1]}, "askew"),
        ({"PatientOrientation": ["A", "F"]}, "shows another plane"),
    ],
)
def test_what_is_not_certain_is_refused_and_without_a_rule_ignored(make_dicom, attributes, words):
    with pytest.raises(ImageRefused, match=words):
        shown(make_dicom, CHEST, **attributes)
    np.testing.assert_array_equal(shown(make_dicom, DicomRules(), **attributes), shown(make_dicom, DicomRules()))


def test_field_of_view_flips_are_in_the_pixels_already(make_dicom):
    flips = {"FieldOfViewHorizontalFlip": "YES", "FieldOfViewRotation": 180}
    plain = shown(make_dicom, DicomRules())
    np.testing.assert_array_equal(shown(make_dicom, CHEST, PatientOrientation=["L", "F"], **flips), plain)


def test_the_other_side_of_the_body_is_mirrored(make_dicom):
    plain = shown(make_dicom, DicomRules())
    for mirrored_to, other in (("R", "L"), ("L", "R")):
        rules = DicomRules(mirrored_to=mirrored_to)
        for keyword in ("ImageLaterality", "Laterality"):
            np.testing.assert_array_equal(shown(make_dicom, rules, **{keyword: other}), plain[:, ::-1])
            np.testing.assert_array_equal(shown(make_dicom, rules, **{keyword: mirrored_to}), plain)
    both = DicomRules(orientation="LF", mirrored_to="R")
    turned = shown(make_dicom, both, PatientOrientation=["R", "F"], ImageLaterality="L")
    np.testing.assert_array_equal(turned, plain)  # mirrored twice


@pytest.mark.parametrize(
    ("attributes", "words"),
    [
        ({}, "the file says none"),
        ({"ImageLaterality": "B"}, "of both or of neither"),
        ({"ImageLaterality": "U"}, "of both or of neither"),
        ({"ImageLaterality": "L", "Laterality": "R"}, "more than one"),
        ({"ImageLaterality": "X"}, r"the file says what is no side \(X\)"),
        ({"ImageLaterality": ["L", "R"]}, "ImageLaterality has 2 values, L, R; one is allowed"),
        ({"ImageLaterality": ["R", "L"]}, "ImageLaterality has 2 values, R, L; one is allowed"),
        ({"Laterality": ["L", "B"]}, "Laterality has 2 values, L, B; one is allowed"),
    ],
)
def test_a_side_that_is_not_certain_is_refused(make_dicom, attributes, words):
    with pytest.raises(ImageRefused, match=words):
        shown(make_dicom, DicomRules(mirrored_to="R"), **attributes)


def test_a_side_that_is_said_twice_alike_is_one(make_dicom):
    plain = shown(make_dicom, DicomRules())
    for said in (["L", "L"], ["L ", "L"], ["L", ""]):
        mirrored = shown(make_dicom, DicomRules(mirrored_to="R"), ImageLaterality=said)
        np.testing.assert_array_equal(mirrored, plain[:, ::-1])


def test_each_frame_lies_as_its_functional_group_says(make_dicom):
    from pydicom import Dataset

    def group(vectors):
        plane, frame = Dataset(), Dataset()
        plane.ImageOrientationPatient = list(vectors)
        frame.PlaneOrientationSequence = [plane]
        return frame

    ds = make_dicom(STORED, NumberOfFrames=2)
    ds.PixelData = ds.PixelData * 2
    ds.PerFrameFunctionalGroupsSequence = [group((1, 0, 0, 0, 0, -1)), group((-1, 0, 0, 0, 0, -1))]
    plain = shown(make_dicom, DicomRules())
    for number, expected in ((1, plain), (2, plain[:, ::-1])):
        rules = DicomRules(orientation="LF", frame="numbered", frame_number=number)
        np.testing.assert_array_equal(read_dicom(ds, rules).values, expected)


@pytest.mark.parametrize("wrong", ["", "L", "LR", "LX", "LFA", "lf"])
def test_an_orientation_names_two_axes(wrong):
    with pytest.raises(InputError, match="two of L, R, A, P, H and F on two axes"):
        DicomRules(orientation=wrong)


def test_no_segmentation_is_turned_and_older_bundles_keep_their_schema(tmp_path):
    structures = Task(kind="segmentation", labels=("lesion",))
    for rules in (CHEST, DicomRules(mirrored_to="L"), DicomRules(frame="all", frame_aggregation="mean")):
        spec = replace(tiny.SPEC, dicom=rules)
        with pytest.raises(InputError, match="answers for the stored pixels of one"):
            rules_of(structures).check_spec(structures, spec)
        path = tiny.bundle(tmp_path / "turned.medfm", spec=spec)
        assert Bundle.open(path).manifest.schema_version == 8
        assert Bundle.open(path).manifest.image_spec.dicom == rules == rules.for_pixels()
        path.unlink()
