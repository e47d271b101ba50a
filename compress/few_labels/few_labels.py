"""Few-label curves of one or several encoders on one study, on the same draws of training cases."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import msgspec
import numpy as np

from medfm_compress.bench.evaluate.test_set_log import LoggedEvaluation, log_evaluation
from medfm_compress.bench.stats.bootstrap import Resampled
from medfm_compress.compress.few_labels.curve import (
    METRICS,
    JudgedCases,
    Spread,
    difference,
    resampled_metrics,
    spread,
)
from medfm_compress.compress.few_labels.draws import draw
from medfm_compress.compress.few_labels.encoder import FrozenEncoder, embed
from medfm_compress.compress.few_labels.linear_classifier import Floats, Integers, LinearClassifier
from medfm_compress.compress.few_labels.linear_probe import linear_probe
from medfm_compress.compress.few_labels.options import ClassifierName, FewLabelsOptions
from medfm_compress.compress.few_labels.prototypes import prototypes
from medfm_compress.data.fingerprint import study_fingerprint
from medfm_compress.data.study import Case, Study
from medfm_compress.runtime.bundle.bundle import utc_date
from medfm_compress.runtime.errors import InputError, StudyError
from medfm_compress.runtime.progress import Progress

TEST = "test"
Fit = Callable[[Floats, Integers, int], LinearClassifier]
CLASSIFIERS: Mapping[ClassifierName, Fit] = MappingProxyType({"prototypes": prototypes, "linear-probe": linear_probe})


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """One encoder with one classifier of so many cases a class.

    Attributes:
        encoder: its name.
        classifier: which.
        cases: labelled cases of every class in a draw.
        auroc: macro AUROC, one label against the rest.
        balanced_accuracy: of the most probable label.
        auroc_difference: from the first encoder, with the same classifier and draws; None of the first itself.
    """

    encoder: str
    classifier: ClassifierName
    cases: int
    auroc: Spread
    balanced_accuracy: Spread
    auroc_difference: Spread | None = None


class FewLabels(msgspec.Struct, frozen=True, kw_only=True):
    """Curves.

    Attributes:
        labels: of the study.
        split: that the classifiers were judged on.
        judged: its labelled cases.
        patients: of whom.
        draws: of labels a point.
        widths: encoder → length of its embedding.
        points: encoders in turn, by classifier and number of cases.
        left_out: number of cases a class → why it has no point.
    """

    labels: tuple[str, ...]
    split: str
    judged: int
    patients: int
    draws: int
    widths: dict[str, int]
    points: tuple[Point, ...]
    left_out: dict[int, str]


class LabelledCases(NamedTuple):
    """Labelled cases of a split, and their classes ``[n]``."""

    cases: tuple[Case, ...]
    classes: Integers


def few_labels(
    encoders: Mapping[str, FrozenEncoder],
    study: Study,
    options: FewLabelsOptions,
    progress: Progress,
    log: Path | None = None,
) -> FewLabels:
    """Curves of ``encoders``, name → network; a look at the test split gets a line an encoder in the log of ``log``.

    Raises:
        InputError: the test split without a log.
        StudyError: a study whose cases have not one label each, a split without cases of every label, or too few
            training cases for every number that is asked for.
    """
    train, judged = labelled_cases(study, "train"), labelled_cases(study, options.split)
    smallest = int(np.bincount(train.classes).min())
    fitting = [number for number in options.cases if number <= smallest]
    reason = f"the smallest class has {smallest} labelled training cases"
    if not fitting:
        raise StudyError(f"{reason}, and --cases asks for {min(options.cases)} of each; give a smaller number")
    patients = [case.cluster for case in train.cases]
    draws = {
        number: [draw(train.classes, patients, number, (options.seed, number, d)) for d in range(options.draws)]
        for number in fitting
    }
    _log_look(encoders, study, options, len(judged.cases), log)
    drawn = np.unique(np.concatenate([chosen for chosens in draws.values() for chosen in chosens]))
    scene = _Scene(study, train, judged, draws, drawn, options)
    widths: dict[str, int] = {}
    points: list[Point] = []
    first: dict[tuple[ClassifierName, int], Resampled] = {}
    for name, encoder in encoders.items():
        width, values = scene.curves(encoder, progress)
        widths[name] = width
        points += [_point(name, *key, metrics, first.get(key)) for key, metrics in values.items()]
        first = first or {key: metrics["auroc"] for key, metrics in values.items()}
    return FewLabels(
        labels=study.labels,
        split=options.split,
        judged=len(judged.cases),
        patients=len({case.cluster for case in judged.cases}),
        draws=options.draws,
        widths=widths,
        points=tuple(points),
        left_out={number: reason for number in options.cases if number > smallest},
    )


def _log_look(
    encoders: Mapping[str, FrozenEncoder], study: Study, options: FewLabelsOptions, cases: int, log: Path | None
) -> None:
    """As `bench` logs it, without a policy: whoever chooses by these curves has chosen on the test split."""
    if options.split != TEST:
        return
    if log is None:
        raise InputError(
            "--split test looks at the test split, which is logged: give --log FOLDER, that of the report which bench "
            "will write, or judge on val"
        )
    for encoder in encoders.values():
        entry = LoggedEvaluation(
            date=utc_date(),
            split=options.split,
            cases=cases,
            policy_sha256="",
            model_digest=encoder.digest,
            study_fingerprint=study_fingerprint(study),
        )
        log_evaluation(log, entry)


class _Scene(NamedTuple):
    """What every encoder's curves share."""

    study: Study
    train: LabelledCases
    judged: LabelledCases
    draws: Mapping[int, Sequence[Integers]]
    drawn: Integers
    options: FewLabelsOptions

    def curves(
        self, encoder: FrozenEncoder, progress: Progress
    ) -> tuple[int, dict[tuple[ClassifierName, int], dict[str, Resampled]]]:
        """Length of the embedding; metrics by classifier and number of cases."""
        known = embed(encoder, self.study, [self.train.cases[at] for at in self.drawn], progress)
        asked = embed(encoder, self.study, self.judged.cases, progress)
        judged = JudgedCases(self.judged.classes, tuple(case.cluster for case in self.judged.cases))
        labels, values = len(self.study.labels), {}
        for name, fit in CLASSIFIERS.items():
            for number, chosens in self.draws.items():
                logits = [
                    fit(known[np.searchsorted(self.drawn, chosen)], self.train.classes[chosen], labels).logits(asked)
                    for chosen in chosens
                ]
                values[name, number] = resampled_metrics(logits, judged, self.options.resamples, self.options.seed)
                progress(f"{encoder.name}: {name}, {number} cases a class")
        return known.shape[1], values


