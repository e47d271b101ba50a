"""Run one session over labelled cases, and the per-case table that follows from it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from medfm_compress.bench.types.evaluation import Evaluation
from medfm_compress.bench.types.mask_rules import MaskRules
from medfm_compress.bench.types.metric import MASK_METRICS, PLACE_METRICS, UNBOUNDED
from medfm_compress.data.study import Case, Study, check_normal
from medfm_compress.runtime.activation import decisions, probabilities
from medfm_compress.runtime.columns import Column
from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.image_spec import ImageSpec
from medfm_compress.runtime.network_inputs import NetworkInputs, feed, with_columns
from medfm_compress.runtime.preprocess import normalise
from medfm_compress.runtime.progress import Progress, counted
from medfm_compress.runtime.sessions.protocol import Session
from medfm_compress.runtime.task import Task
from medfm_compress.runtime.tasks.table import rules_of


class EvaluationTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An `Evaluation` as JSON that names no case and no patient.

    Images are their position in the table, clusters are numbered in order of first appearance. ``cases_sha256`` is one
    hash over all image keys in order: equal hashes mean the same cases, and no single key can be looked up in it.

    Attributes:
        name: ``teacher`` or a variant's name.
        findings: names of the columns of ``scores``, ``truth`` and ``decisions``.
        cases_sha256: see above.
        logits: n rows of one value a label.
        scores: n rows of one probability a finding, in [0, 1].
        truth: n rows of 0/1.
        decisions: n rows of 0/1.
        clusters: one number a case; equal numbers are one patient.
        subgroups: column name → n values.
        case_metrics: metric of masks or places → n rows of one value a finding, null where a case has none.
        mask_rules: by which those were computed.
        distance_unit: of their distances.
    """

    name: str
    findings: tuple[str, ...]
    cases_sha256: str
    logits: tuple[tuple[float, ...], ...]
    scores: tuple[tuple[float, ...], ...]
    truth: tuple[tuple[int, ...], ...]
    decisions: tuple[tuple[int, ...], ...]
    clusters: tuple[int, ...]
    subgroups: dict[str, tuple[str, ...]] = {}
    case_metrics: dict[str, tuple[tuple[float | None, ...], ...]] = {}
    mask_rules: MaskRules | None = None
    distance_unit: str = ""

    @classmethod
    def from_evaluation(cls, evaluation: Evaluation) -> EvaluationTable:
        """Anonymise ``evaluation``.

        Raises:
            InputError: columns of different length, or a score that is no finite number (JSON has none).
        """
        check_evaluation(evaluation)
        return cls(
            name=evaluation.name,
            findings=evaluation.findings,
            cases_sha256=hashlib.sha256("\0".join(evaluation.images).encode()).hexdigest(),
            logits=tuple(map(tuple, evaluation.logits.tolist())),
            scores=tuple(map(tuple, evaluation.scores.tolist())),
            truth=tuple(map(tuple, evaluation.truth.tolist())),
            decisions=tuple(map(tuple, evaluation.decisions.tolist())),
            clusters=tuple(number_clusters(evaluation.clusters).tolist()),
            subgroups=dict(evaluation.subgroups),
            case_metrics={name: _rows(values) for name, values in evaluation.case_metrics.items()},
            mask_rules=evaluation.mask_rules,
            distance_unit=evaluation.distance_unit,
        )

    def to_evaluation(self) -> Evaluation:
        """The evaluation again, with made-up case and patient keys that are equal for equal cases.

        Raises:
            InputError: the table was altered: columns of different length, or values outside their range.
        """
        try:
            evaluation = Evaluation(
                name=self.name,
                images=tuple(f"{self.cases_sha256}:{number}" for number in range(len(self.clusters))),
                logits=np.array(self.logits, dtype=np.float64),
                scores=np.array(self.scores, dtype=np.float64),
                truth=np.array(self.truth, dtype=np.int64),
                decisions=np.array(self.decisions, dtype=np.int64),
                clusters=tuple(str(number) for number in self.clusters),
                findings=self.findings,
                subgroups=dict(self.subgroups),
                case_metrics={name: np.array(rows, dtype=np.float64) for name, rows in self.case_metrics.items()},
                mask_rules=self.mask_rules,
                distance_unit=self.distance_unit,
            )
        except (ValueError, OverflowError):
            raise InputError(
                f"evaluation {self.name!r} has rows of different length or numbers out of range; make the report again"
            ) from None
        check_evaluation(evaluation)
        return evaluation


