"""`Task`: what the network's outputs mean, and where the decision thresholds stand."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal, TypeVar

import msgspec

from medfm_compress.runtime.errors import InputError

TaskKind = Literal["binary", "multiclass", "multilabel", "segmentation", "anomaly"]
_T = TypeVar("_T")
FALSE_ALARM_RULE = re.compile(r"(false-alarm-rate)<=(0\.[0-9]*[1-9][0-9]*)")
"""Of operating points, without spaces: by cases without the finding alone, at a rate above 0 and below 1."""
INDEPENDENT_KINDS: frozenset[TaskKind] = frozenset({"multilabel", "segmentation", "anomaly"})
"""Kinds whose findings do not exclude each other in one image: a target is a row of 0 and 1."""
MOST_STRUCTURES = 254
"""A label map is of bytes; 0 is the background, and 255 is left for pixels that nobody judged."""

MIN_TEMPERATURE, MAX_TEMPERATURE = 1e-3, 1e3
"""Fits lie in [0.05, 20]. Far smaller ones make logits overflow, far larger ones make every probability the same."""


def by_kind(classification: _T, segmentation: _T, anomaly: _T | None = None) -> Mapping[TaskKind, _T]:
    """A room's table of what differs between kinds of task; an anomaly score is one logit, as a finding's is."""
    table: dict[TaskKind, _T] = dict.fromkeys(("binary", "multiclass", "multilabel"), classification)
    scored = classification if anomaly is None else anomaly
    return MappingProxyType(table | {"segmentation": segmentation, "anomaly": scored})


class OperatingPoint(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A decision threshold, chosen on validation cases only.

    Attributes:
        label: the finding it decides.
        threshold: the finding is called where the calibrated probability is >= this, in [0, 1].
        rule: how it was chosen, e.g. ``youden`` or ``sensitivity>=0.95``.
        sensitivity: on the validation cases, in [0, 1]; 0, and not known, where there are no positives.
        specificity: on the validation cases, in [0, 1].
        positives: validation cases with the finding, >= 0.
        negatives: validation cases without it, >= 0.
    """

    label: str
    threshold: float
    rule: str
    sensitivity: float
    specificity: float
    positives: int
    negatives: int

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= 1:
            raise InputError(f"the threshold of {self.label!r} is {self.threshold}; it must be in [0, 1]")
        for name, value in (("sensitivity", self.sensitivity), ("specificity", self.specificity)):
            if not 0 <= value <= 1:
                raise InputError(f"the {name} of {self.label!r} is {value}; it must be in [0, 1]")
        if min(self.positives, self.negatives) < 0:
            raise InputError(
                f"{self.label!r} has {self.positives} positives and {self.negatives} negatives; count them"
            )

    @property
    def rates(self) -> str:
        """What it held on the validation cases, in words; of one chosen by normal cases alone, what those tell."""
        if not self.positives:
            normal = f"{self.negatives} normal validation cases"
            return f"specificity {self.specificity:.3f} on {normal}; sensitivity is not known"
        cases = f"{self.positives} + {self.negatives} validation cases"
        return f"sensitivity {self.sensitivity:.3f}, specificity {self.specificity:.3f} on {cases}"


