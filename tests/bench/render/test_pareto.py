"""The front of latency and AUROC."""

from __future__ import annotations

import re
from types import ModuleType

import msgspec
import numpy as np
import pytest

from medfm_compress.bench.render.pareto_points import ParetoPoint, pareto_points
from medfm_compress.bench.render.plots.latency import pareto_plot
from medfm_compress.bench.stats.pareto_front import front
from medfm_compress.bench.types.interval import Interval


def brute_force(points: list[tuple[float, float]]) -> set[int]:
    def dominates(a: tuple[float, float], b: tuple[float, float]) -> bool:
        return a[0] <= b[0] and a[1] >= b[1] and a != b

    return {n for n, point in enumerate(points) if not any(dominates(other, point) for other in points)}


@pytest.mark.parametrize("seed", range(20))
def test_front_is_what_nobody_dominates(seed: int) -> None:
    random = np.random.default_rng(seed)
    points = [tuple(pair) for pair in random.integers(0, 6, (12, 2)).astype(float).tolist()]
    best = front(points)
    assert set(best) == brute_force(points)
    assert [points[n][0] for n in best] == sorted(points[n][0] for n in best)


def test_what_is_not_a_number_is_never_on_the_front() -> None:
    assert front([(float("nan"), 0.99), (3.0, 0.9), (2.0, float("nan"))]) == (1,)
    assert front([]) == ()


def test_teacher_in_another_engine_has_the_teachers_area_and_is_hollow(full: ModuleType) -> None:
    by_name = {point.name: point for point in pareto_points(full.make_report(), "pneumonia")}
    teacher, elsewhere = by_name["Teacher (coatnet_nano_rw_224)"], by_name["teacher in OpenVINO"]
    assert elsewhere.hollow
    assert not teacher.hollow
    assert elsewhere.merit == teacher.merit
    assert elsewhere.latency_ms.estimate < teacher.latency_ms.estimate
    assert full.EXTERNAL in by_name


def test_what_has_no_evaluation_and_is_no_teacher_has_no_place(full: ModuleType) -> None:
    report = full.make_report()
    stranger = msgspec.structs.replace(report.measurements[0], name="stranger")
    report = msgspec.structs.replace(report, measurements=(*report.measurements, stranger))
    assert "stranger" not in {point.name for point in pareto_points(report, "pneumonia")}


def test_labels_do_not_cover_each_other() -> None:
    close = [
        ParetoPoint(f"model {n}", Interval(estimate=2 + 0.01 * n, low=1.9, high=2.2), area, n, False)
        for n, area in enumerate([Interval(estimate=0.95, low=0.94, high=0.96)] * 5)
    ]
    drawn = pareto_plot(close, title="t")
    heights = sorted(float(y) for y in re.findall(r'class="row-name[^"]*" x="[\d.]+" y="([\d.]+)"', drawn))
    assert len(heights) == 5
    assert min(np.diff(heights)) >= 14


def test_beaten_points_are_struck_out_and_intervals_go_both_ways() -> None:
    good = ParetoPoint(
        "good", Interval(estimate=1, low=0.9, high=1.1), Interval(estimate=0.95, low=0.9, high=0.97), 1, False
    )
    poor = ParetoPoint("poor", Interval(estimate=5, low=4, high=6), Interval(estimate=0.8, low=0.7, high=0.9), 2, False)
    drawn = pareto_plot([good, poor], title="t")
    assert drawn.count('class="dominated"') == 1
    assert "dim" in drawn[drawn.rindex("<text", 0, drawn.index(">poor<")) : drawn.index(">poor<")]
    errors = re.findall(r'class="error s1" x1="([\d.]+)" y1="([\d.]+)" x2="([\d.]+)" y2="([\d.]+)"', drawn)
    assert any(x1 != x2 and y1 == y2 for x1, y1, x2, y2 in errors)
    assert any(x1 == x2 and y1 != y2 for x1, y1, x2, y2 in errors)