def check_evaluation(evaluation: Evaluation) -> None:
    """Check shapes and ranges of an evaluation.

    Raises:
        InputError: no cases, columns of different length, or a value outside its range.
    """
    name, cases, shape = evaluation.name, len(evaluation.images), (len(evaluation.images), len(evaluation.findings))
    if not cases:
        raise InputError(f"evaluation {name!r} has no cases; choose a split with labelled cases")
    for column in ("scores", "truth", "decisions"):
        actual = getattr(evaluation, column).shape
        if actual != shape:
            raise InputError(f"{column} of evaluation {name!r} have shape {actual}; cases by findings is {shape}")
    lengths = {"clusters": len(evaluation.clusters), "logits": len(evaluation.logits)}
    lengths |= {f"subgroup {key!r}": len(values) for key, values in evaluation.subgroups.items()}
    for column, length in lengths.items():
        if length != cases:
            raise InputError(f"{column} of evaluation {name!r} have length {length}; there are {cases} cases")
    _check_values(evaluation)
    _check_case_metrics(evaluation)


def _check_values(evaluation: Evaluation) -> None:
    for column in ("logits", "scores"):
        bad = ~np.isfinite(getattr(evaluation, column)).reshape(len(evaluation.images), -1).all(axis=1)
        if bad.any():
            raise InputError(
                f"evaluation {evaluation.name!r} has {column} that are not finite for {int(bad.sum())} of {len(bad)} "
                "cases; the network overflows, so run it in a higher precision"
            )
    if ((evaluation.scores < 0) | (evaluation.scores > 1)).any():
        raise InputError(f"scores of evaluation {evaluation.name!r} must be probabilities in [0, 1]")
    for column in ("truth", "decisions"):
        if not np.isin(getattr(evaluation, column), (0, 1)).all():
            raise InputError(f"{column} of evaluation {evaluation.name!r} must be 0 or 1")


def _check_case_metrics(evaluation: Evaluation) -> None:
    name, shape = evaluation.name, evaluation.truth.shape
    if set(evaluation.case_metrics) not in (set(), set(MASK_METRICS), set(PLACE_METRICS)):
        known = f"{', '.join(MASK_METRICS)}, nor {', '.join(PLACE_METRICS)}"
        raise InputError(f"evaluation {name!r} has metrics of cases that are neither {known}")
    for metric, values in evaluation.case_metrics.items():
        if values.shape != shape:
            raise InputError(f"{metric} of evaluation {name!r} has shape {values.shape}; cases by findings is {shape}")
        present = values[~np.isnan(values)]
        most = np.inf if metric in UNBOUNDED else 1.0
        if not ((present >= 0) & (present <= most) & np.isfinite(present)).all():
            raise InputError(f"{metric} of evaluation {name!r} is out of range; make the report again")


def _rows(values: NDArray[np.float64]) -> tuple[tuple[float | None, ...], ...]:
    """Rows as JSON has them, which knows no NaN."""
    return tuple(tuple(None if np.isnan(value) else value for value in row) for row in values.tolist())


def number_clusters(clusters: tuple[str, ...]) -> NDArray[np.int64]:
    """Number the clusters 0, 1, … in order of first appearance; shape [n]."""
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(cluster, len(numbers)) for cluster in clusters], dtype=np.int64)


