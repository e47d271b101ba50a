"""`Assessment`: one prediction with all that its objects say in common: image, findings as codes, remarks, identity."""

from __future__ import annotations

import dataclasses
import functools
from datetime import datetime, timezone
from typing import TYPE_CHECKING

import msgspec

from medfm_compress import __version__
from medfm_compress.runtime.node.config import ResultsConfig
from medfm_compress.runtime.node.results.codes import (
    ANOMALY_SCORE,
    PROBABILITY,
    Code,
    finding_code,
    one_line,
    shortened,
)
from medfm_compress.runtime.node.results.source_study import (
    SourceImage,
    copied_study,
    copied_value,
    source_image,
    source_procedures,
)
from medfm_compress.runtime.node.results.uids import make_uid
from medfm_compress.runtime.prediction import Prediction
from medfm_compress.runtime.remarks import FLAGS, RESEARCH

if TYPE_CHECKING:
    from pydicom import Dataset

    from medfm_compress.runtime.engine import Engine

MODEL_NAME = "medfm-compress node"


class ReadBy(msgspec.Struct, frozen=True, kw_only=True):
    """The network behind a prediction, beyond what the prediction itself says.

    Attributes:
        name: of the bundle.
        release: of the bundle, 0 for none.
        thresholds: finding → the probability from which it is called; those without an operating point are absent.
    """

    name: str
    release: int = 0
    thresholds: dict[str, float] = {}

    @classmethod
    def of(cls, engine: Engine) -> ReadBy:
        """That of an open engine."""
        return cls(
            name=engine.manifest.name,
            release=engine.manifest.release_number,
            thresholds={point.label: point.threshold for point in engine.task.operating_points},
        )


@dataclasses.dataclass(frozen=True)
class CodedFinding:
    """A finding of a prediction.

    Attributes:
        name: of the bundle's label.
        probability: in [0, 1]; of an anomaly a score, see `measure`.
        called: whether it is above its operating point; None where it has none.
        threshold: the operating point; None for none.
        measure: what the number is, `PROBABILITY` or `ANOMALY_SCORE`.
    """

    name: str
    code: Code
    probability: float
    called: bool | None
    threshold: float | None
    measure: Code = PROBABILITY

    @property
    def measure_word(self) -> str:
        """``probability`` or ``anomaly score``."""
        return "probability" if self.measure == PROBABILITY else "anomaly score"

    @property
    def operating_point(self) -> str:
        """As a sentence."""
        if self.threshold is None:
            return "operating point: none, so that it is neither called nor excluded"
        return f"operating point: {self.measure_word} >= {self.threshold:.6g}"


@dataclasses.dataclass(frozen=True)
class Assessment:
    """What the objects of one prediction have in common.

    Attributes:
        header: of the image.
        study: patient and study of the image, to be copied into each object.
        findings: in the bundle's order; empty where none is given.
        procedures: that the study was, by its codes; or just an imaging procedure.
        not_assessed: why none is given, as a sentence; else empty.
        remarks: sentences that belong to every rendering, the mark of research first.
        made_at: date and time of the content, in the image's time zone or this machine's.
    """

    header: Dataset
    image: SourceImage
    study: Dataset
    findings: tuple[CodedFinding, ...]
    procedures: tuple[Code, ...]
    not_assessed: str
    remarks: tuple[str, ...]
    prediction: Prediction
    read_by: ReadBy
    config: ResultsConfig
    made_at: datetime

    @property
    def is_research(self) -> bool:
        """Whether its objects are marked as not for clinical use."""
        return self.config.status == "research"

    @property
    def algorithm_version(self) -> str:
        """The bundle's release, or what its digest begins with."""
        return f"release {self.read_by.release}" if self.read_by.release else self.prediction.model_digest[:16]

    @property
    def parameters(self) -> tuple[str, ...]:
        """What TID 4019 calls the algorithm's parameters; the mark of research, so that it stands by each finding."""
        mark = (f"status: {RESEARCH.lower()}",) if self.is_research else ()
        return (*mark, f"model digest: {self.prediction.model_digest}", f"variant: {self.prediction.variant}")

    @property
    def institution(self) -> str:
        """Where the result is made."""
        return one_line(self.config.institution) or copied_value(self.header, "InstitutionName")

    @property
    def device_uid(self) -> str:
        """Of this node; another wherever manufacturer or serial number is another."""
        return make_uid(self.config.uid_root, "device", self.config.manufacturer, self.config.device_serial_number)

    def uid(self, kind: str, *parts: str) -> str:
        """UID of something made of this image by this network on this node, as configured.

        Neither time nor figures go into it: they follow from the rest, and where a repeat rounds them in another way
        it is still the same object.
        """
        return make_uid(self.config.uid_root, kind, self.image.sop_instance_uid, *self._identity, *parts)

    def series_uid(self, kind: str) -> str:
        """UID of the series of all that is made likewise of the images of one study."""
        return make_uid(self.config.uid_root, "series", kind, *self._identity)

    @functools.cached_property
    def _identity(self) -> tuple[str, ...]:
        return (
            self.prediction.model_digest,
            self.prediction.variant,
            __version__,
            msgspec.json.encode((self.config, self.read_by), order="sorted").decode(),
            self.study.to_json(),
        )


