"""Which attributes may stand for a column, and what is read of them."""

from __future__ import annotations

import numpy as np
import pytest
from msgspec.structs import replace

from medfm_compress.runtime.columns import NumericColumn
from medfm_compress.runtime.dicom.attributes import check_attributes, read_attributes
from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.read_image import read_image
from tests.helpers.tiny_columns import AGE, COLUMNS, SEX, VIEW

STORED = np.full((8, 8), 7, np.uint16)


def test_ages_codes_and_numbers_may_be_read() -> None:
    check_attributes(
        [
            *COLUMNS,
            NumericColumn(name="kvp", unit="kV", minimum=20, maximum=150, mean=80, dicom="KVP"),
            replace(AGE, name="months", unit="months", dicom="PatientAge"),
            replace(SEX, dicom="", codes={}),
        ]
    )


@pytest.mark.parametrize(
    "keyword",
    ["PatientName", "PatientID", "PatientBirthDate", "AccessionNumber", "StudyInstanceUID", "StudyDescription"],
)
def test_what_names_or_tells_freely_is_of_no_fitting_kind(keyword: str) -> None:
    for column in (AGE, VIEW):
        with pytest.raises(InputError, match=r"may identify|may be read"):
            check_attributes([replace(column, dicom=keyword)])


@pytest.mark.parametrize("keyword", ["SeriesNumber", "InstanceNumber", "NumberOfFrames", "IsotopeNumber"])
def test_numbers_that_count_or_identify(keyword: str) -> None:
    with pytest.raises(InputError, match="may identify"):
        check_attributes([replace(AGE, dicom=keyword)])


def test_no_attribute_of_any_name_or_identifier_is_allowed() -> None:
    from pydicom.datadict import DicomDictionary

    for _, _, _, _, keyword in DicomDictionary.values():
        if any(part in keyword for part in ("PatientID", "Name", "BirthDate", "SerialNumber", "Accession", "UID")):
            for column in (AGE, VIEW):
                with pytest.raises(InputError):
                    check_attributes([replace(column, dicom=keyword)])


@pytest.mark.parametrize(
    ("column", "reason"),
    [
        (replace(AGE, dicom="PatientsAge"), "no DICOM keyword; do you mean 'PatientAge'"),
        (replace(AGE, unit="decades"), "days, weeks, months, years"),
        (replace(AGE, dicom="PatientSize", unit="cm"), "PatientSize is in 'm'"),
        (replace(AGE, dicom="PatientSex"), "CS .* not a number"),
        (replace(VIEW, dicom="PatientAge"), "AS .* not a code"),
        (replace(SEX, codes={}), "says F, M, O: no file would be taken"),
    ],
)
def test_kinds_units_and_codes_that_do_not_fit(column: object, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        check_attributes([column])  # type: ignore[list-item]


def test_only_what_is_asked_for_is_read(make_dicom, dicom_bytes) -> None:
    ds = make_dicom(STORED, PatientAge="063Y", PatientSex="F ", ViewPosition="", PatientWeight="70.5")
    for source in (ds, dicom_bytes(ds)):
        wanted = ["PatientAge", "PatientSex", "ViewPosition", "PatientWeight", "PatientSize"]
        read = read_image(source, attributes=wanted).attributes
        assert read == {"PatientAge": "063Y", "PatientSex": "F", "PatientWeight": "70.5"}
        assert read_image(source).attributes == {}


def test_binary_numbers_and_several_values(make_dicom) -> None:
    ds = make_dicom(STORED, ExposureTimeInms=2.25, ViewPosition=["AP", "PA"], PatientWeight=[1, 2])
    read = read_attributes(ds, ["ExposureTimeInms", "ViewPosition", "PatientWeight"])
    assert read == {"ExposureTimeInms": "2.25", "ViewPosition": "AP\\PA", "PatientWeight": "1.0\\2.0"}


def test_a_raster_image_has_none() -> None:
    assert read_image(STORED, attributes=["PatientAge"]).attributes == {}