def evaluate(  # noqa: PLR0913 (what is evaluated takes six nouns, how takes three)
    session: Session,
    study: Study,
    cases: tuple[Case, ...],
    spec: ImageSpec,
    task: Task,
    *,
    name: str,
    columns: Sequence[Column] = (),
    cache_dir: Path | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Run ``session`` over ``cases`` at batch size 1, as the device does; of maps each case's peaks are taken.

    Args:
        session: one image input, and one of each column's name; one logits output.
        study: decodes the images and knows the labels.
        cases: labelled cases of it.
        spec: preprocessing of the network.
        task: labels, temperature and operating points.
        name: ``teacher`` or a variant's name.
        columns: that the network takes beside the image, from the study.
        cache_dir: where prepared images are kept between runs; none keeps nothing.
        progress: called with one line now and then.

    Raises:
        InputError: no cases, an unlabelled case, other labels than the task's, or logits that do not fit it.
        ImageRefused: an image that cannot be read.
        StudyError: the study lacks a column, or has values that it does not take.
    """
    from medfm_compress.data.case_columns import case_columns
    from medfm_compress.data.prepared import prepared_images

    check_cases(study, cases, task)
    beside = case_columns(study, cases, columns)
    images = prepared_images(study, cases, spec, cache_dir, progress)
    shape = rules_of(task).logits_shape(task, spec)
    logits = np.empty((len(cases), len(task.labels)), dtype=np.float64)
    for row in counted(range(len(cases)), f"evaluate {name}", len(cases), progress):
        image = normalise(np.asarray(images[row : row + 1]), spec)
        inputs = with_columns(image, {column: rows[row : row + 1] for column, rows in beside.items()})
        answer = _logits(session, inputs, shape)
        logits[row] = rules_of(task).case_logits(answer, task)[0]
    return tabulate(logits, study, cases, task, name=name)


def tabulate(logits: NDArray[Any], study: Study, cases: tuple[Case, ...], task: Task, *, name: str) -> Evaluation:
    """Turn the logits ``[n, labels]`` of ``cases``, wherever they were computed, into an evaluation.

    Maps ``[n, labels, height, width]`` count by their peaks, and masks are not looked at (see `mask_evaluation`).

    Raises:
        InputError: as :func:`evaluate`.
    """
    check_cases(study, cases, task)
    if task.is_dense and logits.ndim > 2:
        logits = rules_of(task).case_logits(logits, task)
    if logits.shape != (len(cases), len(task.labels)):
        raise InputError(f"logits of {name!r} have shape {logits.shape}; {(len(cases), len(task.labels))} is needed")
    if not np.isfinite(logits).all():
        bad = int((~np.isfinite(logits)).any(axis=1).sum())
        raise InputError(
            f"{name!r} gives logits that are not finite for {bad} of {len(cases)} cases; run it in a higher precision"
        )
    scores = probabilities(logits, task)
    evaluation = Evaluation(
        name=name,
        images=tuple(case.image for case in cases),
        logits=np.asarray(logits, dtype=np.float64),
        scores=scores,
        truth=_truth(study.targets(cases), task),
        decisions=decisions(scores, task),
        clusters=tuple(case.cluster for case in cases),
        findings=task.findings,
        subgroups={
            column: tuple(case.subgroups.get(column, "") for case in cases) for column in study.subgroup_names()
        },
    )
    check_evaluation(evaluation)
    return evaluation


def check_cases(study: Study, cases: tuple[Case, ...], task: Task) -> None:
    """Check that ``cases`` can be held against ``task``.

    Raises:
        InputError: no cases, an unlabelled one, or labels that differ from the task's in name, order or kind.
        StudyError: the study takes other labels for normal than the task.
    """
    if not cases:
        raise InputError("there are no cases to evaluate; choose a split that has some")
    unlabelled = sum(not case.target for case in cases)
    if unlabelled:
        raise InputError(f"{unlabelled} of {len(cases)} cases have no label; leave them out of an evaluation")
    if study.kind != task.kind or study.labels != task.labels:
        raise InputError(
            f"the study is {study.kind} with labels {study.labels}, the model {task.kind} with {task.labels}; "
            "they must agree, in this order"
        )
    check_normal(study, task)


def _logits(session: Session, inputs: NetworkInputs, shape: tuple[int, ...]) -> NDArray[Any]:
    answer: NDArray[Any] = session.run(feed(session.input_names, inputs))[session.output_names[0]]
    if answer.shape != shape:
        raise InputError(f"the session gives logits of shape {answer.shape}; the task needs {shape}")
    return answer


def _truth(targets: NDArray[np.int64], task: Task) -> NDArray[np.int64]:
    """0/1 ``[n, findings]`` of targets as `Study` gives them."""
    if task.independent:
        return targets
    one_hot: NDArray[np.int64] = (targets == np.arange(len(task.labels))).astype(np.int64)
    return one_hot[:, 1:] if task.kind == "binary" else one_hot
