"""Running a session over cases, and the table that follows."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from medfm_compress.bench.evaluate.evaluate import evaluate, tabulate
from medfm_compress.data.study import Case, Study
from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.image_spec import ImageSpec
from medfm_compress.runtime.images.pixels import Pixels
from medfm_compress.runtime.sessions.protocol import SessionInfo
from medfm_compress.runtime.task import OperatingPoint, Task

SPEC = ImageSpec(height_px=32, width_px=32, colour="grey", mean=(0.5,), std=(0.25,))
POINT = OperatingPoint(
    label="bright", threshold=0.9, rule="youden", sensitivity=1.0, specificity=1.0, positives=5, negatives=5
)
TASK = Task(kind="binary", labels=("dark", "bright"), temperature=2.0, operating_points=(POINT,))


class Flat:
    """Images of one grey value, which is the number in their name."""

    def read(self, image: str) -> Pixels:
        return Pixels.from_integers(np.full((40, 40), int(image), dtype=np.uint8))

    def content_sha256(self, image: str) -> str:
        return f"{int(image):064x}"


class Brightness:
    """Logits from the mean of what it is given; keeps the shapes it saw."""

    input_names, output_names = ("image",), ("logits",)
    info = SessionInfo(backend="numpy", version="", provider="cpu", precision="fp32", threads=1)

    def __init__(self, labels: int = 2) -> None:
        self.labels, self.shapes = labels, set()

    def run(self, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        self.shapes.add((inputs["image"].shape, inputs["image"].dtype.name))
        mean = float(inputs["image"].mean())
        return {"logits": np.array([[-mean, mean] + [0.0] * (self.labels - 2)], dtype=np.float32)}


def make_study(kind: str = "binary", labels: tuple[str, ...] = ("dark", "bright")) -> Study:
    values = (10, 90, 200, 250)
    targets = {"binary": ((0,), (0,), (1,), (1,)), "multiclass": ((0,), (2,), (1,), (1,))}
    targets["multilabel"] = ((0, 0), (0, 1), (1, 1), (1, 0))
    cases = tuple(
        Case(
            image=str(value),
            split="test",
            target=target,
            patient="p" if value > 100 else "",
            subgroups={"site": "north"} if value > 50 else {},
        )
        for value, target in zip(values, targets[kind], strict=True)
    )
    return Study(root=Path("flat"), kind=kind, labels=labels, cases=cases, source=Flat())


def test_scores_truth_decisions_patients_and_subgroups() -> None:
    study, session, progress = make_study(), Brightness(), []
    evaluated = evaluate(session, study, study.cases, SPEC, TASK, name="teacher", progress=progress.append)
    assert session.shapes == {((1, 1, 32, 32), "float32")}
    means = (np.array([10, 90, 200, 250]) / 255 - 0.5) / 0.25
    np.testing.assert_allclose(evaluated.logits, np.stack([-means, means], axis=1), atol=1e-5)
    # Two logits −m and m at temperature 2 give the probability 1 / (1 + exp(−m)).
    np.testing.assert_allclose(evaluated.scores[:, 0], 1 / (1 + np.exp(-means)), atol=1e-6)
    assert evaluated.truth.tolist() == [[0], [0], [1], [1]]
    assert evaluated.decisions.tolist() == [[0], [0], [0], [0 if evaluated.scores[3, 0] < 0.9 else 1]]
    assert evaluated.clusters == ("image:10", "image:90", "p", "p")
    assert evaluated.subgroups == {"site": ("", "north", "north", "north")}
    assert evaluated.findings == ("bright",)
    assert progress


def test_cached_images_give_the_same_table(tmp_path: Path) -> None:
    study = make_study()
    first, second, uncached = (
        evaluate(Brightness(), study, study.cases, SPEC, TASK, name="t", cache_dir=folder)
        for folder in (tmp_path, tmp_path, None)
    )
    np.testing.assert_array_equal(first.logits, second.logits)
    np.testing.assert_array_equal(first.logits, uncached.logits)


def test_multiclass_and_multilabel_truth() -> None:
    three = make_study("multiclass", ("a", "b", "c"))
    task = Task(kind="multiclass", labels=("a", "b", "c"))
    evaluated = evaluate(Brightness(3), three, three.cases, SPEC, task, name="t")
    assert evaluated.truth.tolist() == [[1, 0, 0], [0, 0, 1], [0, 1, 0], [0, 1, 0]]
    assert evaluated.decisions.sum(axis=1).tolist() == [1, 1, 1, 1]
    several = make_study("multilabel", ("a", "b"))
    task = Task(kind="multilabel", labels=("a", "b"))
    evaluated = evaluate(Brightness(), several, several.cases, SPEC, task, name="t")
    assert evaluated.truth.tolist() == [[0, 0], [0, 1], [1, 1], [1, 0]]


def test_logits_from_elsewhere_give_the_same_table() -> None:
    study = make_study()
    run = evaluate(Brightness(), study, study.cases, SPEC, TASK, name="t")
    table = tabulate(run.logits, study, study.cases, TASK, name="t")
    np.testing.assert_array_equal(run.scores, table.scores)
    assert run.clusters == table.clusters


def test_what_cannot_be_evaluated_is_refused_with_a_reason() -> None:
    study = make_study()
    unlabelled = (*study.cases[:3], msgspec.structs.replace(study.cases[3], target=()))
    other = Task(kind="binary", labels=("bright", "dark"))
    for cases, task, labels, message in (
        ((), TASK, 2, "no cases"),
        (unlabelled, TASK, 2, "1 of 4 cases have no label"),
        (study.cases, other, 2, "must agree, in this order"),
        (study.cases, TASK, 3, r"logits of shape \(1, 3\)"),
    ):
        with pytest.raises(InputError, match=message):
            evaluate(Brightness(labels), study, cases, SPEC, task, name="t")


def test_logits_that_overflow_or_do_not_fit_are_refused() -> None:
    study, logits = make_study(), np.zeros((4, 2))
    logits[1, 0] = np.inf
    with pytest.raises(InputError, match="not finite for 1 of 4"):
        tabulate(logits, study, study.cases, TASK, name="fp16")
    with pytest.raises(InputError, match=r"shape \(3, 2\)"):
        tabulate(np.zeros((3, 2)), study, study.cases, TASK, name="t")
