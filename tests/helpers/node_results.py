"""A header, a prediction of it, and the node's results of both; for the tests of the node."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pydicom
from msgspec.structs import replace
from pydicom import Dataset
from pydicom.charset import convert_encodings
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag

from medfm_compress.data.synthetic_dicom import SITES, Subject, dicom_bytes
from medfm_compress.runtime.heat_map import HeatMap
from medfm_compress.runtime.images.quiet_decoders import quiet
from medfm_compress.runtime.node.config import CodeConfig, ResultsConfig
from medfm_compress.runtime.node.results.assessment import ReadBy
from medfm_compress.runtime.node.results.results import Results
from medfm_compress.runtime.node.spool.records import ResultObject
from medfm_compress.runtime.prediction import Prediction

_CHARACTER_SET = 0x00080005
ARRIVED = 1_700_000_000.0  # 2023-11-14 22:13:20 UTC
FINDINGS = {"Pneumonia": (0.931234, True), "Erguß": (0.04, False), "nodule \\ mass": (0.25, None)}
PREDICTION = Prediction(
    probabilities={name: probability for name, (probability, _) in FINDINGS.items()},
    findings={name: called for name, (_, called) in FINDINGS.items()},
    label=None,
    flags=("lossy-compressed", "unsigned-bundle"),
    variant="onnxruntime-cpu-int8",
    model_digest="0123456789abcdef" * 4,
    intended_use="tests only",
    elapsed_ms=12.5,
    typicality=0.4,
)
WITHHELD = replace(PREDICTION, probabilities={}, findings={}, not_reliable="unlike the cases", flags=("not-reliable",))
READ_BY = ReadBy(name="chest", release=7, thresholds={"Pneumonia": 0.5, "Erguß": 0.3})
CONFIG = ResultsConfig(findings={"Pneumonia": CodeConfig(value="233604007", scheme="SCT", meaning="Pneumonia")})


def synthetic(site: int = 0, **attributes: Any) -> Dataset:
    """A synthetic radiograph, with ``attributes`` set and those that are None taken away."""
    subject = Subject(study_key="results/1/1", patient="P001", sex="F", age=61, number=3)
    density = np.random.default_rng(0).random((64, 64)).astype(np.float32)
    ds = pydicom.dcmread(io.BytesIO(dicom_bytes(density, SITES[site], subject, 1.0)))
    for keyword, value in attributes.items():
        if value is None:
            delattr(ds, keyword)
        else:
            setattr(ds, keyword, value)
    return ds


def altered(ds: Dataset, tag: int, vr: str, value: bytes) -> Dataset:
    """``ds`` as read from a file in which an attribute has the bytes ``value``, whatever they are."""
    ds[tag] = RawDataElement(Tag(tag), vr, len(value), value, 0, False, True)
    if tag == _CHARACTER_SET:
        with quiet():
            terms = convert_encodings(value.decode("ascii").split("\\"))
        ds.set_original_encoding(*ds.original_encoding, terms)
    return ds


def heat() -> HeatMap:
    y, x = np.mgrid[:32, :32]
    evidence = (np.exp(-((x - 8) ** 2 + (y - 20) ** 2) / 30) - 0.1).astype(np.float32)
    return HeatMap("Pneumonia", evidence, np.full((32, 32, 3), 100, np.uint8))


def made(
    header: Dataset,
    prediction: Prediction = PREDICTION,
    config: ResultsConfig = CONFIG,
    *,
    heat_map: HeatMap | None = None,
) -> dict[str, ResultObject]:
    """The objects of ``header`` by their kind."""
    objects = Results(config, pacs=["archive"], fhir=["records"]).make_objects(
        header, prediction, READ_BY, received_at=ARRIVED, heat_map=heat_map
    )
    return {item.kind: item for item in objects}


def read(item: ResultObject) -> Dataset:
    return pydicom.dcmread(io.BytesIO(item.content))
