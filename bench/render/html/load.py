"""Load scenarios, and whether the bundle became slower than an earlier one."""

from __future__ import annotations

import math

import numpy as np

from medfm_compress.bench.measure.latency_regression import Slowdown
from medfm_compress.bench.measure.load_scenario import ScenarioResult
from medfm_compress.bench.render.format import counted, esc, factor, milliseconds, short_digest, target_name
from medfm_compress.bench.report import Report

_SCENARIOS = {
    "single-stream": "one query after the other",
    "multi-stream": "several samples a query",
    "offline": "all samples at once",
    "server": "queries at random times",
}


def scenario_table(report: Report) -> str:
    """One row a model and scenario; nothing where none were run."""
    if not report.scenarios:
        return ""
    head = (
        '<tr><th class="text">Scenario</th><th class="text">Model</th><th>Queries</th><th>Per second</th>'
        '<th>Latency, ms</th><th class="text">Standing</th></tr>'
    )
    rows = "".join(_scenario_row(found) for found in sorted(report.scenarios, key=lambda found: found.scenario))
    unofficial = (
        '<p class="caution"><b>Unofficial.</b> Rows called so are shorter than MLPerf’s rules ask, or made by '
        "another load "
        "generator. They are no MLPerf results and must not be compared with any.</p>"
        if any(not found.official for found in report.scenarios)
        else ""
    )
    return (
        f'<h3>Under load</h3><div class="wide keep"><table><thead>{head}</thead><tbody>{rows}</tbody></table>'
        f"</div>{unofficial}"
        '<p class="note">Scenarios as in Reddi et al. (MLPerf Inference, 2020). Latency is the percentile that the '
        "scenario "
        "is judged by, with a distribution-free interval.</p>"
    )


def slowdown_table(report: Report) -> str:
    """Ratios to an earlier bundle; nothing where none was given."""
    if not report.slowdowns:
        return ""
    head = (
        '<tr><th class="text">Variant</th><th>Earlier bundle, ms</th><th>This one, ms</th><th>New / old</th>'
        '<th class="text">So</th></tr>'
    )
    rows = "".join(map(_slowdown_row, report.slowdowns))
    return (
        f"<h3>Against the earlier bundle</h3><table><thead>{head}</thead><tbody>{rows}</tbody></table>"
        '<p class="note">Medians of interleaved pairs of fresh processes, old and new in turn; the ratio is their '
        "geometric "
        "mean over the pairs, above 1 where the new one is slower.</p>"
    )


def _scenario_row(found: ScenarioResult) -> str:
    latency = found.latency_ms
    bounds = f"{milliseconds(latency.low)} to {milliseconds(latency.high)}"
    interval = bounds if all(map(math.isfinite, (latency.low, latency.high))) else "no interval"
    target = f"<br>target {found.target_qps:g} a second" if found.target_qps else ""
    samples = f"<br>{counted(found.samples_per_query, 'sample')} a query" if found.samples_per_query > 1 else ""
    standing = "official length" if found.official else "<b>unofficial</b>"
    note = f'<span class="sub wrap">{esc(found.note)}</span>' if found.note else ""
    return (
        f'<tr><th class="text">{esc(found.scenario)}<span '
        f'class="sub">{_SCENARIOS[found.scenario]}{target}{samples}</span>'
        f'</th><td class="text">{esc(found.name)}<span class="sub">{esc(target_name(found.target))}</span></td>'
        f'<td>{len(found.latencies_ms):,}<span class="sub">{found.duration_s:,.1f} s</span></td>'
        f"<td>{found.queries_per_second:,.1f}</td><td>{milliseconds(latency.estimate)}"
        f'<span class="sub">p{100 * found.percentile:g}: {interval}</span></td>'
        f'<td class="text">{standing}<span class="sub">{esc(found.harness)}</span>{note}</td></tr>'
    )


def _slowdown_row(found: Slowdown) -> str:
    ratio = found.ratio
    so = "slower" if ratio.low > 1 else "faster" if ratio.high < 1 else "no difference shown"
    old, new = (milliseconds(float(np.median(v))) if v else "–" for v in (found.baseline_p50_ms, found.p50_ms))
    return (
        f'<tr><th class="text">{esc(found.variant)}</th><td>{old}<span class="sub">'
        f"<code>{esc(short_digest(found.baseline_digest))}</code></span></td><td>{new}"
        f'<span class="sub">{counted(len(found.p50_ms), "pair")}</span></td><td>{factor(ratio.estimate)}<span '
        'class="sub">'
        f'{factor(ratio.low)} to {factor(ratio.high)}</span></td><td class="text">{so}</td></tr>'
    )
