"""Slides as cases: aggregation chosen on validation slides, and rows that bench's paired comparison takes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from medfm_compress.bench.evaluate.paired_comparison import compare
from medfm_compress.bench.evaluate.slide_labels import CANDIDATES, choose_aggregation, slide_evaluation
from medfm_compress.bench.types.policy import NonInferiority, Policy
from medfm_compress.data.study import Case, Study
from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.slides.aggregation import Aggregator, aggregate
from medfm_compress.runtime.slides.settings import SlideSettings
from medfm_compress.runtime.task import Task

TASK = Task(kind="binary", labels=("benign", "tumour"))
SETTINGS = SlideSettings(tile_um_per_px=0.5)


def make_study(slides=60, slides_a_patient=2):
    cases = tuple(
        Case(image=f"{n}.svs", split="val", target=(n // slides_a_patient % 2,), patient=f"p{n // slides_a_patient}")
        for n in range(slides)
    )
    return Study(root=Path("slides"), kind="binary", labels=TASK.labels, cases=cases, source=None)


def make_tiles(study, seed=0, noise=0.1):
    """Of a slide with tumour some tiles are high; a slide without has one artefact that scores highest of all."""
    rng = np.random.default_rng(seed)
    tiles = []
    for case in study.cases:
        scores = np.clip(rng.normal(0.2, noise, 80), 0.01, 0.95)
        if case.target == (1,):
            scores[:12] = np.clip(rng.normal(0.75, noise, 12), 0, 0.95)
        else:
            scores[0] = 0.99
        tiles.append(scores[:, None].astype(np.float32))
    return tiles


def test_aggregations_are_their_formulas():
    scores = np.random.default_rng(0).random((50, 2)).astype(np.float32)
    assert np.allclose(aggregate(scores, "max", 7), scores.max(axis=0))
    assert np.allclose(aggregate(scores, "mean-top", 7), np.sort(scores, axis=0)[-7:].mean(axis=0))
    assert np.allclose(aggregate(scores, "mean-top", 500), scores.mean(axis=0))
    assert np.allclose(aggregate(scores * 0.02, "noisy-or", 7), 1 - np.prod(1 - scores * 0.02, axis=0), atol=1e-6)
    assert aggregate(np.full((9, 1), 1.0, np.float32), "noisy-or", 1) == pytest.approx(1.0)
    assert np.isnan(Aggregator(2, "max", 1).scores()).all()


def test_validation_slides_choose_what_an_artefact_does_not_win():
    study = make_study()
    chosen = choose_aggregation(make_tiles(study), study, study.cases, TASK, SETTINGS, "youden")
    areas = {(name, top): area for name, top, area in chosen.candidates}
    assert len(areas) == len(CANDIDATES)
    assert chosen.settings.aggregation == "mean-top" and 3 <= chosen.settings.top <= 30
    assert areas["max", 1] < 0.1 and areas["mean-top", chosen.settings.top] == max(areas.values()) == 1.0
    assert chosen.settings.tile_um_per_px == SETTINGS.tile_um_per_px
    evaluation = slide_evaluation(make_tiles(study, 7), study, study.cases, TASK, chosen.settings, name="other tiles")
    assert (evaluation.decisions == evaluation.truth).all()


def test_slides_go_through_the_paired_comparison_clustered_by_patient():
    study = make_study()
    settings = SlideSettings(tile_um_per_px=0.5, aggregation="mean-top", top=10, thresholds={"tumour": 0.5})
    teacher = slide_evaluation(make_tiles(study), study, study.cases, TASK, settings, name="teacher")
    good = slide_evaluation(make_tiles(study, 1), study, study.cases, TASK, settings, name="good")
    blind = [np.clip(rows - 0.6 * (n % 2), 0, 1) for n, rows in enumerate(make_tiles(study, 2))]
    bad = slide_evaluation(blind, study, study.cases, TASK, settings, name="bad")
    requirement = NonInferiority(metric="sensitivity", margin=0.1)
    policy = Policy(non_inferiority=(requirement,), min_clusters=10, min_positives=5, min_negatives=5)
    results = {
        bundle.name: next(c for c in compare(teacher, bundle, policy) if c.metric == "sensitivity")
        for bundle in (good, bad)
    }
    assert (results["good"].cases, results["good"].patients, results["good"].patients_with) == (60, 30, 15)
    assert results["good"].difference.estimate == 0 and results["bad"].difference.estimate == pytest.approx(-0.5)
    assert results["bad"].smallest_loss > 0.1


def test_slides_that_cannot_be_compared_are_said():
    study = make_study(8)
    tiles = make_tiles(study)
    with pytest.raises(InputError, match="no tile that was answered"):
        slide_evaluation([*tiles[:-1], tiles[0][:0]], study, study.cases, TASK, SETTINGS, name="x")
    one_kind = tuple(case for case in study.cases if case.target == (1,))
    with pytest.raises(InputError, match="needs slides with it and without"):
        choose_aggregation(tiles[: len(one_kind)], study, one_kind, TASK, SETTINGS, "youden")