class Task(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a network's logits, float32 in the order of ``labels``, mean.

    Classification, logits ``[n, len(labels)]``: ``binary`` is two mutually exclusive labels of which ``findings`` (the
    second) is the finding, ``multiclass`` any number of them (softmax over temperature-scaled logits); ``multilabel``
    is independent findings (sigmoid).

    ``segmentation``, logits ``[n, len(labels), height, width]``: a map for each structure; at every pixel the
    structures and the background, whose logit is 0 and has no map, exclude each other (softmax; of one structure, a
    sigmoid). Which structures an image shows are its findings.

    ``anomaly``, logits ``[n, 1]``: how unlike the normal training cases an image is, the greater the less normal; its
    one label names what is not normal, and ``normal`` are the labels of the study that were taken for normal. The logit
    is a distance, shifted and scaled; its sigmoid orders images and is compared with the threshold, and is no
    probability of disease.

    Attributes:
        kind: see above.
        labels: unique names, at least two (one for multilabel).
        temperature: logits are divided by it before the activation, 0.001 to 1000 (Guo et al. 2017).
        operating_points: at most one a finding; empty until `export` has seen validation cases.
        normal: of ``anomaly`` alone: labels of the study whose cases are normal; read it through `normal_labels`. Unset
            it is left out of the JSON. Since schema 8.
    """

    kind: TaskKind
    labels: tuple[str, ...]
    temperature: float = 1.0
    operating_points: tuple[OperatingPoint, ...] = ()
    normal: tuple[str, ...] | msgspec.UnsetType = msgspec.UNSET

    def __post_init__(self) -> None:
        if len(set(self.labels)) != len(self.labels) or not all(self.labels):
            raise InputError(f"labels {self.labels} must be unique and not empty")
        least = 1 if self.independent else 2
        if len(self.labels) < least or (self.kind == "binary" and len(self.labels) != 2):
            raise InputError(f"a {self.kind} task cannot have the {len(self.labels)} label(s) {self.labels}")
        if self.kind == "segmentation":
            self._check_segmentation()
        if self.kind == "anomaly":
            self._check_anomaly()
        elif self.normal_labels:
            raise InputError(
                f"a {self.kind} task names normal labels {self.normal_labels}; an anomaly task alone has them"
            )
        if not MIN_TEMPERATURE <= self.temperature <= MAX_TEMPERATURE:
            raise InputError(
                f"temperature is {self.temperature}; it must be {MIN_TEMPERATURE:g} to {MAX_TEMPERATURE:g}"
            )
        pointed = [point.label for point in self.operating_points]
        if len(set(pointed)) != len(pointed):
            raise InputError(f"operating points for {pointed}; there may be one a finding")
        unknown = set(pointed) - set(self.findings)
        if unknown:
            raise InputError(
                f"operating points for {sorted(unknown)}, which are not findings of this task: {self.findings}"
            )

    def _check_anomaly(self) -> None:
        names = self.normal_labels
        if len(self.labels) != 1:
            raise InputError(f"an anomaly task has one label, what is not normal; got {self.labels}")
        if not names or len(set(names)) != len(names) or not all(names):
            raise InputError(f"an anomaly task names the labels that are normal, each once; got {names}")
        if self.labels[0] in names:
            raise InputError(
                f"{self.labels[0]!r} is what is not normal and is among the normal labels {names}; name it otherwise"
            )
        if self.temperature != 1:
            raise InputError(
                f"temperature is {self.temperature}; an anomaly score is no probability and has none: it must be 1"
            )
        for point in self.operating_points:
            if not FALSE_ALARM_RULE.fullmatch(point.rule.replace(" ", "")):
                raise InputError(
                    f"the rule of {point.label!r} is {point.rule!r}; an anomaly score is decided by normal cases: "
                    "it must be false-alarm-rate<=R with 0 < R < 1"
                )

    def _check_segmentation(self) -> None:
        if len(self.labels) > MOST_STRUCTURES:
            raise InputError(f"{len(self.labels)} structures; a label map holds at most {MOST_STRUCTURES}")
        if self.operating_points:
            raise InputError("a segmentation task has no operating points: each pixel is what is most probable there")

    @property
    def independent(self) -> bool:
        """Whether an image may show several findings; those of the other kinds exclude each other."""
        return self.kind in INDEPENDENT_KINDS

    @property
    def normal_labels(self) -> tuple[str, ...]:
        """Labels of the study whose cases are normal; none unless it is an anomaly task."""
        return () if self.normal is msgspec.UNSET else self.normal

    @property
    def gives_probabilities(self) -> bool:
        """Whether a score is meant as a probability; that of an anomaly orders images and is none."""
        return self.kind != "anomaly"

    @property
    def is_dense(self) -> bool:
        """Whether the network answers for every pixel."""
        return self.kind == "segmentation"

    @property
    def structures(self) -> tuple[str, ...]:
        """What the masks of its study show; none unless it is a segmentation."""
        return self.labels if self.is_dense else ()

    @property
    def findings(self) -> tuple[str, ...]:
        """Labels that have a score of their own: the second of a binary task, else all."""
        return self.labels[1:] if self.kind == "binary" else self.labels