def _point(
    encoder: str, classifier: ClassifierName, cases: int, metrics: Mapping[str, Resampled], first: Resampled | None
) -> Point:
    auroc, accuracy = (spread(metrics[name]) for name in METRICS)
    return Point(
        encoder=encoder,
        classifier=classifier,
        cases=cases,
        auroc=auroc,
        balanced_accuracy=accuracy,
        auroc_difference=None if first is None else spread(difference(metrics["auroc"], first)),
    )


def labelled_cases(study: Study, split: str) -> LabelledCases:
    """The labelled cases of one split, each of one class.

    Raises:
        StudyError: a study whose cases have not one label each, or a label that the split has no case of.
    """
    if study.kind not in {"binary", "multiclass"}:
        raise StudyError(
            f"{study.root.name} is a {study.kind} study; few labels are drawn class by class, which takes a study with "
            "one column 'label'"
        )
    cases = study.labelled_split(split)
    present = {case.target[0] for case in cases}
    missing = [label for number, label in enumerate(study.labels) if number not in present]
    if missing:
        raise StudyError(
            f"split {split!r} of {study.root.name} has no case of {', '.join(missing)}; cut one that has with "
            "'medfm-compress study split'"
        )
    return LabelledCases(cases, study.targets(cases)[:, 0])
