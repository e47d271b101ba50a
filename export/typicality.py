"""Typicality statistics: fitted on training cases, and compared with validation cases that the fit has not seen.

    training cases → features, pixels → probabilistic PCA of each (`runtime.typicality`)
    validation cases → their strangeness, sorted: what a device compares an image's with

λ are the eigenvalues of the covariance S of n cases on the first k directions, as many as hold 95 % of the variance, at
most 64 and a quarter of n; σ² is the mean of the others (the maximum likelihood solution of Tipping & Bishop 1999).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from medfm_compress.data.study import Case, Study
from medfm_compress.export.cases import case_inputs, sample_cases
from medfm_compress.export.passes.features_output import FEATURES as OUTPUT
from medfm_compress.runtime.bundle.arrays import to_npy
from medfm_compress.runtime.bundle.bundle import Bundle, typicality_member
from medfm_compress.runtime.bundle.manifest import Tensor, Typicality
from medfm_compress.runtime.columns import Column
from medfm_compress.runtime.cpu import usable_cores
from medfm_compress.runtime.errors import StudyError
from medfm_compress.runtime.image_spec import ImageSpec
from medfm_compress.runtime.network_inputs import NetworkInputs, feed, images_of, joined, rows_of
from medfm_compress.runtime.sessions.protocol import Session
from medfm_compress.runtime.task import TaskKind
from medfm_compress.runtime.threads import map_in_threads
from medfm_compress.runtime.typicality import (
    Gaussian,
    TypicalityModel,
    describe_pixels,
    model_files,
    read_model,
    strangest,
)

FALSE_REFUSAL_RATE = 0.01
MOST_TRAINING_CASES = 500
LEAST_TRAINING_CASES = 64
MOST_VALIDATION_CASES = 300
_VARIANCE = 0.95
_MOST_DIRECTIONS = 64
_UNIT = 0.95
_CHUNK = 32
_SMALLEST_UNIT = 1e-6
_WITHOUT: Mapping[TaskKind, str] = MappingProxyType(
    {
        "segmentation": "a segmentation answers for pixels and has no row of features of an image",
        "anomaly": "an anomaly score says itself how unlike the normal training images an image is",
    }
)
_FLOOR = 1e-4  # of a variance, as a share of the mean one; float32 leaves a rest of 1e-7


class StoredTypicality(NamedTuple):
    """What a bundle stores: its rule, the network's output that it reads, and the members."""

    rule: Typicality
    output: Tensor
    files: dict[str, bytes]


class Asked(NamedTuple):
    """Cases that a network was asked about already.

    Attributes:
        cases: of the study.
        inputs: theirs, in their order.
        features: what it gave, ``[n, d]``, float32.
    """

    cases: Sequence[Case]
    inputs: NetworkInputs
    features: NDArray[np.float32]


class Described(NamedTuple):
    """Descriptions of n cases: features ``[n, d]`` and pixels ``[n, e]``, float32."""

    features: NDArray[np.float32]
    pixels: NDArray[np.float32]


def least_validation_cases(rate: float) -> int:
    """How many make a p-value of ``rate`` possible: 1 / (n + 1) <= rate."""
    return math.ceil(1 / rate - 1e-9) - 1


def why_not(study: Study, rate: float) -> str:
    """Why the study is too small for typicality; empty where it is not."""
    if not rate:
        return "not asked for"
    if study.kind in _WITHOUT:
        return _WITHOUT[study.kind]
    training, validation = len(study.split("train")), len(study.split("val"))
    if training < LEAST_TRAINING_CASES:
        return f"{training} training cases; at least {LEAST_TRAINING_CASES} are needed"
    if validation < least_validation_cases(rate):
        least = least_validation_cases(rate)
        return f"{validation} validation cases; at least {least} are needed for a false-refusal rate of {rate:g}"
    return ""


def store_typicality(
    session: Session,
    variants: Sequence[str],
    study: Study,
    spec: ImageSpec,
    rate: float,
    columns: Sequence[Column] = (),
) -> StoredTypicality:
    """Fit on training cases, score validation cases, once for all ``variants``, which compute the same.

    Args:
        session: of one of them, with the output ``features``.
        variants: names.
        study: large enough, see `why_not`.
        spec: of the input.
        rate: of false refusals, in (0, 1).
        columns: that the network takes beside the image; they are not judged.

    Raises:
        StudyError: an image cannot be read, or features are not finite.
    """
    model = fit_typicality(session, study, spec, columns)
    scores = validation_scores(model, session, study, spec, columns)
    rule = Typicality(
        false_refusal_rate=rate,
        training_cases=min(len(study.split("train")), MOST_TRAINING_CASES),
        validation_cases=len(scores),
    )
    output = Tensor(name=OUTPUT, role="features", shape=(1, len(model.features.mean)))
    files = model_files(model) | {typicality_member(name): to_npy(scores) for name in variants}
    return StoredTypicality(rule, output, files)


