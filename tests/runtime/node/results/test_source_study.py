"""Patient and study are copied as they stand, odd ones too; what cannot be told is refused; nothing is invented."""

from __future__ import annotations

import io

import numpy as np
import pydicom
import pytest
from msgspec.structs import replace
from node_results import CONFIG, PREDICTION, altered, heat, made, read, synthetic
from pydicom import Dataset

from medfm_compress.runtime.errors import ImageRefused

ASCII = replace(PREDICTION, probabilities={"Pneumonia": 0.9}, findings={"Pneumonia": True})


def code(value, scheme, meaning):
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def raw(item, tag):
    """The bytes of an attribute as they stand in the file."""
    return pydicom.dcmread(io.BytesIO(item.content)).get_item(tag).value


def test_the_modules_are_copied_and_nothing_is_invented(complaints) -> None:
    issuer = Dataset()
    issuer.UniversalEntityID, issuer.UniversalEntityIDType = "1.2.3", "ISO"
    accession = Dataset()
    accession.LocalNamespaceEntityID = "RIS"
    source = synthetic(
        IssuerOfPatientID="Hospital A",
        IssuerOfPatientIDQualifiersSequence=[issuer],
        AccessionNumber="A-1",
        IssuerOfAccessionNumberSequence=[accession],
        StudyID="S1",
        StudyDescription="Thorax",
        PatientComments="of the patient",
        ProcedureCodeSequence=[code("399208008", "SCT", "Plain chest X-ray")],
    )
    for item in made(source, heat_map=heat()).values():
        if item.kind == "fhir":
            continue
        ds = read(item)
        assert complaints(item) == []
        for keyword in ("PatientName", "PatientID", "PatientSex", "PatientAge", "IssuerOfPatientID", "AccessionNumber"):
            assert ds[keyword].value == source[keyword].value
        for keyword in ("StudyInstanceUID", "StudyID", "StudyDate", "StudyTime", "StudyDescription", "PatientComments"):
            assert ds[keyword].value == source[keyword].value
        for keyword in (
            "IssuerOfPatientIDQualifiersSequence",
            "IssuerOfAccessionNumberSequence",
            "ProcedureCodeSequence",
        ):
            assert ds[keyword].value == source[keyword].value
        assert ds.PatientBirthDate == "" and "PatientWeight" not in ds and ds.InstitutionName == "north"


def test_the_procedure_reported_is_that_of_the_study() -> None:
    source = synthetic(ProcedureCodeSequence=[code("399208008", "SCT", "Plain chest X-ray")])
    for header, expected in ((source, "399208008"), (synthetic(), "363679005")):
        values = [
            item.ConceptCodeSequence[0].CodeValue
            for item in read(made(header)["sr"]).ContentSequence
            if item.get("ValueType") == "CODE" and item.ConceptNameCodeSequence[0].CodeMeaning == "Procedure reported"
        ]
        assert values == [expected]


def test_a_request_is_referred_to(complaints) -> None:
    request = Dataset()
    request.RequestedProcedureID, request.ScheduledProcedureStepID = "RP1", "SPS1"
    item = made(synthetic(RequestAttributesSequence=[request], AccessionNumber="A-1"))["sr"]
    (reference,) = read(item).ReferencedRequestSequence
    assert (reference.RequestedProcedureID, reference.AccessionNumber) == ("RP1", "A-1")
    assert reference.StudyInstanceUID == synthetic().StudyInstanceUID and complaints(item) == []
    assert "ReferencedRequestSequence" not in read(made(synthetic())["sr"])


