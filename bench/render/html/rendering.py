"""The pages' templates: everything escaped, unknown names refused, numbers written as `format` writes them.

A hash is cut to its first 12 digits wherever it is written, but for what goes through the filter ``whole``.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from statistics import median
from typing import NamedTuple

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from medfm_compress.bench.measure.percentile_bounds import percentile_bounds
from medfm_compress.bench.render import format as write
from medfm_compress.bench.render.html.outline import number as section_number
from medfm_compress.bench.render.plots.sensitivity import shade_class
from medfm_compress.bench.render.plots.svg import key, series_class
from medfm_compress.bench.types.interval import Interval
from medfm_compress.bench.types.metric import LOWER_IS_BETTER

_FILTERS = (
    write.bounds, write.counted, write.date_name, write.factor, write.megabytes, write.milliseconds, write.number,
    write.percent, write.short_digest, write.signed, write.target_name, percentile_bounds,
)  # fmt: skip


class Tile(NamedTuple):
    """One figure at the top of a page: what it is, its value, how it changed, and lines under it."""

    label: str
    figure: str
    detail: tuple[str, ...]
    change: str = ""


def render(template: str, values: Mapping[str, object]) -> str:
    """The page that ``template`` makes of ``values``; control characters, which no escape disarms, are dropped."""
    page = _environment().get_template(template).render(values)
    return write.printable(page, "\n\t") + "\n"


def drawing(svg: str) -> Markup:
    """One of our own drawings, whose texts `plots.svg` has escaped."""
    return Markup(svg)  # noqa: S704


@functools.cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("medfm_compress.bench.render.html"),
        autoescape=True,
        finalize=_shortened,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update({filter_.__name__: filter_ for filter_ in _FILTERS})
    environment.filters.update(whole=escape, median=median, quantile=_quantile, thousands="{:,}".format)
    environment.tests.update(infinite=math.isinf, bounded=_is_bounded)
    environment.globals.update(
        series_mark=_series_mark,
        lower_is_better=LOWER_IS_BETTER,
        margin_text=write.margin_text,
        metric_names=write.METRIC_NAMES,
        section_number=section_number,
        series_class=series_class,
        shade_class=shade_class,
    )
    return environment


def _shortened(value: object) -> object:
    """A string with its hashes cut; what is markup already, such as what ``whole`` gave, as it is."""
    return write.short_hashes(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _series_mark(index: int, *, hollow: bool = False) -> Markup:
    return drawing(key(index, hollow=hollow))


def _is_bounded(interval: Interval) -> bool:
    return math.isfinite(interval.low) and math.isfinite(interval.high)


def _quantile(samples: Sequence[float], share: float) -> float:
    return float(np.quantile(samples, share))
