"""The FHIR transaction: valid R4, conditional, by identifiers alone, and as honest as the structured report."""

from __future__ import annotations

import json

import pytest
from msgspec.structs import replace
from node_results import CONFIG, FINDINGS, PREDICTION, WITHHELD, made, synthetic

resources = pytest.importorskip("fhir.resources.R4B.bundle")


def transaction(header=None, prediction=PREDICTION, config=CONFIG):
    content = made(synthetic() if header is None else header, prediction, config)["fhir"].content
    resources.Bundle.model_validate_json(content)
    return json.loads(content)


def of_kind(bundle, kind):
    return [entry["resource"] for entry in bundle["entry"] if entry["resource"]["resourceType"] == kind]


@pytest.mark.parametrize("prediction", [PREDICTION, WITHHELD], ids=["findings", "withheld"])
@pytest.mark.parametrize("patient", ["P001", None, ""])
def test_it_is_valid_r4(prediction, patient) -> None:
    bundle = transaction(synthetic(PatientID=patient, AccessionNumber="A 1"), prediction)
    assert bundle["type"] == "transaction"
    (report,) = of_kind(bundle, "DiagnosticReport")
    assert ("subject" in report) == bool(patient)
    assert report["basedOn"][0]["identifier"]["value"] == "A 1"


def test_every_entry_is_conditional_and_every_reference_is_resolved_in_the_bundle() -> None:
    bundle = transaction()
    urls = [entry["fullUrl"] for entry in bundle["entry"]]
    assert len(set(urls)) == len(urls) == 2 + len(FINDINGS)
    tokens = [entry["request"]["ifNoneExist"] for entry in bundle["entry"]]
    assert len(set(tokens)) == len(tokens) and all(
        token.startswith("identifier=urn%3Adicom%3Auid%7C") for token in tokens
    )
    (report,) = of_kind(bundle, "DiagnosticReport")
    references = [result["reference"] for result in report["result"]]
    references += [observation["device"]["reference"] for observation in of_kind(bundle, "Observation")]
    assert set(references) <= set(urls)


def test_observations_say_what_was_found() -> None:
    observations = of_kind(transaction(), "Observation")
    for observation, (name, (probability, called)) in zip(observations, FINDINGS.items(), strict=True):
        assert observation["code"]["text"] == name.replace("\\", "/")
        (component,) = observation["component"]
        assert component["valueQuantity"]["value"] == pytest.approx(probability, abs=1e-6)
        value = observation.get("valueCodeableConcept", {}).get("text")
        assert value == {True: "Present", False: "Absent", None: None}[called]
    coding = observations[0]["code"]["coding"][0]
    assert (coding["system"], coding["code"]) == ("http://snomed.info/sct", "233604007")
    assert observations[1]["code"]["coding"][0]["system"].startswith("urn:oid:2.25.")


def test_patient_and_study_are_referred_to_by_identifier_and_nothing_else_of_the_patient_is_told() -> None:
    content = made(synthetic(IssuerOfPatientID="Hospital A"))["fhir"].content
    (report,) = of_kind(json.loads(content), "DiagnosticReport")
    assert report["subject"]["identifier"] == {"value": "P001", "assigner": {"display": "Hospital A"}}
    study = report["imagingStudy"][0]["identifier"]
    assert study == {"system": "urn:dicom:uid", "value": f"urn:oid:{synthetic().StudyInstanceUID}"}
    assert b"Synthetic" not in content and b'reference":"Patient' not in content


def test_an_odd_patient_id_is_told_as_it_stands() -> None:
    for patient, expected in (("A\\B", "A\\B"), (" 007 ", "007")):
        (report,) = of_kind(transaction(synthetic(PatientID=patient)), "DiagnosticReport")
        assert report["subject"]["identifier"]["value"] == expected


def test_research_is_preliminary_and_says_so() -> None:
    (report,) = of_kind(transaction(), "DiagnosticReport")
    assert report["status"] == "preliminary" and "not for clinical use" in report["conclusion"]
    (report,) = of_kind(transaction(config=replace(CONFIG, status="clinical")), "DiagnosticReport")
    assert report["status"] == "final" and "not for clinical use" not in report["conclusion"]


def test_a_withheld_finding_is_no_observation() -> None:
    bundle = transaction(prediction=WITHHELD)
    (report,) = of_kind(bundle, "DiagnosticReport")
    assert not of_kind(bundle, "Observation") and "result" not in report
    assert "Not assessed: unlike the cases" in report["conclusion"]


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({}, "2020-01-02"),
        ({"TimezoneOffsetFromUTC": "-0330"}, "2020-01-02T12:00:00-03:30"),
        ({"AcquisitionDate": None, "ContentDate": "20200103"}, "2020-01-03"),
        ({"AcquisitionDate": "", "ContentDate": "", "StudyDate": ""}, None),
        ({"TimezoneOffsetFromUTC": "+0000", "AcquisitionTime": "12"}, "2020-01-02"),
    ],
)
def test_the_time_is_told_as_far_as_it_is_known(attributes, expected) -> None:
    (report,) = of_kind(transaction(synthetic(**attributes)), "DiagnosticReport")
    assert report.get("effectiveDateTime") == expected