JAPANESE = b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B=\x1b$B$d$^$@\x1b(B^\x1b$B$?$m$&\x1b(B"


@pytest.mark.parametrize(
    ("terms", "name"),
    [
        (b"", b"Smith^John"),
        (b"ISO_IR 100", b"M\xfcller^J\xf6rg"),
        (b"ISO_IR 144", b"\xbb\xee\xda\xd5\xdc\xd1\xe3\xe0\xd3"),
        (b"ISO_IR 192", "Wang^XiaoDong=王^小东".encode()),
        (b"GB18030", "Wang^XiaoDong=王^小东".encode("gb18030")),
        (b"\\ISO 2022 IR 87", JAPANESE),
    ],
)
def test_names_keep_their_character_set_and_their_bytes(terms, name, complaints) -> None:
    source = altered(altered(synthetic(), 0x00080005, "CS", terms), 0x00100010, "PN", name)
    item = made(source, ASCII)["sr"]
    assert raw(item, 0x00100010).rstrip(b" ") == name
    declared = read(item).get("SpecificCharacterSet", "")
    assert (declared if isinstance(declared, str) else "\\".join(declared)) == terms.decode()
    assert complaints(item) == []


@pytest.mark.parametrize(
    ("terms", "name", "expected"),
    [
        (b"ISO_IR 100", b"M\xfcller^J\xf6rg", "Müller^Jörg"),
        (b"ISO-IR 100", b"M\xfcller^J\xf6rg", "Müller^Jörg"),
        (b"\\ISO 2022 IR 87", JAPANESE, "Yamada^Tarou=山田^太郎=やまだ^たろう"),
        (b"GB18030", "王^小东".encode("gb18030"), "王^小东"),
    ],
)
def test_findings_beyond_ascii_turn_the_report_into_utf_8(terms, name, expected) -> None:
    source = altered(altered(synthetic(), 0x00080005, "CS", terms), 0x00100010, "PN", name)
    ds = read(made(source)["sr"])
    assert ds.SpecificCharacterSet == "ISO_IR 192" and str(ds.PatientName) == expected


@pytest.mark.parametrize(
    ("terms", "name"),
    [
        (b"ISO_IR 192", b"M\xfcller"),  # Latin-1 that calls itself UTF-8
        (b"ISO_IR 999", b"Smith"),
        (b"utf8", b"Smith"),
        (b"GB18030", b"\xff\xff"),
    ],
)
@pytest.mark.parametrize("prediction", [ASCII, PREDICTION], ids=["ascii", "beyond"])
def test_a_character_set_that_cannot_be_decoded_is_refused(terms, name, prediction) -> None:
    source = altered(altered(synthetic(), 0x00080005, "CS", terms), 0x00100010, "PN", name)
    with pytest.raises(ImageRefused, match=r"character set") as refused:
        made(source, prediction)
    assert "ller" not in str(refused.value) and "Smith" not in str(refused.value)


def test_text_of_no_declared_character_set_is_copied_but_not_guessed() -> None:
    source = altered(synthetic(), 0x00100010, "PN", b"M\xfcller^J")
    assert raw(made(source, ASCII)["sr"], 0x00100010).rstrip() == b"M\xfcller^J"
    with pytest.raises(ImageRefused, match="names no character set"):
        made(source, PREDICTION)


@pytest.mark.parametrize("keyword", ["StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID"])
def test_an_image_that_nothing_can_refer_to_is_refused(keyword: str) -> None:
    with pytest.raises(ImageRefused, match=keyword):
        made(synthetic(**{keyword: None}))
    for value in (b"", b"not a uid", b"1." * 40):
        tag = pydicom.datadict.tag_for_keyword(keyword)
        with pytest.raises(ImageRefused, match=keyword):
            made(altered(synthetic(), tag, "UI", value))


def test_uids_of_64_characters_are_kept(complaints) -> None:
    uid = "1.2." + "3" * 60
    item = made(synthetic(StudyInstanceUID=uid, SOPInstanceUID=uid[:-1] + "4"), heat_map=heat())["sr"]
    assert read(item).StudyInstanceUID == uid and complaints(item) == []


@pytest.mark.parametrize(
    "keyword", ["PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyID"]
)
def test_what_is_missing_stays_empty(keyword: str, complaints) -> None:
    item = made(synthetic(**{keyword: None}))["sr"]
    assert read(item)[keyword].value in ("", None) and complaints(item) == []


@pytest.mark.parametrize(
    ("tag", "vr", "value"),
    [
        (0x00080020, "DA", b"2020.01.02"),
        (0x00080020, "DA", b"20201399"),
        (0x00080030, "TM", b"noon"),
        (0x00100030, "DA", b"unknown "),
        (0x00100040, "CS", b"Male"),
        (0x00101010, "AS", b"sixty"),
        (0x00101030, "DS", b"heavy "),
        (0x00080201, "SH", b"+9900 "),
        (0x00081030, "LO", b"a very long description " * 20),
        (0x00120062, "CS", b"YES "),
    ],
)
def test_what_is_no_value_of_its_kind_is_left_out(tag, vr, value, complaints) -> None:
    for item in made(altered(synthetic(), tag, vr, value), heat_map=heat()).values():
        if item.kind != "fhir":
            assert complaints(item) == []
            assert value.strip() not in item.content
        else:
            assert value.strip() not in item.content


@pytest.mark.parametrize(
    ("tag", "vr", "value"),
    [
        (0x00100020, "LO", b"9" * 200),
        (0x00100020, "LO", b"A\\B "),
        (0x00080050, "SH", b"x" * 40),
        (0x00100010, "PN", b"One^Two^Three^Four^Five^Six^Seven"),
        (0x00100010, "PN", b"n" * 200),
    ],
)
def test_identity_is_copied_however_odd(tag, vr, value) -> None:
    assert raw(made(altered(synthetic(), tag, vr, value))["sr"], tag).rstrip() == value.rstrip()


def test_an_identity_longer_than_any_is_refused() -> None:
    with pytest.raises(ImageRefused, match="PatientID of the image has more than"):
        made(altered(synthetic(), 0x00100020, "LO", b"9" * 70_000))


def test_private_attributes_and_deep_sequences_do_not_come_along() -> None:
    source = synthetic()
    block = source.private_block(0x0011, "ACME", create=True)
    block.add_new(0x01, "LO", "secret of a vendor")
    inner = code("1", "99A", "leaf")
    for _ in range(30):
        outer = code("1", "99A", "level")
        outer.EquivalentCodeSequence = [inner]
        inner = outer
    nested = code("399208008", "SCT", "Plain chest X-ray")
    nested.EquivalentCodeSequence = [inner]
    nested.private_block(0x0011, "ACME", create=True).add_new(0x02, "LO", "another secret")
    source.ProcedureCodeSequence = [nested]
    for item in made(source, heat_map=heat()).values():
        assert b"secret" not in item.content and b"ACME" not in item.content and b"leaf" not in item.content


def test_a_sequence_of_more_items_than_any_study_has_is_left_out() -> None:
    source = synthetic(ProcedureCodeSequence=[code(str(number), "99A", "procedure") for number in range(101)])
    assert "ProcedureCodeSequence" not in read(made(source)["sr"])


def test_the_institution_is_the_images_unless_another_is_configured() -> None:
    assert read(made(synthetic())["sr"]).InstitutionName == "north"
    configured = replace(CONFIG, institution="Praxis Süd")
    ds = read(made(synthetic(), config=configured)["sr"])
    assert (ds.InstitutionName, ds.SpecificCharacterSet) == ("Praxis Süd", "ISO_IR 192")
    for value in (b"A\\B ", b"K\xf6ln"):  # two values; no character set
        assert "InstitutionName" not in read(made(altered(synthetic(), 0x00080080, "LO", value))["sr"])


def test_headers_of_noise_are_refused_or_give_valid_objects(complaints) -> None:
    """Errors that remain are of identity, which is copied however odd."""
    generator, refusals, valid = np.random.default_rng(0), 0, 0
    for _ in range(200):
        source = synthetic(int(generator.integers(2)))
        tags = [element.tag for element in source if element.VR != "SQ" and element.tag != 0x7FE00010]
        for position in generator.choice(len(tags), 4, replace=False):
            noise = generator.bytes(2 * int(generator.integers(0, 20)))
            altered(source, tags[position], source[tags[position]].VR, noise)
        try:
            objects = made(source, heat_map=heat())
        except ImageRefused:
            refusals += 1
            continue
        if valid % 10 == 0:
            errors = complaints(objects["sr"]) + complaints(objects["sc"])
            assert all(any(name in error for name in IDENTITY) for error in errors), errors
        valid += 1
    assert refusals > 20 and valid > 20


IDENTITY = ("PatientName", "PatientID", "AccessionNumber", "StudyID", "PhysicianName", "UID")
