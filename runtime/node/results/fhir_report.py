"""The findings of one image for a record system: a FHIR R4 transaction of Device, Observations and DiagnosticReport.

Every resource is made only if none with its identifier is there (conditional create), so that a repeat changes
nothing. Patient, study and order are referred to by identifier: the node knows no server's ids. Status is
``preliminary`` while results are research, ``final`` once they are clinical.

Observation.value is present or absent at the operating point; its component is the probability. Where no finding is
given there is no Observation, and the conclusion says why. https://hl7.org/fhir/R4/diagnosticreport.html
"""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import msgspec

from medfm_compress import __version__
from medfm_compress.runtime.node.results.assessment import MODEL_NAME, Assessment, CodedFinding
from medfm_compress.runtime.node.results.codes import (
    ABSENT,
    NO_UNITS,
    PRESENT,
    PRIVATE_SCHEME,
    PRIVATE_SCHEME_UID,
    Code,
    one_line,
)
from medfm_compress.runtime.node.results.uids import make_uuid

_UID_SYSTEM = "urn:dicom:uid"
_UCUM = "http://unitsofmeasure.org"
_SYSTEMS = {
    "SCT": "http://snomed.info/sct",
    "LN": "http://loinc.org",
    "DCM": "http://dicom.nema.org/resources/ontology/DCM",
    "RADLEX": "http://www.radlex.org",
    "UCUM": _UCUM,
    "I10": "http://hl7.org/fhir/sid/icd-10",
    PRIVATE_SCHEME: f"urn:oid:{PRIVATE_SCHEME_UID}",
}
_V2_0203 = "http://terminology.hl7.org/CodeSystem/v2-0203"
Resource = dict[str, Any]


def report_uid(assessment: Assessment) -> str:
    """Identifier of the DiagnosticReport."""
    return assessment.uid("fhir")


def fhir_report(assessment: Assessment) -> bytes:
    """The transaction as JSON, UTF-8."""
    device = _device(assessment)
    observations = [_observation(assessment, finding, _reference(device)) for finding in assessment.findings]
    report = _report(assessment, [_reference(observation) for observation in observations])
    entries = [_entry(resource) for resource in (device, *observations, report)]
    return msgspec.json.encode({"resourceType": "Bundle", "type": "transaction", "entry": entries})


def _device(assessment: Assessment) -> Resource:
    config = assessment.config
    return {
        "resourceType": "Device",
        "identifier": [_uid_identifier(assessment.device_uid)],
        "status": "active",
        "manufacturer": one_line(config.manufacturer),
        "serialNumber": one_line(config.device_serial_number),
        "deviceName": [{"name": MODEL_NAME, "type": "model-name"}],
        "version": [{"value": __version__}],
    }


def _observation(assessment: Assessment, finding: CodedFinding, device: Resource) -> Resource:
    value = {} if finding.called is None else {"valueCodeableConcept": _concept(PRESENT if finding.called else ABSENT)}
    probability = {
        "value": round(finding.probability, 6),
        "unit": NO_UNITS.meaning,
        "system": _UCUM,
        "code": NO_UNITS.value,
    }
    algorithm = (one_line(assessment.read_by.name), assessment.algorithm_version, *assessment.parameters)
    return {
        "resourceType": "Observation",
        "identifier": [_uid_identifier(assessment.uid("tracking", finding.name))],
        "status": _status(assessment),
        "category": [_category("http://terminology.hl7.org/CodeSystem/observation-category", "imaging", "Imaging")],
        "code": {**_concept(finding.code), "text": one_line(finding.name) or finding.code.meaning},
        **_about(assessment),
        **value,
        "method": {"text": "; ".join((*filter(None, algorithm), finding.operating_point))},
        "device": device,
        "component": [{"code": _concept(finding.measure), "valueQuantity": probability}],
        "note": [{"text": remark} for remark in assessment.remarks],
        "derivedFrom": [_study(assessment)],
    }


