"""`ReadingDesk`: images of the page to the engine, one at a time, and what is said of each, as plain values.

Nothing is kept between two requests: for a heat map the browser sends its image again.
"""

from __future__ import annotations

import base64
import io
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from medfm_compress.runtime.columns import Column, Values
from medfm_compress.runtime.device.current import current
from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.heat_map import finding_to_explain, heat_map, layer, picture_of
from medfm_compress.runtime.page.queue import Queue
from medfm_compress.runtime.remarks import flag_in_words

if TYPE_CHECKING:
    from medfm_compress.runtime.device.active_engine import ActiveEngine
    from medfm_compress.runtime.engine import Atypical, Engine
    from medfm_compress.runtime.prediction import NetworkInput, Prediction

Json = dict[str, Any]


class Source(NamedTuple):
    """What a page shows.

    Attributes:
        engine: what answers now; raises a MedfmError where nothing may.
        atypical: see `Engine.predict`.
        is_research: say that nothing of it is for clinical use.
        queue: of a node; None where there is none.
    """

    engine: Callable[[], Engine | ActiveEngine]
    atypical: Atypical = "withhold"
    is_research: bool = True
    queue: Queue | None = None


class Cancelled(Exception):
    """Nobody waits for the heat map any more."""


class HeatMapJob:
    """One heat map under way; ``done`` of ``total`` runs of the network."""

    def __init__(self) -> None:
        self.done, self.total = 0, 0
        self.cancelled = threading.Event()
        self.result: Future[Json] = Future()

    def step(self, done: int, total: int) -> None:
        """Called before every run."""
        if self.cancelled.is_set():
            raise Cancelled
        self.done, self.total = done, total


class ReadingDesk:
    """One thread that predicts and one that makes heat maps, so that a map keeps no prediction waiting."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._predicting = ThreadPoolExecutor(1, thread_name_prefix="page-predict")
        self._mapping = ThreadPoolExecutor(1, thread_name_prefix="page-heat-map")
        self._jobs: set[HeatMapJob] = set()

    def close(self) -> None:
        """End what is under way."""
        for job in tuple(self._jobs):
            job.cancelled.set()
        for threads in (self._predicting, self._mapping):
            threads.shutdown(wait=False, cancel_futures=True)

    @property
    def running_maps(self) -> int:
        """Heat maps that wait or are under way."""
        return len(self._jobs)

    def predict(self, image: bytes, columns: Values = MappingProxyType({})) -> Future[Json]:
        """What the network says of ``image`` beside ``columns``; the future raises what `Engine.predict` does."""
        return self._predicting.submit(self._predict, image, columns)

    def map(self, image: bytes, finding: int | None, columns: Values = MappingProxyType({})) -> HeatMapJob:
        """Begin the heat map of a finding by its number, or of the one that matters most."""
        job = HeatMapJob()
        self._jobs.add(job)
        job.result = self._mapping.submit(self._map, image, columns, finding, job)
        job.result.add_done_callback(lambda _: self._jobs.discard(job))
        return job

    def facts(self) -> Json:
        """Of the bundle that answers now."""
        engine = current(self._source.engine())
        manifest, points = engine.manifest, {point.label: point for point in engine.task.operating_points}
        return {
            "bundle": manifest.name,
            "variant": engine.variant.name,
            "model_digest": manifest.model_digest,
            "intended_use": manifest.intended_use,
            "is_research": self._source.is_research,
            "input": f"{manifest.image_spec.width_px} × {manifest.image_spec.height_px} px",
            "findings": [
                {
                    "name": name,
                    "threshold": points[name].threshold if name in points else None,
                    "sensitivity": points[name].sensitivity if name in points and points[name].positives else None,
                    "specificity": points[name].specificity if name in points else None,
                }
                for name in engine.task.findings
            ],
            "has_queue": self._source.queue is not None,
            "is_segmentation": engine.task.is_dense,
            "measure": "probability" if engine.task.gives_probabilities else "score",
            "columns": [_column(column) for column in engine.columns],
        }

    def _predict(self, image: bytes, columns: Values) -> Json:
        engine = self._source.engine()
        prediction, seen = engine.predict_with_input(image, columns=columns, atypical=self._source.atypical)
        described = _describe(current(engine), prediction, seen)
        drawn = None if prediction.segmentation is None else _outlined(current(engine), image, prediction)
        if drawn is None:
            return described
        return described | {"picture": _png(drawn), "width": drawn.shape[1], "height": drawn.shape[0]}

    def _map(self, image: bytes, columns: Values, number: int | None, job: HeatMapJob) -> Json:
        """By the engine itself: what looks on has counted this image when it was predicted."""
        job.step(0, 0)
        engine = current(self._source.engine())
        findings = engine.task.findings
        if number is not None and not 0 <= number < len(findings):
            raise InputError(f"there is no finding number {number}; there are {len(findings)}, from 0")
        prediction, seen = engine.predict_with_input(image, columns=columns, atypical=self._source.atypical)
        heat = heat_map(
            engine,
            seen.inputs,
            prediction,
            finding=None if number is None else findings[number],
            on_step=job.step,
        )
        if heat is None:
            raise InputError(f"no finding is given, so there is none to explain: {prediction.not_reliable}")
        return {
            "finding": heat.finding,
            "layer": _png(layer(heat)),
            "method": heat.method,
            "speaks_for_it": bool(heat.evidence.max() > 0),
            "strongest": float(heat.evidence.max()),
        }


def _column(column: Column) -> Json:
    """A column as the page asks for it: a choice of categories, or a number."""
    return {
        "name": column.name,
        "categories": list(getattr(column, "categories", ())),
        "allowed": column.allowed,
        "is_needed": column.missing == "refuse",
        "dicom": column.dicom,
    }


def _describe(engine: Engine, prediction: Prediction, seen: NetworkInput) -> Json:
    points = {point.label: point.threshold for point in engine.task.operating_points}
    chosen = finding_to_explain(prediction)
    return {
        "findings": [
            {
                "name": name,
                "number": number,
                "probability": prediction.probabilities[name],
                "threshold": points.get(name),
                "called": prediction.findings[name],
                "is_chosen": name == chosen,
            }
            for number, name in enumerate(engine.task.findings)
            if name in prediction.probabilities
        ],
        "label": prediction.label,
        "not_reliable": prediction.not_reliable,
        "typicality": prediction.typicality,
        "remarks": [{"flag": flag, "words": flag_in_words(flag)} for flag in prediction.flags],
        "columns": prediction.columns,
        "variant": prediction.variant,
        "elapsed_ms": prediction.elapsed_ms,
        "picture": _png(picture_of(seen.tensor, engine.manifest.image_spec)),
        "width": seen.tensor.shape[3],
        "height": seen.tensor.shape[2],
    }


def _outlined(engine: Engine, image: bytes, prediction: Prediction) -> NDArray[np.uint8] | None:
    """The image with its structures outlined and a legend, uint8 ``[H, W, 3]``; None where nothing is given."""
    from medfm_compress.runtime.read_image import read_image
    from medfm_compress.runtime.segmentation.overlay import Caption, overlay

    if prediction.segmentation is None:
        return None
    pixels = read_image(image, engine.manifest.image_spec.dicom)
    caption = Caption(engine.manifest.name, prediction.model_digest)
    return np.asarray(overlay(pixels, prediction.segmentation, caption), np.uint8)


def _png(pixels: NDArray[np.uint8]) -> str:
    """A PNG file in Base64."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", compress_level=1)
    return base64.b64encode(file.getvalue()).decode("ascii")