def assess(
    header: Dataset, prediction: Prediction, read_by: ReadBy, config: ResultsConfig, received_at: float
) -> Assessment:
    """`Assessment` of ``prediction``.

    Args:
        header: of the image; its pixels are not looked at.
        prediction: of this image.
        read_by: the network.
        config: how results are made.
        received_at: when the image arrived, seconds since 1970, UTC: the time of the content, also of a repeat.

    Raises:
        ImageRefused: no result can refer to the image, or its text cannot be decoded.
    """
    image = source_image(header)
    findings = tuple(
        CodedFinding(
            name=name,
            code=finding_code(name, config.findings.get(name)),
            probability=probability,
            called=prediction.findings.get(name),
            threshold=read_by.thresholds.get(name),
            measure=ANOMALY_SCORE if prediction.is_score else PROBABILITY,
        )
        for name, probability in prediction.probabilities.items()
    )
    not_assessed = "" if findings else shortened(prediction.not_reliable or "no reason was given", 1000)
    remarks = _remarks(prediction, config, not_assessed)
    own_text = (config.manufacturer, config.institution, config.device_serial_number, read_by.name, prediction.variant)
    procedures = source_procedures(header) or (Code("363679005", "SCT", "Imaging procedure"),)
    codes = [finding.code for finding in findings] + list(procedures)
    texts = (*own_text, *remarks, *(finding.name for finding in findings), *(text for code in codes for text in code))
    return Assessment(
        header=header,
        image=image,
        study=copied_study(header, utf_8=not all(text.isascii() for text in texts)),
        findings=findings,
        procedures=procedures,
        not_assessed=not_assessed,
        remarks=remarks,
        prediction=prediction,
        read_by=read_by,
        config=config,
        made_at=_local(received_at, image),
    )


def _remarks(prediction: Prediction, config: ResultsConfig, not_assessed: str) -> tuple[str, ...]:
    remarks = [f"{RESEARCH}."] if config.status == "research" else []
    if not_assessed:
        remarks.append(f"Not assessed: {not_assessed}")
    if prediction.label is not None:
        remarks.append(f"Most probable class: {one_line(prediction.label)}")
    for flag in prediction.flags:
        remarks.append(f"Remark {flag}: {FLAGS[flag]}" if flag in FLAGS else f"Remark {one_line(flag)}")
    if prediction.is_score:
        remarks.append("The score says how unlike normal training images the image is; it is no probability of disease")
    if prediction.nearest:
        remarks.append(f"Most like the training image with SHA-256 {prediction.nearest[0]}")
    if prediction.typicality is not None:
        remarks.append(f"Typicality of the image: {prediction.typicality:.3g}")
    if prediction.intended_use:
        remarks.append(f"Intended use: {shortened(prediction.intended_use, 1000)}")
    return tuple(remarks)


def _local(seconds: float, image: SourceImage) -> datetime:
    moment = datetime.fromtimestamp(int(seconds), timezone.utc)
    return moment.astimezone(image.utc_offset)
