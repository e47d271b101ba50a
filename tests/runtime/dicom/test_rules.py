"""Which images a network was made for: rules, the flag where there is none, and bundles that carry them."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
import tiny_bundle as tiny
from msgspec.structs import replace
from pydicom.dataset import Dataset

from medfm_compress.runtime.bundle.bundle import Bundle
from medfm_compress.runtime.dicom.checks import code
from medfm_compress.runtime.dicom.read_dicom import read_dicom
from medfm_compress.runtime.dicom.rules import KIND_NOT_DECLARED
from medfm_compress.runtime.engine import Engine
from medfm_compress.runtime.errors import ImageRefused, InputError
from medfm_compress.runtime.image_spec import DicomRules
from medfm_compress.runtime.strict_json import digest

RAMP = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64).astype(np.uint8)
DX = "1.2.840.10008.5.1.4.1.1.1.1"


def test_classes_are_asked_for_and_absent_ones_are_not_let_in(make_dicom):
    rules = DicomRules(sop_classes=(DX,))
    assert read_dicom(make_dicom(RAMP), rules).values.size
    for value, words in (
        ("1.2.840.10008.5.1.4.1.1.2", r"SOP class is 1\.2\.840\.10008\.5\.1\.4\.1\.1\.2;"),
        (None, "missing"),
    ):
        with pytest.raises(ImageRefused, match=words):
            read_dicom(make_dicom(RAMP, SOPClassUID=value), rules)


def test_laterality_is_that_of_the_image_before_that_of_the_series(make_dicom):
    rules = DicomRules(lateralities=("L",))
    for attributes in ({}, {"ImageLaterality": "L"}, {"Laterality": "L"}, {"ImageLaterality": "L", "Laterality": "R"}):
        assert read_dicom(make_dicom(RAMP, **attributes), rules).values.size
    for attributes in ({"ImageLaterality": "R"}, {"Laterality": "R"}, {"ImageLaterality": "R", "Laterality": "L"}):
        with pytest.raises(ImageRefused, match="laterality is R; this network was made for L"):
            read_dicom(make_dicom(RAMP, **attributes), rules)


@pytest.mark.parametrize(
    ("keyword", "values", "rules"),
    [
        ("Modality", ["DX", "CR"], DicomRules(modalities=("DX",))),
        ("ViewPosition", ["PA", "LL"], DicomRules(view_positions=("PA",))),
        ("BodyPartExamined", ["CHEST", "SKULL"], DicomRules(body_parts=("CHEST",))),
        ("ImageLaterality", ["L", "R"], DicomRules(lateralities=("L",))),
        ("FrameLaterality", ["L", "R"], DicomRules(lateralities=("L",))),
        ("Laterality", ["L", "R"], DicomRules(lateralities=("L",))),
    ],
)
def test_a_code_that_says_two_things_is_not_the_first_of_them(make_dicom, dicom_bytes, keyword, values, rules):
    assert read_dicom(make_dicom(RAMP, **{keyword: values[0]}), rules).values.size
    source = make_dicom(RAMP, **{keyword: values})
    for given in (source, dicom_bytes(source)):
        with pytest.raises(ImageRefused, match=f"{keyword} has 2 values, {', '.join(values)}; one is allowed"):
            read_dicom(given, rules)
    if keyword != "Modality":  # which also tells images from other objects
        assert read_dicom(source).values.size


@pytest.mark.filterwarnings("ignore:Invalid value for VR CS")
def test_text_that_is_no_code_is_not_repeated(make_dicom):
    with pytest.raises(ImageRefused, match="ViewPosition has 2 values, PA, not a code; one is allowed"):
        read_dicom(make_dicom(RAMP, ViewPosition=["PA", "Doe^Jane"]), DicomRules(view_positions=("PA",)))


def test_spacing_of_rows_and_of_columns_lies_in_the_range_also_in_files(make_dicom, dicom_bytes):
    rules = DicomRules(min_spacing_mm=0.1, max_spacing_mm=0.2)
    for keyword in ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing"):
        for source in (make_dicom(RAMP, **{keyword: [0.1, 0.2]}), make_dicom(RAMP, **{keyword: [0.15, 0.15]})):
            assert read_dicom(source, rules).spacing_mm == pytest.approx(
                0.1414 if source[keyword].value[0] == 0.1 else 0.15, abs=1e-4
            )
            assert read_dicom(dicom_bytes(source), rules).spacing_mm == read_dicom(source).spacing_mm
    for spacing, words in (
        ([0.15, 0.3], "0.15 by 0.3 mm apart"),
        ([0.09, 0.15], "made for 0.1 to 0.2 mm"),
        (None, "no spacing"),
    ):
        attributes = {} if spacing is None else {"PixelSpacing": spacing}
        with pytest.raises(ImageRefused, match=words):
            read_dicom(dicom_bytes(make_dicom(RAMP, **attributes)), rules)
    assert read_dicom(make_dicom(RAMP, PixelSpacing=[50, 50]), DicomRules(min_spacing_mm=1)).values.size
    with pytest.raises(InputError, match="holds none"):
        DicomRules(min_spacing_mm=0.3, max_spacing_mm=0.2)


def test_images_of_one_examination_are_known_by_their_files(make_dicom, dicom_bytes):
    marks = [
        read_dicom(dicom_bytes(make_dicom(RAMP, StudyInstanceUID=uid))).examination
        for uid in ("1.2.3", "1.2.3", "1.2.4")
    ]
    assert marks[0] == marks[1] != marks[2] and marks[0] is not None


def test_predictions_on_dicom_say_where_no_kind_is_declared(make_dicom, tmp_path):
    ds = make_dicom(RAMP, WindowCenter=128, WindowWidth=256)
    for rules, flags in (
        (DicomRules(), (KIND_NOT_DECLARED,)),
        (DicomRules(view_positions=("PA",)), (KIND_NOT_DECLARED,)),
        (DicomRules(modalities=("DX",)), ()),
        (DicomRules(sop_classes=(DX,)), ()),
    ):
        path = tiny.bundle(tmp_path / "a.medfm", spec=replace(tiny.SPEC, dicom=rules))
        with Engine(path, threads=1) as engine:
            assert engine.predict(ds).flags == flags
            assert engine.predict(RAMP).flags == ()  # an array is no DICOM image
        path.unlink()


@pytest.mark.parametrize(
    "rule",
    [
        {"sop_classes": (DX,)}, {"lateralities": ("L",)}, {"min_spacing_mm": 0.1}, {"max_spacing_mm": 0.1},
        {"frame": "first"}, {"frame": "numbered", "frame_number": 3}, {"window_number": 2},
        {"window_explanation": "LUNG"},
    ],
)  # fmt: skip
def test_a_later_rule_is_of_schema_6_and_its_absence_changes_nothing(tmp_path, rule):
    spec = replace(tiny.SPEC, dicom=DicomRules(**rule))
    opened = Bundle.open(tiny.bundle(tmp_path / "new.medfm", spec=spec))
    assert opened.manifest.schema_version == 6 and opened.manifest.image_spec == spec
    # Of the same spec as it was written before there were such rules.
    assert digest(tiny.SPEC) == "37a663150d40c5daf58a5ff7a5d4d7048865337226c6b4addbc6e6b6cc0ca4c3"
    assert not set(rule) & set(msgspec.to_builtins(DicomRules()))


def test_training_keeps_what_decides_the_pixels():
    rules = DicomRules(modalities=("CT",), sop_classes=(DX,), frame="numbered", frame_number=2, window_number=3)
    assert rules.for_pixels() == DicomRules(frame="numbered", frame_number=2, window_number=3)


@pytest.mark.parametrize(("vr", "value"), [("US", 5), ("OB", b"ab"), ("FD", 0.5)])
def test_a_code_that_is_no_text_is_another_code(vr, value):
    ds = Dataset()
    ds.add_new("Modality", vr, value)
    assert code(ds, "Modality", "image") == str(value).upper()