def rescored(bundle: Bundle, session: Session, study: Study, asked: Asked | None = None) -> bytes:
    """The member with the validation scores of another variant, by the statistics that ``bundle`` has.

    Args:
        bundle: has statistics.
        session: of the variant.
        study: that the bundle was exported with.
        asked: cases that ``session`` was asked about already, which it need not be again.

    Raises:
        StudyError: an image cannot be read, or other validation cases than those the bundle was exported with.
    """
    manifest = bundle.manifest
    scores = validation_scores(read_model(bundle), session, study, manifest.image_spec, manifest.told, asked)
    rule = manifest.typicality
    if rule is not msgspec.UNSET and len(scores) != rule.validation_cases:
        raise StudyError(
            f"{study.root.name} has {len(scores)} validation cases for typicality, the bundle was exported with "
            f"{rule.validation_cases}; use the study that it was exported with"
        )
    return to_npy(scores)


def fit_typicality(session: Session, study: Study, spec: ImageSpec, columns: Sequence[Column] = ()) -> TypicalityModel:
    """Statistics of at most 500 training cases.

    Args:
        session: of the network with the output ``features``.
        study: with training cases.
        spec: of the input.
        columns: beside it.

    Raises:
        StudyError: an image cannot be read, or features are not finite.
    """
    cases = sample_cases(study, "train", MOST_TRAINING_CASES, seed=0)
    described = describe(session, study, cases, spec, columns)
    return TypicalityModel(*(fit_gaussian(x) for x in described))


def validation_scores(
    model: TypicalityModel,
    session: Session,
    study: Study,
    spec: ImageSpec,
    columns: Sequence[Column] = (),
    asked: Asked | None = None,
) -> NDArray[np.float32]:
    """Strangeness of the validation cases (at most 300), sorted, float32 ``[n]``."""
    cases = sample_cases(study, "val", MOST_VALIDATION_CASES, seed=0)
    described = describe(session, study, cases, spec, columns, asked)
    scores: NDArray[np.float32] = np.sort(strangest(model.parts(*described))).astype(np.float32)
    return scores


def describe(
    session: Session,
    study: Study,
    cases: Sequence[Case],
    spec: ImageSpec,
    columns: Sequence[Column] = (),
    asked: Asked | None = None,
) -> Described:
    """Descriptions of ``cases`` as the device will see them, one case at a time; those ``asked`` are not run again."""
    features: list[NDArray[np.float32]] = []
    pixels: list[NDArray[np.float32]] = []
    workers = max(1, usable_cores() // session.info.threads)
    rows = {} if asked is None else {case.image: row for row, case in enumerate(asked.cases)}

    def of_case(case: tuple[int | None, NetworkInputs]) -> NDArray[np.float32]:
        row, inputs = case
        if asked is not None and row is not None:
            return asked.features[row : row + 1]
        return session.run(feed(session.input_names, inputs))[OUTPUT]

    for start in range(0, len(cases), _CHUNK):
        chunk = cases[start : start + _CHUNK]
        known = [rows.get(case.image) for case in chunk]
        unread = [case for case, row in zip(chunk, known, strict=True) if row is None]
        read = rows_of(case_inputs(study, unread, spec, columns)) if unread else iter(())
        inputs = [next(read) if asked is None or row is None else asked.inputs[row : row + 1] for row in known]
        pixels.append(describe_pixels(images_of(joined(inputs))))
        features += map_in_threads(of_case, zip(known, inputs, strict=True), workers)
    described = Described(np.concatenate(features).astype(np.float32), np.concatenate(pixels))
    if not all(np.isfinite(x).all() for x in described):
        raise StudyError(f"the network's features of {study.root.name} are not finite")
    return described


def fit_gaussian(x: NDArray[np.float32]) -> Gaussian:
    """Probabilistic PCA of ``x``, ``[n, d]``, n >= 2."""
    mean = x.astype(np.float64).mean(axis=0)
    _, singular, directions = np.linalg.svd(x - mean, full_matrices=False)
    eigenvalues = singular**2 / len(x)
    total = float(eigenvalues.sum())
    floor = max(_FLOOR * total / x.shape[1], np.finfo(np.float32).tiny)
    share = np.cumsum(eigenvalues) / max(total, floor)
    count = min(int(np.searchsorted(share, _VARIANCE)) + 1, _MOST_DIRECTIONS, max(len(x) // 4, 1), x.shape[1])
    rest = float(eigenvalues[count:].sum()) / max(x.shape[1] - count, 1)
    variances = np.maximum(np.append(eigenvalues[:count], rest), floor)
    raw = Gaussian(mean.astype(np.float32), directions[:count].astype(np.float32), variances.astype(np.float32), 1.0)
    unit = float(np.quantile(raw.strangeness(x), _UNIT))
    return raw._replace(unit=max(unit, _SMALLEST_UNIT))
