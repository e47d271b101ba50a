"""`Results`: the objects that a node makes of a prediction, for the destinations that get them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from medfm_compress.runtime.heat_map import HeatMap
from medfm_compress.runtime.node.config import ResultsConfig
from medfm_compress.runtime.node.results import secondary_capture as capture
from medfm_compress.runtime.node.results import segmentation_object as segmentation
from medfm_compress.runtime.node.results import structured_report as report
from medfm_compress.runtime.node.results.assessment import ReadBy, assess
from medfm_compress.runtime.node.results.fhir_report import fhir_report, report_uid
from medfm_compress.runtime.node.spool.records import ObjectKind, ResultObject

if TYPE_CHECKING:
    from pydicom import Dataset

    from medfm_compress.runtime.prediction import Prediction

_log = logging.getLogger(__name__)


class Results:
    """Makes objects; without state, and safe to use from several threads.

    An image whose finding is withheld gets a report that says so. One that the engine refused gets none: it is not
    what the network reads, and stands in quarantine.
    """

    def __init__(self, config: ResultsConfig, pacs: Sequence[str], fhir: Sequence[str]) -> None:
        """Make objects as ``config`` says.

        Args:
            config: which objects, and as whose.
            pacs: names of the destinations of DICOM objects.
            fhir: names of the destinations of FHIR reports.
        """
        self._config, self._pacs, self._fhir = config, tuple(pacs), tuple(fhir)

    def make_objects(
        self,
        header: Dataset,
        prediction: Prediction,
        read_by: ReadBy,
        *,
        received_at: float,
        heat_map: HeatMap | None = None,
    ) -> tuple[ResultObject, ...]:
        """The objects of one image; equal arguments give equal bytes.

        Args:
            header: the image's data set; its pixels are not looked at.
            prediction: of this image.
            read_by: the network that gave it.
            received_at: when the image arrived, seconds since 1970, UTC; the time of the content.
            heat_map: to be shown in a secondary capture.

        Raises:
            ImageRefused: the image lacks a UID, so that nothing can refer to it, or its text cannot be decoded.
        """
        assessment = assess(header, prediction, read_by, self._config, received_at)
        objects = []
        if self._pacs and self._config.sr:
            objects.append(
                self._dicom("sr", report.SOP_CLASS_UID, assessment.uid("sr"), report.structured_report(assessment))
            )
        if self._pacs and self._config.seg and prediction.segmentation is not None:
            reason = segmentation.why_none(header, prediction.segmentation.label_map)
            if reason:
                _log.warning("%s", reason)
            else:
                content = segmentation.segmentation_object(assessment, prediction.segmentation)
                objects.append(self._dicom("seg", segmentation.SOP_CLASS_UID, assessment.uid("seg"), content))
        if self._pacs and heat_map is not None and assessment.findings:
            content = capture.secondary_capture(assessment, heat_map)
            objects.append(self._dicom("sc", capture.SOP_CLASS_UID, assessment.uid("sc"), content))
        if self._fhir:
            objects.append(
                ResultObject(
                    kind="fhir",
                    sop_class_uid="",
                    sop_instance_uid=report_uid(assessment),
                    content=fhir_report(assessment),
                    destinations=self._fhir,
                )
            )
        return tuple(objects)

    def _dicom(self, kind: ObjectKind, sop_class_uid: str, sop_instance_uid: str, content: bytes) -> ResultObject:
        return ResultObject(
            kind=kind,
            sop_class_uid=sop_class_uid,
            sop_instance_uid=sop_instance_uid,
            content=content,
            destinations=self._pacs,
        )
