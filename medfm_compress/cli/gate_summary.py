"""What ``gate`` prints for people: the verdict, one block a variant, what stands in the way, what changed."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

from medfm_compress.cli import console

if TYPE_CHECKING:
    from medfm_compress.bench.gate.baseline_report import BaselineComparison
    from medfm_compress.bench.gate.decision import Decision
    from medfm_compress.bench.types.verdict import VariantVerdict

_WIDTH = 110  # of a line at most
_INDENT = "    "  # of what goes on below, where there is no room for more


def print_decision(decision: Decision) -> None:
    """Print everything that a reader needs to act on a verdict."""
    verdict, report = decision.verdict, decision.report
    console.say(f"{verdict.outcome.upper()}: {report.bundle_name} (model {verdict.model_digest[:12]})")
    for note in verdict.notes:
        _say_wrapped(f"note: {note}", "      ")
    for judged in verdict.variants:
        console.say()
        _print_variant(decision, judged)
    if decision.earlier:
        console.say()
        _print_baseline(decision.earlier)


def _print_variant(decision: Decision, judged: VariantVerdict) -> None:
    from medfm_compress.bench.render.format import bounds, number, signed

    console.say(f"{judged.variant}: {judged.outcome}")
    compared = {check.name: decision.comparison(judged.variant, check) for check in judged.checks}
    width = max((len(check.name) for check in judged.checks), default=0)
    rows = [
        [
            f"{check.outcome:<12}  {check.name:<{width}}",
            number(comparison.teacher.estimate),
            number(comparison.bundle.estimate),
            signed(comparison.difference.estimate),
            bounds(comparison.difference, sign=True),
            f"{comparison.margin:.4g}",
        ]
        for check in judged.checks
        if (comparison := compared[check.name])
    ]
    level = f"{100 * (1 - 2 * decision.policy.alpha):.4g}% interval"
    if rows:
        console.table(["bundle − teacher", "teacher", "bundle", "difference", level, "margin"], rows)
    for check in judged.checks:
        if compared[check.name] is None:
            _say_wrapped(f"{check.outcome:<12}  {check.name:<{width}}  {check.reason}", " " * (16 + width))
    # The table has no room for why a comparison is not a pass.
    for check in judged.checks:
        if check.outcome != "pass" and compared[check.name]:
            console.say()
            _say_wrapped(f"{check.outcome}: {check.name}: {check.reason}", "    ")


def _print_baseline(earlier: BaselineComparison) -> None:
    from medfm_compress.bench.render.format import milliseconds, number, signed

    console.say(f"against the report of {earlier.created} (model {earlier.model_digest[:12]}), not judged:")
    rows = [
        [f"{change.name} ({change.variant})", number(change.before), number(change.now),
         signed(change.now - change.before)]
        for change in earlier.estimates
    ]  # fmt: skip
    rows += [
        [f"{change.name}, ms ({change.variant})", milliseconds(change.before), milliseconds(change.now),
         signed(change.now - change.before)]
        for change in earlier.medians_ms
    ]  # fmt: skip
    console.table(["figure", "then", "now", "change"], rows)
    if earlier.untimed:
        console.say(f"timings: {earlier.untimed}")


def _say_wrapped(text: str, indent: str) -> None:
    width = console.line_width(_WIDTH)
    indent = indent if len(indent) < width // 2 else _INDENT
    for line in textwrap.wrap(text, width, subsequent_indent=indent, break_on_hyphens=False):
        console.say(line)
