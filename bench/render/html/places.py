"""What an anomaly score's report shows in place of calibration: whether its maps find where an image is abnormal."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from medfm_compress.bench.render.html.masks import LesionRow
from medfm_compress.bench.render.model_names import name_with_origin
from medfm_compress.bench.report import Report
from medfm_compress.bench.stats.place_ranking import FALSE_POSITIVE_LIMIT
from medfm_compress.bench.types.metric import PLACE_METRICS


class PlacesView(NamedTuple):
    """Comparisons of places, how many abnormal cases have a mask, and how many have none."""

    rows: list[LesionRow]
    drawn: int
    undrawn: int
    limit: float = FALSE_POSITIVE_LIMIT


def places_view(report: Report) -> PlacesView:
    """Pixel AUROC and per-region overlap of every variant, of all cases together."""
    rows = [
        LesionRow(comparison, name_with_origin(report, comparison.variant))
        for comparison in report.comparisons
        if comparison.metric in PLACE_METRICS and not comparison.subgroup
    ]
    teacher = report.teacher.to_evaluation()
    drawn = int(np.isfinite(teacher.case_metrics["pro"]).sum()) if "pro" in teacher.case_metrics else 0
    return PlacesView(rows, drawn, int((teacher.truth == 1).sum()) - drawn)
