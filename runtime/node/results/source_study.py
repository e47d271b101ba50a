"""Patient and study of an image, copied for the objects that are made of it (PS3.3 C.7.1, C.7.2, C.12.1).

What identifies (names, IDs, accession number) is copied as it stands, however odd. Anything else that is not of its
value representation is left out, or left empty where the attribute must be there, for nothing is to be invented and no
result is to be invalid because the image is. Private attributes are not copied.

The text keeps the image's character set, so that its bytes stay what they were, unless the result holds text beyond
ASCII itself: then all is UTF-8 (ISO_IR 192).
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any, NamedTuple

from medfm_compress.runtime.errors import ImageRefused
from medfm_compress.runtime.images.quiet_decoders import quiet
from medfm_compress.runtime.node.results.codes import Code, one_line

if TYPE_CHECKING:
    from pydicom import DataElement, Dataset

UTF_8 = "ISO_IR 192"
_REQUIRED = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex"),
    *("StudyDate", "StudyTime", "ReferringPhysicianName", "StudyID", "AccessionNumber"),
)
_IDENTIFYING = ("PatientName", "PatientID", "IssuerOfPatientID", "StudyID", "AccessionNumber")
_OPTIONAL = (
    # Patient (C.7.1.1)
    *("IssuerOfPatientID", "TypeOfPatientID", "IssuerOfPatientIDQualifiersSequence", "PatientBirthTime"),
    *("OtherPatientIDsSequence", "EthnicGroup", "QualityControlSubject"),
    *("OtherPatientNames", "PatientComments", "ReferencedPatientSequence"),
    *("PatientSpeciesDescription", "PatientSpeciesCodeSequence", "PatientBreedDescription"),
    *("PatientBreedCodeSequence", "BreedRegistrationSequence", "ResponsiblePerson", "ResponsiblePersonRole"),
    *("ResponsibleOrganization", "PatientIdentityRemoved", "DeidentificationMethod"),
    "DeidentificationMethodCodeSequence",
    # Clinical trial subject and study (C.7.1.3, C.7.2.3)
    *("ClinicalTrialSponsorName", "ClinicalTrialProtocolID", "ClinicalTrialProtocolName", "ClinicalTrialSiteID"),
    *("ClinicalTrialSiteName", "ClinicalTrialSubjectID", "ClinicalTrialSubjectReadingID"),
    *("ClinicalTrialTimePointID", "ClinicalTrialTimePointDescription"),
    # General study (C.7.2.1) and patient study (C.7.2.2)
    *("StudyDescription", "IssuerOfAccessionNumberSequence", "PhysiciansOfRecord", "ProcedureCodeSequence"),
    *("ReferringPhysicianIdentificationSequence", "ReasonForPerformedProcedureCodeSequence"),
    *("ReferencedStudySequence", "RequestingService", "NameOfPhysiciansReadingStudy", "ConsultingPhysicianName"),
    *("PatientAge", "PatientSize", "PatientWeight", "AdmissionID", "IssuerOfAdmissionIDSequence", "ServiceEpisodeID"),
    *("ServiceEpisodeDescription", "AdmittingDiagnosesDescription", "AdmittingDiagnosesCodeSequence", "MedicalAlerts"),
    *("Allergies", "SmokingStatus", "PregnancyStatus", "LastMenstrualDate", "PatientState", "Occupation"),
    *("AdditionalPatientHistory", "ReasonForVisit", "PatientSexNeutered"),
    # SOP common (C.12.1): the dates of both modules are in this time zone
    "TimezoneOffsetFromUTC",
)
_OF_REQUEST = (
    *("ReferencedStudySequence", "AccessionNumber", "PlacerOrderNumberImagingServiceRequest"),
    *("FillerOrderNumberImagingServiceRequest", "RequestedProcedureID", "RequestedProcedureDescription"),
    "RequestedProcedureCodeSequence",
)
_OF_CODE = ("CodeValue", "CodingSchemeDesignator", "CodeMeaning")
_UIDS = ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID")
# The image's reader takes objects of one frame alone; those of these classes have a number for it (PS3.3 10.3).
_MULTI_FRAME = tuple(
    f"1.2.840.10008.5.1.4.1.1.{last}"
    for last in (
        *("2.1", "2.2", "3", "3.1", "4.1", "4.3", "4.4", "5", "6.2", "7.1", "7.2", "7.3", "7.4", "12.1", "12.1.1"),
        *("12.2", "12.2.1", "13.1.1", "13.1.2", "13.1.3", "13.1.4", "13.1.5", "14.1", "14.2", "20", "30"),
        *("77.1.1.1", "77.1.2.1", "77.1.4.1", "77.1.5.4", "77.1.6", "128.1", "130"),
    )
)
_UID = re.compile(r"[0-9.]{1,64}")
_TEXT = ("LO", "LT", "PN", "SH", "ST", "UC", "UT")
_LONGEST_IDENTITY = 1000  # characters; beyond it an attribute is no identity but damage
_MOST_ITEMS = 100  # of a sequence; one with more is damage
_DEEPEST = 6  # sequences in sequences
_OFFSET = re.compile(r"([+-])(\d\d)([0-5]\d)")


class SourceImage(NamedTuple):
    """The image that a result is of.

    Attributes:
        frame: its number, from 1, where the image is of a multi-frame object; else None.
        modality: (0008,0060), empty where it is none.
        instance_number: (0020,0013), 1 where there is none.
        taken: date and time of acquisition, as far as known, ``YYYYMMDD`` and ``HHMMSS…`` or empty.
        utc_offset: of all dates and times; None where the image does not say.
    """

    sop_class_uid: str
    sop_instance_uid: str
    series_uid: str
    study_uid: str
    frame: int | None
    modality: str
    instance_number: int
    taken: tuple[str, str]
    utc_offset: timezone | None


def source_image(source: Dataset) -> SourceImage:
    """What is to be known of ``source``, its header.

    Raises:
        ImageRefused: one of its UIDs is missing, or none.
    """
    with quiet():
        uids = [_text(source, keyword) for keyword in _UIDS]
        for keyword, uid in zip(_UIDS, uids, strict=True):
            if not _UID.fullmatch(uid):
                raise ImageRefused(f"the image has no valid {keyword}, so that no result can refer to it; correct it")
        number = _text(source, "InstanceNumber")
        return SourceImage(
            *(uids[0], uids[1], uids[2], uids[3]),
            frame=1 if uids[0] in _MULTI_FRAME else None,
            modality=_text(source, "Modality"),
            instance_number=int(number) if re.fullmatch(r"[0-9]{1,9}", number) else 1,
            taken=_taken(source),
            utc_offset=_utc_offset(_text(source, "TimezoneOffsetFromUTC")),
        )


def copied_study(source: Dataset, *, utf_8: bool) -> Dataset:
    """Patient and study of ``source`` in a data set of their own, with Specific Character Set and study UID.

    Args:
        source: header of the image.
        utf_8: write text as ISO_IR 192, rather than in the image's character set.

    Raises:
        ImageRefused: text that its character set does not explain, an unknown character set, or an identifying
            attribute of more than 1,000 characters.
    """
    from pydicom import Dataset

    copied = Dataset()
    with quiet():
        terms = _character_set(source)
        if utf_8:
            copied.SpecificCharacterSet = UTF_8
        elif terms:
            copied.SpecificCharacterSet = terms if len(terms) > 1 else terms[0]
        for keyword in (*_REQUIRED, *_OPTIONAL):
            element = _copied_element(source, keyword)
            if element is not None:
                copied.add(element)
            elif keyword in _REQUIRED:
                setattr(copied, keyword, "")
        _settle(copied)
        copied.StudyInstanceUID = _text(source, "StudyInstanceUID")
        if utf_8 and not terms and any(not str(element.value).isascii() for element in copied.iterall()):
            raise ImageRefused("the image has text beyond ASCII and names no character set (0008,0005); correct it")
    return copied


def copied_requests(source: Dataset, study: Dataset) -> list[Dataset]:
    """Items of Referenced Request Sequence (C.17.2), from it or from the image's Request Attributes Sequence.

    Args:
        source: header of the image.
        study: what `copied_study` made of it.
    """
    with quiet():
        return [_completed(request, study) for request in _requests(source, study)]


def source_procedures(source: Dataset) -> tuple[Code, ...]:
    """Codes of Procedure Code Sequence (0008,1032) that are whole and of one line."""
    with quiet():
        sequence = _copied_element(source, "ProcedureCodeSequence")
        items = [] if sequence is None else sequence.value
        texts = [[str(item.get(keyword, "")) for keyword in _OF_CODE] for item in items]
    return tuple(Code(*text) for text in texts if all(part and part == one_line(part) for part in text))


def copied_value(source: Dataset, keyword: str) -> str:
    """One attribute of one value of ``source``; empty where it is missing, invalid, or of no named character set."""
    with quiet():
        element = _copied_element(source, keyword)
        value = "" if element is None else element.value
        is_known = isinstance(value, str) and (value.isascii() or _character_set(source))
        return value if is_known else ""


def _text(source: Dataset, keyword: str) -> str:
    """Value of an attribute as text; empty where there is none, or it cannot be read."""
    try:
        value = source.get(keyword)
    except Exception:  # noqa: BLE001 - a damaged value may raise anything inside pydicom
        return ""
    return "" if value is None else str(value).strip(" \0")


def _character_set(source: Dataset) -> list[str]:
    """Terms of (0008,0005), with the spelling that PS3.3 C.12.1.1.2 gives them; empty where there are none."""
    from pydicom.charset import python_encoding

    value = source.get("SpecificCharacterSet")
    terms = [] if value in (None, "") else [value] if isinstance(value, str) else list(value)
    terms = [re.sub(r"^ISO[ _-]IR[ _-]", "ISO_IR ", str(term).strip(" \0")) for term in terms]
    unknown = [term for term in terms if term not in python_encoding]
    if unknown or len(terms) > 8:
        raise ImageRefused("the image names a character set (0008,0005) that DICOM does not know; correct it")
    return terms if any(terms) else []


def _copied_element(source: Dataset, keyword: str, depth: int = 0) -> DataElement | None:
    """An attribute as it may be copied; None where there is none, or it is not of its value representation."""
    from pydicom import DataElement, config
    from pydicom.datadict import dictionary_VR, tag_for_keyword

    tag = tag_for_keyword(keyword)
    if tag is None or tag not in source:
        return None
    vr = dictionary_VR(tag)
    try:
        element = source[tag]
        value = element.value
    except Exception:  # noqa: BLE001 - a damaged value may raise anything inside pydicom
        return None
    if value is None or (element.VR == "SQ") != (vr == "SQ"):
        return None
    if vr == "SQ":
        return DataElement(tag, vr, _copied_items(value, depth)) if len(value) <= _MOST_ITEMS else None
    _check_text(value, vr, keyword)
    if keyword in _IDENTIFYING or vr == "PN" or _is_valid(value, vr):
        return DataElement(tag, vr, value, validation_mode=config.IGNORE)
    return None


def _copied_items(items: Any, depth: int) -> list[Dataset]:
    from pydicom import Dataset
    from pydicom.datadict import keyword_for_tag

    copies: list[Dataset] = []
    for item in [] if depth >= _DEEPEST else items:
        copy = Dataset()
        for tag in sorted(item.keys()):
            keyword = "" if tag.is_private else keyword_for_tag(tag)
            if keyword and keyword != "SpecificCharacterSet":
                element = _copied_element(item, keyword, depth + 1)
                if element is not None:
                    copy.add(element)
        copies.append(copy)
    return copies


def _check_text(value: Any, vr: str, keyword: str) -> None:
    """Refuse text that was decoded with replacement characters, and an identity that is no text or longer than any."""
    from pydicom.multival import MultiValue
    from pydicom.valuerep import PersonName

    parts = value if isinstance(value, MultiValue) else [value]
    if (keyword in _IDENTIFYING or vr == "PN") and not all(isinstance(part, str | PersonName) for part in parts):
        raise ImageRefused(f"the image's {keyword} is not of its value representation; correct it")
    if vr in _TEXT and "\ufffd" in str(value):
        raise ImageRefused("the image's text is not of the character set that it names (0008,0005); correct it")
    if (keyword in _IDENTIFYING or vr == "PN") and len(str(value)) > _LONGEST_IDENTITY:
        raise ImageRefused(f"{keyword} of the image has more than {_LONGEST_IDENTITY} characters; correct it")


def _is_valid(value: Any, vr: str) -> bool:
    from pydicom import config
    from pydicom.multival import MultiValue
    from pydicom.valuerep import validate_value

    for one in value if isinstance(value, MultiValue) else [value]:
        plain = str(getattr(one, "original_string", one)) if vr in ("DS", "IS", "DA", "TM", "DT") else one
        if isinstance(plain, bytes):
            return False
        try:
            validate_value(vr, plain, config.RAISE)
            if vr == "DA" and plain:
                datetime.strptime(plain, "%Y%m%d")
        except (ValueError, TypeError):
            return False
    return True


def _settle(copied: Dataset) -> None:
    """Enumerated values that PS3.3 knows nothing else than."""
    if copied.PatientSex not in ("M", "F", "O"):
        copied.PatientSex = ""
    if _utc_offset(str(copied.get("TimezoneOffsetFromUTC", ""))) is None and "TimezoneOffsetFromUTC" in copied:
        del copied.TimezoneOffsetFromUTC
    if copied.get("PatientIdentityRemoved") == "YES" and not (
        copied.get("DeidentificationMethod") or copied.get("DeidentificationMethodCodeSequence")
    ):
        del copied.PatientIdentityRemoved  # only valid with the method


def _requests(source: Dataset, study: Dataset) -> list[Dataset]:
    from pydicom import Dataset

    own = _copied_element(source, "ReferencedRequestSequence")
    attributes = _copied_element(source, "RequestAttributesSequence")
    if own is not None and own.value:
        return list(own.value)
    requests = []
    for item in [] if attributes is None else attributes.value:
        request = Dataset()
        for keyword in ("RequestedProcedureID", "RequestedProcedureDescription", "RequestedProcedureCodeSequence"):
            if keyword in item:
                request[keyword] = item[keyword]
        request.AccessionNumber = item.get("AccessionNumber") or study.AccessionNumber
        requests.append(request)
    return requests


def _completed(request: Dataset, study: Dataset) -> Dataset:
    """``request`` with what an item must have, empty where it is not known."""
    request.StudyInstanceUID = request.get("StudyInstanceUID") or study.StudyInstanceUID
    for keyword in _OF_REQUEST:
        if keyword not in request:
            setattr(request, keyword, [] if keyword.endswith("Sequence") else "")
    return request


def _taken(source: Dataset) -> tuple[str, str]:
    for event in ("Acquisition", "Content", "Study"):
        date = _copied_element(source, f"{event}Date")
        if date is not None and date.value:
            time = _copied_element(source, f"{event}Time")
            return str(date.value), "" if time is None else str(time.value)
    return "", ""


def _utc_offset(text: str) -> timezone | None:
    match = _OFFSET.fullmatch(text)
    if match is None or int(match[2]) > 14:
        return None
    offset = timedelta(hours=int(match[2]), minutes=int(match[3]))
    return timezone(-offset if match[1] == "-" else offset)
