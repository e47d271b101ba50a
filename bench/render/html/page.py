"""`report.html`: one file that needs nothing else, no script, no font, no network; the verdict first."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from medfm_compress.bench.evaluate.prediction_flips import FLIPS_CSV
from medfm_compress.bench.render.html.accuracy import accuracy_view
from medfm_compress.bench.render.html.attribution import explanations_view
from medfm_compress.bench.render.html.calibration import calibration_view
from medfm_compress.bench.render.html.context import cases_view, provenance_view
from medfm_compress.bench.render.html.curves import curves_view
from medfm_compress.bench.render.html.gallery import GALLERY_HTML
from medfm_compress.bench.render.html.latency import speed_view
from medfm_compress.bench.render.html.masks import lesions_view, masks_view
from medfm_compress.bench.render.html.modifications import candidates_view, change_view
from medfm_compress.bench.render.html.outline import Key, outline_of
from medfm_compress.bench.render.html.pareto import tradeoff_view
from medfm_compress.bench.render.html.prediction_flips import flips_view
from medfm_compress.bench.render.html.protocol import protocol_view
from medfm_compress.bench.render.html.rendering import render
from medfm_compress.bench.render.html.residual_risk import limits_view
from medfm_compress.bench.render.html.robustness import robustness_view
from medfm_compress.bench.render.html.subgroups import groups_view
from medfm_compress.bench.render.html.verdict import verdict_view
from medfm_compress.bench.render.html.words import words_of
from medfm_compress.bench.report import Report
from medfm_compress.bench.types.verdict import Verdict
from medfm_compress.runtime.errors import InputError

LOCAL_FILES = (FLIPS_CSV, GALLERY_HTML)
# Section → what its template `<key>.html.j2` shows beside report and verdict.
_VIEWS: Mapping[Key, Callable[[Report], object]] = {
    "change": change_view,
    "protocol": protocol_view,
    "cases": cases_view,
    "checks": lambda _: None,
    "groups": groups_view,
    "robustness": robustness_view,
    "flips": flips_view,
    "accuracy": accuracy_view,
    "curves": curves_view,
    "calibration": calibration_view,
    "explanations": explanations_view,
    "speed": speed_view,
    "tradeoff": tradeoff_view,
    "limits": limits_view,
    "candidates": candidates_view,
    "provenance": provenance_view,
    "reading": lambda _: None,
    "masks": masks_view,
    "lesions": lesions_view,
}


def render_html(report: Report, verdict: Verdict, local_files: Sequence[str] = ()) -> str:
    """The report as a self-contained HTML page (UTF-8), light, printable on A4.

    Every string that comes from a file is escaped; nothing is fetched, nothing is executed.

    Args:
        report: of the bench.
        verdict: on it.
        local_files: names out of `LOCAL_FILES` that were written beside the page, to be linked.

    Raises:
        InputError: a name that is none of them.
    """
    unknown = [name for name in local_files if name not in LOCAL_FILES]
    if unknown:
        raise InputError(f"the report links no file {unknown[0]!r}; it links {', '.join(LOCAL_FILES)}")
    outline, words = outline_of(report.task), words_of(report.task)
    contents = {FLIPS_CSV: words.flips_file, GALLERY_HTML: words.gallery_file}
    keys = [key for part in outline for key, _ in part.sections]
    values = {
        "report": report,
        "verdict": verdict,
        "verdict_view": verdict_view(report, verdict),
        "outline": outline,
        "words": words,
        "local_files": {name: contents[name] for name in local_files},
        "views": {key: _VIEWS[key](report) for key in keys},
    }
    return render("report.html.j2", values)
