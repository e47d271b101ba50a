"""The top of the report: verdict, reasons, and four figures that say what was gained and what it cost."""

from __future__ import annotations

from medfm_compress.bench.render.format import (
    METRIC_NAMES,
    bounds,
    esc,
    factor,
    megabytes,
    milliseconds,
    number,
    signed,
)
from medfm_compress.bench.render.html.outline import section
from medfm_compress.bench.report import TEACHER, Report
from medfm_compress.bench.types.evaluation import Comparison
from medfm_compress.bench.types.verdict import Verdict
from medfm_compress.runtime.bundle.manifest import Outcome

WORDS: dict[Outcome, str] = {"pass": "Pass", "fail": "Fail", "inconclusive": "Inconclusive"}
_MEANS: dict[Outcome, str] = {
    "pass": "Every variant judged here keeps within every margin, floor and budget of the policy, whose hash was "
    "logged before these cases were evaluated.",
    "fail": "At least one variant breaks a limit of the policy, or is significantly worse than its margin "
    "allows. It must not be deployed.",
    "inconclusive": "Nothing was shown to be broken, and not everything required was shown to hold. This is not a "
    "pass: more cases, or a better model, are needed.",
}
_SIGNS: dict[Outcome, str] = {
    "pass": '<circle class="body" cx="12" cy="12" r="11"/><path class="sign" d="M6.8 12.4l3.5 3.6 7-7.6"/>',
    "fail": '<path class="body" d="M7.5 1h9L23 7.5v9L16.5 23h-9L1 16.5v-9z"/>'
    '<path class="sign" d="M8 8l8 8M16 8l-8 8"/>',
    "inconclusive": '<path class="body" d="M12 1l11 11-11 11L1 12z"/><path class="sign" d="M8 12h8"/>',
}
_SHOWN_REASONS = 12


def glyph(outcome: Outcome) -> str:
    """A sign whose shape alone tells the outcome: disc with a tick, octagon with a cross, diamond with a dash."""
    return f'<svg class="glyph" viewBox="0 0 24 24" aria-hidden="true">{_SIGNS[outcome]}</svg>'


def mark(outcome: Outcome, word: str = "") -> str:
    """Sign and word in the outcome's colour."""
    return f'<span class="mark {outcome}">{glyph(outcome)}{esc(word or WORDS[outcome])}</span>'


def verdict_panel(report: Report, verdict: Verdict) -> str:
    """The verdict, and whatever stands in the way of a pass."""
    kind = verdict.outcome
    items = [
        f"<li>{mark(check.outcome)}<span><b>{esc(check.name)}</b> "
        f'<span class="where">{esc(variant.variant)}</span><br>{esc(check.reason)}</span></li>'
        for outcome in ("fail", "inconclusive")
        for variant in verdict.variants
        for check in variant.checks
        if check.outcome == outcome
    ]
    if len(items) > _SHOWN_REASONS:
        rest = len(items) - _SHOWN_REASONS
        items = [*items[:_SHOWN_REASONS], f"<li><span></span><span>and {rest} more in {section('checks')}</span></li>"]
    if kind == "pass":
        items = [_passed(variant.variant, len(variant.checks)) for variant in verdict.variants]
    return (
        f'<div class="verdict {kind}">{glyph(kind)}<div class="word">{WORDS[kind]}</div>'
        f'<p class="means">{_MEANS[kind]}</p><ul>{"".join(items)}</ul></div>{_cautions(report, verdict)}'
    )


def summary_tiles(report: Report) -> str:
    """Accuracy, speed, size and memory of the first shipped variant against the teacher."""
    if not report.variants:
        return ""
    name = report.variants[0]
    tiles = [_accuracy_tile(report, name), _speed_tile(report, name), *_cost_tiles(report, name)]
    shown = "".join(f'<div class="tile">{tile}</div>' for tile in tiles if tile)
    noisy = (
        f'<p class="caution">The machine was noisy: see {section("speed")} before citing a speed.</p>'
        if report.noise
        else ""
    )
    which = f'<p class="note">Figures of the variant {esc(name)}, the first of {len(report.variants)}.</p>'
    return f'<div class="tiles">{shown}</div>{which if len(report.variants) > 1 else ""}{noisy}'


def _passed(variant: str, checks: int) -> str:
    plural = "check" if checks == 1 else "checks"
    return f"<li>{mark('pass')}<span><b>{esc(variant)}</b><br>all {checks} {plural} hold</span></li>"


def _cautions(report: Report, verdict: Verdict) -> str:
    """What must be known beside the outcome: notes, variants not judged, a verdict on something else."""
    lines = list(verdict.notes)
    if (verdict.model_digest, verdict.policy_sha256) != (report.model_digest, report.policy_sha256):
        lines.append("This verdict cites another model or policy than the report below: it is void.")
    missing = [name for name in report.shipped if name not in report.variants]
    if missing:
        lines.append(f"The bundle also ships {', '.join(missing)}, which this run did not evaluate.")
    return "".join(f'<p class="caution">{esc(line)}</p>' for line in lines)


def _accuracy_tile(report: Report, variant: str) -> str:
    mine = [found for found in report.comparisons if found.variant == variant and not found.subgroup]
    required = [found for found in mine if found.margin is not None] or mine
    if not required:
        return ""
    worst = min(required, key=_room)
    finding = f", {esc(worst.finding)}" if worst.finding and len(report.task.findings) > 1 else ""
    spread = esc(worst.too_few) or f"difference {bounds(worst.difference, sign=True)}"
    return (
        f'<div class="label">{METRIC_NAMES[worst.metric]}{finding}</div>'
        f'<div class="figure">{number(worst.bundle.estimate)} <small>{signed(worst.difference.estimate)}</small></div>'
        f'<div class="detail">teacher {number(worst.teacher.estimate)}<br>'
        f"{spread}</div>"
    )


def _room(comparison: Comparison) -> float:
    """How far the largest loss that the interval leaves possible stays below the margin."""
    return (comparison.margin or 0.0) - comparison.largest_loss


def _speed_tile(report: Report, variant: str) -> str:
    ratio = next((s.ratio for s in report.speedups if s.name == variant), None)
    teacher, bundle = report.measurement(TEACHER), report.measurement(variant)
    if ratio is None or teacher is None or bundle is None:
        return ""
    p50 = f"{milliseconds(teacher.quantile_ms(0.5))} → {milliseconds(bundle.quantile_ms(0.5))} ms"
    return _tile("Faster", factor(ratio.estimate), f"{factor(ratio.low)} to {factor(ratio.high)}<br>median {p50}")


def _cost_tiles(report: Report, variant: str) -> tuple[str, str]:
    teacher, bundle = report.measurement(TEACHER), report.measurement(variant)
    if teacher is None or bundle is None:
        return "", ""
    sizes = _ratio_tile("Smaller on disk", teacher.size_bytes, bundle.size_bytes)
    return sizes, _ratio_tile("Less peak memory", teacher.peak_rss_bytes, bundle.peak_rss_bytes)


def _ratio_tile(label: str, before: int, after: int) -> str:
    if before <= 0 or after <= 0:
        return ""
    return _tile(label, factor(before / after), f"{megabytes(before)} →<br>{megabytes(after)}")


def _tile(label: str, figure: str, detail: str) -> str:
    return f'<div class="label">{label}</div><div class="figure">{figure}</div><div class="detail">{detail}</div>'
