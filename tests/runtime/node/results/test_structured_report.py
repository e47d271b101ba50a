"""The report, read by others: dicom3tools find no error, highdicom reads the findings back, dcmtk renders it."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import pydicom
import pytest
from msgspec.structs import replace
from node_results import (
    ARRIVED,
    CONFIG,
    FINDINGS,
    PREDICTION,
    WITHHELD,
    altered,
    heat,
    made,
    read,
    synthetic,
)

from medfm_compress.runtime.node.config import CodeConfig, ResultsConfig
from medfm_compress.runtime.remarks import RESEARCH

# Of the real files one of each kind: vendors, modalities, character sets, several of the chest network's own.
REAL = (
    "highdicom/dx_image.dcm",
    "pydicom-data/693_UNCR.dcm",
    "pydicom-data/RG1_J2KI.dcm",
    "pydicom-data/RG3_J2KR.dcm",
    "pydicom-data/OBXXXX1A_rle_2frame.dcm",
    "pydicom-data/SC_rgb_16bit.dcm",
    "torchxrayvision/1.2.276.0.7230010.3.1.4.8323329.6904.1517875201.850819.dcm",
)


def groups(content):
    """Finding, probability, presence of each group, as highdicom reads them."""
    highdicom = pytest.importorskip("highdicom")
    report = highdicom.sr.srread(io.BytesIO(content))
    assert isinstance(report, highdicom.sr.Comprehensive3DSR)
    tree = highdicom.sr.MeasurementReport.from_sequence([report.content[0]])
    found = {}
    for group in tree.get_image_measurement_groups():
        (measurement,) = group.get_measurements()
        evaluations = {item.name.meaning: item.value.meaning for item in group.get_qualitative_evaluations()}
        evaluations.pop("Finding", None)
        found[group.tracking_identifier] = (
            group.finding_type.value,
            float(measurement.value),
            measurement.unit.value,
            evaluations,
        )
    return found


def texts(ds, name):
    """Text values of the items called ``name``, anywhere."""
    return [
        item.TextValue
        for item in walk(ds)
        if item.get("ValueType") == "TEXT" and item.ConceptNameCodeSequence[0].CodeMeaning == name
    ]


def walk(ds):
    for item in ds.get("ContentSequence", []):
        yield item
        yield from walk(item)


def image_references(item):
    return [image.ReferencedSOPSequence[0] for image in walk(read(item)) if image.ValueType == "IMAGE"]


@pytest.mark.parametrize("site", [0, 1])
@pytest.mark.parametrize("prediction", [PREDICTION, WITHHELD], ids=["findings", "withheld"])
def test_dciodvfy_finds_no_error(site, prediction, complaints) -> None:
    assert complaints(made(synthetic(site), prediction)["sr"]) == []


def test_highdicom_reads_every_finding_back() -> None:
    pytest.importorskip("highdicom")
    found = groups(made(synthetic())["sr"].content)
    assert list(found) == ["Pneumonia", "Erguß", "nodule / mass"]
    for (code, probability, unit, evaluations), (expected, called) in zip(
        found.values(), FINDINGS.values(), strict=True
    ):
        assert probability == pytest.approx(expected, abs=1e-6) and unit == "1"
        assert evaluations == ({} if called is None else {"Presence of property": "Present" if called else "Absent"})
        assert code == "233604007" or (code.startswith("F") and len(code) == 16)


def test_highdicom_reads_observer_and_algorithm_back() -> None:
    highdicom = pytest.importorskip("highdicom")
    report = highdicom.sr.srread(io.BytesIO(made(synthetic())["sr"].content))
    tree = highdicom.sr.MeasurementReport.from_sequence([report.content[0]])
    (observer,) = tree.get_observer_contexts()
    assert observer.observer_type.value == "121007"
    device = observer.observer_identifying_attributes
    assert (device.manufacturer_name, device.serial_number) == ("medfm-compress", "1")
    assert device.uid == read(made(synthetic(1))["sr"]).ContentSequence[2].UID  # that of the node, not of an image
    ((uids),) = report.get_evidence()
    source = synthetic()
    assert uids == (source.StudyInstanceUID, source.SeriesInstanceUID, source.SOPInstanceUID, source.SOPClassUID)


def test_the_report_refers_to_the_image_and_names_the_algorithm() -> None:
    ds, source = read(made(synthetic())["sr"]), synthetic()
    references = image_references(made(synthetic())["sr"])
    assert len(references) == 1 + len(FINDINGS)  # the image library, and each group
    assert {item.ReferencedSOPInstanceUID for item in references} == {source.SOPInstanceUID}
    assert set(texts(ds, "Algorithm Name")) == {"chest"} and set(texts(ds, "Algorithm Version")) == {"release 7"}
    parameters = texts(ds, "Algorithm Parameters")
    assert f"model digest: {PREDICTION.model_digest}" in parameters and "variant: onnxruntime-cpu-int8" in parameters
    assert "operating point: probability >= 0.3" in parameters
    assert any("none" in parameter for parameter in parameters)  # the finding without one
    assert texts(ds, "Tracking Identifier") == ["Pneumonia", "Erguß", "nodule / mass"]


def test_flags_are_content() -> None:
    remarks = " ".join(texts(read(made(synthetic())["sr"]), "Comment"))
    assert "unsigned-bundle" in remarks and "lossy-compressed" in remarks and "tests only" in remarks
    unknown = replace(PREDICTION, flags=("a-flag-of-tomorrow",))
    assert any("a-flag-of-tomorrow" in text for text in texts(read(made(synthetic(), unknown)["sr"]), "Comment"))


def test_research_is_marked_until_it_is_clinical() -> None:
    ds = read(made(synthetic())["sr"])
    assert ds.PreliminaryFlag == "PRELIMINARY" and RESEARCH.lower() in ds.SeriesDescription
    assert len(ds.SeriesDescription) <= 64 and ds.VerificationFlag == "UNVERIFIED"
    assert sum(RESEARCH.lower() in text for text in texts(ds, "Algorithm Parameters")) == len(FINDINGS)
    assert any(RESEARCH in text for text in texts(ds, "Comment"))
    clinical = made(synthetic(), config=replace(CONFIG, status="clinical"))["sr"]
    assert RESEARCH.lower() not in clinical.content.decode("utf-8", "replace").lower()
    assert read(clinical).PreliminaryFlag == "FINAL"


def test_an_image_without_a_finding_gets_a_report_that_says_so(complaints) -> None:
    item = made(synthetic(), WITHHELD)["sr"]
    ds = read(item)
    assert not [group for group in walk(ds) if group.get("ValueType") == "NUM"]
    assert [code.ConceptCodeSequence[0].CodeMeaning for code in walk(ds) if code.get("ValueType") == "CODE"][
        -1
    ] == "Failed"
    assert any("Not assessed: unlike the cases" in text for text in texts(ds, "Comment"))
    assert any(PREDICTION.model_digest in text for text in texts(ds, "Comment"))
    assert item.sop_instance_uid == ds.SOPInstanceUID


def test_dcmtk_prints_and_renders_it(program, tmp_path: Path) -> None:
    path = tmp_path / "sr.dcm"
    path.write_bytes(made(synthetic())["sr"].content)
    dumped = program("dsrdump", "+Pl", path)
    assert dumped.returncode == 0 and "Error" not in dumped.stderr
    assert '=(233604007,SCT,"Pneumonia")' in dumped.stdout and '="0.931234" (1,UCUM' in dumped.stdout
    rendered = program("dsr2html", path)
    assert rendered.returncode == 0 and "Pneumonia" in rendered.stdout and "not for clinical use" in rendered.stdout


def test_the_same_image_gives_the_same_bytes_and_another_other_uids() -> None:
    first, again = made(synthetic(), heat_map=heat()), made(synthetic(), heat_map=heat())
    assert first == again
    other = made(synthetic(SOPInstanceUID="1.2.3.4"), heat_map=heat())
    for kind in first:
        assert first[kind].sop_instance_uid != other[kind].sop_instance_uid
    assert read(first["sr"]).SeriesInstanceUID == read(other["sr"]).SeriesInstanceUID
    assert read(first["sr"]).SeriesInstanceUID != read(first["sc"]).SeriesInstanceUID


@pytest.mark.parametrize(
    "config",
    [
        replace(CONFIG, status="clinical"),
        replace(CONFIG, device_serial_number="2"),
        replace(CONFIG, institution="Elsewhere"),
        replace(CONFIG, findings={}),
    ],
)
def test_what_makes_another_content_makes_another_uid(config: ResultsConfig) -> None:
    assert made(synthetic(), config=config)["sr"].sop_instance_uid != made(synthetic())["sr"].sop_instance_uid


def test_uids_lie_under_a_configured_root() -> None:
    config = replace(CONFIG, uid_root="1.2.826.0.1.3680043.9")
    ds = read(made(synthetic(), config=config)["sr"])
    for uid in (ds.SOPInstanceUID, ds.SeriesInstanceUID, *(item.UID for item in walk(ds) if "UID" in item)):
        assert uid.startswith("1.2.826.0.1.3680043.9.") and len(uid) <= 64


def test_codes_of_any_length_are_written_and_read(complaints) -> None:
    codes = {
        "Pneumonia": CodeConfig(value="1234567890123456789", scheme="SCT", meaning="a long code"),
        "Erguß": CodeConfig(value="urn:oid:1.2.3", scheme="99X", meaning="a URN"),
    }
    item = made(synthetic(), config=ResultsConfig(findings=codes))["sr"]
    assert complaints(item) == []
    found = [
        code.ConceptCodeSequence[0]
        for code in walk(read(item))
        if code.get("ValueType") == "CODE" and code.ConceptNameCodeSequence[0].CodeMeaning == "Finding"
    ]
    assert found[0].LongCodeValue == "1234567890123456789" and found[1].URNCodeValue == "urn:oid:1.2.3"


def test_the_content_has_the_time_of_arrival_in_the_images_time_zone() -> None:
    ds = read(made(synthetic(TimezoneOffsetFromUTC="+0530"))["sr"])
    assert (ds.ContentDate, ds.ContentTime, ds.TimezoneOffsetFromUTC) == ("20231115", "034320", "+0530")
    assert ARRIVED == 1_700_000_000


def test_an_image_of_a_multi_frame_object_is_referred_to_by_its_frame(complaints) -> None:
    source = synthetic(SOPClassUID="1.2.840.10008.5.1.4.1.1.7.2", NumberOfFrames=1)
    item = made(source, heat_map=heat())["sr"]
    references = [image.ReferencedSOPSequence[0] for image in walk(read(item)) if image.ValueType == "IMAGE"]
    assert all(reference.ReferencedFrameNumber == 1 for reference in references) and complaints(item) == []
    plain = [
        image.ReferencedSOPSequence[0] for image in walk(read(made(synthetic())["sr"])) if image.ValueType == "IMAGE"
    ]
    assert not any("ReferencedFrameNumber" in reference for reference in plain)


@pytest.mark.shared
def test_reports_of_real_files_are_valid_and_of_the_same_patient(shared_data, complaints, program, tmp_path) -> None:
    for name in REAL:
        path = shared_data / "dicom" / name
        objects = made(pydicom.dcmread(path, stop_before_pixels=True), heat_map=heat())
        assert complaints(objects["sr"]) == complaints(objects["sc"]) == [], name
        for kind in ("sr", "sc"):
            (tmp_path / kind).write_bytes(objects[kind].content)
        contradictions = program("dcentvfy", tmp_path / "sr", tmp_path / "sc").stderr
        assert "Error" not in contradictions and "but different value" not in contradictions, (name, contradictions)


@pytest.mark.shared
def test_entities_of_a_real_study_do_not_contradict_the_image(shared_data, program, tmp_path) -> None:
    source = shared_data / "dicom" / "pydicom-data" / "693_UNCR.dcm"
    (tmp_path / "sr").write_bytes(made(pydicom.dcmread(source, stop_before_pixels=True))["sr"].content)
    result = program("dcentvfy", tmp_path / "sr", source)
    assert "Error" not in result.stderr, result.stderr
    # It does find a contradiction where there is one.
    other = altered(pydicom.dcmread(source, stop_before_pixels=True), 0x00100010, "PN", b"Other^Name")
    (tmp_path / "other").write_bytes(made(other)["sr"].content)
    assert "PatientName" in program("dcentvfy", tmp_path / "other", source).stderr


@pytest.mark.shared
def test_highdicom_reads_reports_of_real_files_back(shared_data) -> None:
    for name in REAL:
        source = pydicom.dcmread(shared_data / "dicom" / name, stop_before_pixels=True)
        content = made(source)["sr"].content
        with warnings.catch_warnings():  # of the image's own values, which are copied as they stand
            warnings.filterwarnings("ignore", module="pydicom")
            assert len(groups(content)) == len(FINDINGS), name


def test_an_anomaly_score_is_no_probability() -> None:
    scored = replace(PREDICTION, is_score=True, nearest=("ab" * 32,))
    report = read(made(synthetic(), scored)["sr"])
    text = report.to_json()
    assert "ANOMALY-SCORE" in text and "122157" not in text
    assert "anomaly score >= 0.5" in text and "no probability of disease" in text and "ab" * 32 in text
