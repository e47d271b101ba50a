"""The findings of one image as a DICOM structured report: TID 1500 in a Comprehensive 3D SR, as IHE AI Results asks.

    Imaging Measurement Report (TID 1500)
    ├─ language; observer: this device (TID 1004); procedure
    ├─ Image Library (TID 1600): the image
    ├─ Imaging Measurements: for each finding a group (TID 1501) with
    │    tracking identifier and UID; the finding's code; the algorithm (TID 4019); the image and frame it was read
    │    from; its probability; present or absent at the operating point
    └─ Qualitative Evaluations: whether the analysis succeeded; remarks, that of research first

An image that no finding is given for has no group; that the analysis failed, and why, stands in its place. Content
comes from PS3.16; the templates are built here and not by a library, so that equal input gives equal bytes and a start
does not wait for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from medfm_compress.runtime.node.results.assessment import MODEL_NAME, Assessment, CodedFinding
from medfm_compress.runtime.node.results.codes import (
    ABSENT,
    NO_UNITS,
    PRESENCE,
    PRESENT,
    PRIVATE_SCHEME,
    PRIVATE_SCHEME_NAME,
    PRIVATE_SCHEME_UID,
    Code,
    modality_code,
    one_line,
)
from medfm_compress.runtime.node.results.content_items import (
    Item,
    Relationship,
    code_item,
    container,
    image_item,
    number_item,
    text_item,
    uid_item,
)
from medfm_compress.runtime.node.results.document import (
    coded,
    file_bytes,
    new_document,
    series_description,
)
from medfm_compress.runtime.node.results.source_study import copied_requests

if TYPE_CHECKING:
    from pydicom import Dataset

SOP_CLASS_UID = "1.2.840.10008.5.1.4.1.1.88.34"
"""Comprehensive 3D SR Storage."""
_SERIES_NUMBER = 9901
_MOD: Relationship = "HAS CONCEPT MOD"
_OBS: Relationship = "HAS OBS CONTEXT"


def structured_report(assessment: Assessment) -> bytes:
    """The report as a DICOM file (PS3.10)."""
    ds = new_document(assessment, "sr", SOP_CLASS_UID, _SERIES_NUMBER)
    ds.Modality = "SR"
    ds.SeriesDescription = series_description(assessment, "AI findings")
    ds.ReferencedPerformedProcedureStepSequence = []
    ds.CompletionFlag, ds.VerificationFlag = "COMPLETE", "UNVERIFIED"
    ds.PreliminaryFlag = "PRELIMINARY" if assessment.is_research else "FINAL"
    ds.PerformedProcedureCodeSequence = []
    ds.CurrentRequestedProcedureEvidenceSequence = [_evidence(assessment)]
    requests = copied_requests(assessment.header, assessment.study)
    if requests:
        ds.ReferencedRequestSequence = requests
    if any(PRIVATE_SCHEME in (finding.code.scheme, finding.measure.scheme) for finding in assessment.findings):
        ds.CodingSchemeIdentificationSequence = [_private_scheme()]
    ds.ValueType, ds.ContinuityOfContent = "CONTAINER", "SEPARATE"
    ds.ConceptNameCodeSequence = [coded(_dcm("126000", "Imaging Measurement Report"))]
    ds.ContentTemplateSequence = [_template("1500")]
    return file_bytes(ds, content=b"".join(_content(assessment)))


def _template(identifier: str) -> Dataset:
    from pydicom import Dataset

    item = Dataset()
    item.MappingResource, item.TemplateIdentifier = "DCMR", identifier
    return item


def _content(assessment: Assessment) -> list[Item]:
    language = code_item(
        _MOD, _dcm("121049", "Language of Content Item and Descendants"), Code("en", "RFC5646", "English")
    )
    measurements = [_group(assessment, finding) for finding in assessment.findings]
    return [
        language,
        *_observer(assessment),
        *(code_item(_MOD, _dcm("121058", "Procedure reported"), code) for code in assessment.procedures),
        _image_library(assessment),
        *([container(_dcm("126010", "Imaging Measurements"), measurements)] if measurements else []),
        _evaluations(assessment),
    ]


def _observer(assessment: Assessment) -> Iterator[Item]:
    """TID 1002 and 1004."""
    config = assessment.config
    yield code_item(_OBS, _dcm("121005", "Observer Type"), _dcm("121007", "Device"))
    yield uid_item(_OBS, _dcm("121012", "Device Observer UID"), assessment.device_uid)
    yield text_item(_OBS, _dcm("121013", "Device Observer Name"), one_line(assessment.read_by.name) or MODEL_NAME)
    yield text_item(_OBS, _dcm("121014", "Device Observer Manufacturer"), one_line(config.manufacturer))
    yield text_item(_OBS, _dcm("121015", "Device Observer Model Name"), MODEL_NAME)
    yield text_item(_OBS, _dcm("121016", "Device Observer Serial Number"), one_line(config.device_serial_number))


def _image_library(assessment: Assessment) -> Item:
    """TID 1600 with one group of one image."""
    modality = modality_code(assessment.image.modality)
    descriptors = [] if modality is None else [code_item("HAS ACQ CONTEXT", _dcm("121139", "Modality"), modality)]
    group = container(_dcm("126200", "Image Library Group"), [*descriptors, image_item(None, assessment.image)])
    return container(_dcm("111028", "Image Library"), [group])


def _group(assessment: Assessment, finding: CodedFinding) -> Item:
    """TID 1501."""
    items = [
        text_item(_OBS, _dcm("112039", "Tracking Identifier"), one_line(finding.name) or finding.code.value),
        uid_item(_OBS, _dcm("112040", "Tracking Unique Identifier"), assessment.uid("tracking", finding.name)),
        code_item("CONTAINS", _dcm("121071", "Finding"), finding.code),
        *_algorithm(assessment, finding),
        image_item(_dcm("121112", "Source of Measurement"), assessment.image),
        number_item(finding.measure, _decimal(finding.probability), NO_UNITS),
    ]
    if finding.called is not None:
        items.append(code_item("CONTAINS", PRESENCE, PRESENT if finding.called else ABSENT))
    return container(_dcm("125007", "Measurement Group"), items, template="1501")


def _algorithm(assessment: Assessment, finding: CodedFinding) -> Iterator[Item]:
    """TID 4019."""
    yield text_item(_MOD, _dcm("111001", "Algorithm Name"), one_line(assessment.read_by.name) or MODEL_NAME)
    yield text_item(_MOD, _dcm("111003", "Algorithm Version"), assessment.algorithm_version)
    for parameter in (*assessment.parameters, finding.operating_point):
        yield text_item(_MOD, _dcm("111002", "Algorithm Parameters"), parameter)


def _decimal(probability: float) -> str:
    """To six places, without zeros that say nothing."""
    return f"{probability:.6f}".rstrip("0").rstrip(".")


def _evaluations(assessment: Assessment) -> Item:
    outcome = _dcm("111224", "Failed") if assessment.not_assessed else _dcm("111222", "Succeeded")
    remarks = list(assessment.remarks)
    if assessment.not_assessed:  # no group says which algorithm it was
        name = one_line(assessment.read_by.name) or MODEL_NAME
        remarks.append("; ".join((f"Algorithm: {name}, {assessment.algorithm_version}", *assessment.parameters)))
    return container(
        Code("C0034375", "UMLS", "Qualitative Evaluations"),
        [
            code_item("CONTAINS", _dcm("111065", "Summary of Analyses"), outcome),
            *(text_item("CONTAINS", _dcm("121106", "Comment"), remark) for remark in remarks),
        ],
    )


def _evidence(assessment: Assessment) -> Dataset:
    """Hierarchical SOP instance reference to the image (C.17.2.1)."""
    from pydicom import Dataset

    instance, series, study = Dataset(), Dataset(), Dataset()
    instance.ReferencedSOPClassUID = assessment.image.sop_class_uid
    instance.ReferencedSOPInstanceUID = assessment.image.sop_instance_uid
    series.SeriesInstanceUID, series.ReferencedSOPSequence = assessment.image.series_uid, [instance]
    study.StudyInstanceUID, study.ReferencedSeriesSequence = assessment.image.study_uid, [series]
    return study


def _private_scheme() -> Dataset:
    from pydicom import Dataset

    item = Dataset()
    item.CodingSchemeDesignator, item.CodingSchemeUID = PRIVATE_SCHEME, PRIVATE_SCHEME_UID
    item.CodingSchemeName = PRIVATE_SCHEME_NAME
    return item


def _dcm(value: str, meaning: str) -> Code:
    return Code(value, "DCM", meaning)