def _report(assessment: Assessment, results: list[Resource]) -> Resource:
    accession = _plain(assessment.study.AccessionNumber)
    order = {"identifier": {"type": _category(_V2_0203, "ACSN", "Accession ID"), "value": accession}}
    return {
        "resourceType": "DiagnosticReport",
        "identifier": [_uid_identifier(report_uid(assessment))],
        **({"basedOn": [{"type": "ServiceRequest", **order}]} if accession else {}),
        "status": _status(assessment),
        "category": [_category("http://terminology.hl7.org/CodeSystem/v2-0074", "RAD", "Radiology")],
        "code": _concept(Code("18748-4", "LN", "Diagnostic imaging study")),
        **_about(assessment),
        "issued": assessment.made_at.isoformat(),
        **({"result": results} if results else {}),
        "imagingStudy": [_study(assessment)],
        "conclusion": "\n".join((*assessment.remarks, *map(_sentence, assessment.findings))),
    }


def _sentence(finding: CodedFinding) -> str:
    called = {True: ", present", False: ", absent", None: ""}[finding.called]
    measured = f"{finding.measure_word} {finding.probability:.3f}"
    return f"{one_line(finding.name)}: {measured}{called} ({finding.operating_point})"


def _about(assessment: Assessment) -> Resource:
    """Whom and when: what the image says and no more."""
    study = assessment.study
    patient, issuer = _plain(study.PatientID), _plain(study.get("IssuerOfPatientID", ""))
    identifier = {"value": patient, **({"assigner": {"display": issuer}} if issuer else {})}
    effective = _effective(assessment)
    return {
        **({"subject": {"type": "Patient", "identifier": identifier}} if patient else {}),
        **({"effectiveDateTime": effective} if effective else {}),
    }


def _effective(assessment: Assessment) -> str:
    """Acquisition as a FHIR dateTime; the date alone where time or time zone is not known."""
    date, time = assessment.image.taken
    if not date:
        return ""
    day, offset = f"{date[:4]}-{date[4:6]}-{date[6:8]}", assessment.image.utc_offset
    if offset is None or not (len(time) >= 6 and time[:6].isdecimal() and time[4:6] < "60"):
        return day
    zone = assessment.made_at.isoformat()[-6:]
    return f"{day}T{time[:2]}:{time[2:4]}:{time[4:6]}{zone}"


def _study(assessment: Assessment) -> Resource:
    return {"type": "ImagingStudy", "identifier": _uid_identifier(assessment.image.study_uid)}


def _status(assessment: Assessment) -> str:
    return "preliminary" if assessment.is_research else "final"


def _plain(value: Any) -> str:
    """An identifier as it stands; several values as DICOM writes them."""
    several: Any = value if isinstance(value, list) or hasattr(value, "append") else [value or ""]
    return "\\".join(one_line(str(one)) for one in several)


def _uid_identifier(uid: str) -> Resource:
    return {"system": _UID_SYSTEM, "value": f"urn:oid:{uid}"}


def _concept(code: Code) -> Resource:
    system = _SYSTEMS.get(code.scheme)
    coding = {"code": code.value, "display": code.meaning}
    return {"coding": [{"system": system, **coding} if system else coding], "text": code.meaning}


def _category(system: str, code: str, display: str) -> Resource:
    return {"coding": [{"system": system, "code": code, "display": display}]}


def _reference(resource: Resource) -> Resource:
    return {"reference": _full_url(resource)}


def _full_url(resource: Resource) -> str:
    return f"urn:uuid:{make_uuid(resource['resourceType'], resource['identifier'][0]['value'])}"


def _entry(resource: Resource) -> Resource:
    identifier = resource["identifier"][0]
    token = quote(f"{identifier['system']}|{identifier['value']}", safe="")
    kind = resource["resourceType"]
    request = {"method": "POST", "url": kind, "ifNoneExist": f"identifier={token}"}
    return {"fullUrl": _full_url(resource), "resource": resource, "request": request}
