"""The first page of the report, its appendix, and what every reader needs of its markup."""

from __future__ import annotations

import re
from itertools import pairwise
from types import ModuleType

import msgspec
import pytest

from medfm_compress.bench.evaluate.paired_comparison import compare
from medfm_compress.bench.gate.gate import judge
from medfm_compress.bench.render.format import bounds, number, short_hashes, signed
from medfm_compress.bench.render.html.page import render_html
from medfm_compress.bench.render.html.requirements import MOST_ROWS, cards
from medfm_compress.bench.report import Report
from medfm_compress.bench.types.interval import Interval
from medfm_compress.bench.types.policy import Budget, FidelityLimits, NonInferiority, Policy
from medfm_compress.bench.types.quantization_step import (
    FURTHER,
    candidate_step,
    idle_candidate,
    keeps_out,
    refused_candidate,
)
from medfm_compress.bench.types.verdict import Check, Verdict

REFUSED = ("relative logit error 0.124 is above the limit 0.03", "not faster than FP32 on the measuring machine")


def words(markup: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", markup)).strip()


def section(page: str, key: str) -> str:
    match = re.search(rf'<section id="{key}">.*?</section>', page, flags=re.DOTALL)
    assert match
    return match.group()


def top(page: str) -> str:
    return page[page.index("<header>") : page.index("<nav")]


def under(full: ModuleType, policy: Policy) -> Report:
    report = full.make_report()
    teacher, *others = (table.to_evaluation() for table in report.evaluations)
    compared = tuple(comparison for other in others for comparison in compare(teacher, other, policy))
    return msgspec.structs.replace(report, policy=policy, comparisons=compared)


@pytest.fixture(scope="module")
def strict(full: ModuleType) -> Report:
    """Under a policy with a limit of every kind, some of which nothing can keep."""
    return under(
        full,
        Policy(
            non_inferiority=(
                NonInferiority(metric="auroc", margin=0.05, teacher_floor=0.8, bundle_floor=0.99),
                NonInferiority(metric="brier", margin=0.05, bundle_floor=0.3),
            ),
            budget=Budget(p50_ms=0.5, p99_ms=5, size_bytes=20_000_000, min_speedup=5, peak_gpu_bytes=1, max_slowdown=2),
            fidelity=FidelityLimits(max_relative_logit_error=0.5, min_agreement=0.5),
            resamples=1000,
        ),
    )


@pytest.mark.parametrize("outcome", ["pass", "fail", "inconclusive"])
def test_outcomes_differ_in_word_sentence_shape_and_border(full: ModuleType, outcome: str) -> None:
    report = full.make_report()
    page = render_html(report, full.make_verdict(report, (outcome, outcome)))
    banner = re.search(r'<div class="verdict.*?</div>', page, flags=re.DOTALL).group()
    sentences = {
        "pass": "Everything that the policy requires holds.",
        "fail": "A limit of the policy is broken: this bundle must not be deployed.",
        "inconclusive": "These cases do not settle it: this is not a pass.",
    }
    assert [other for other, sentence in sentences.items() if sentence in words(banner)] == [outcome]
    assert f"Verdict: {outcome.capitalize()}" in words(banner)
    assert len(re.findall(r'class="body"', banner)) == 1
    assert ("<circle" in banner) == (outcome == "pass")
    assert ("M7.5 1h9" in banner) == (outcome == "fail")
    if outcome != "pass":
        style = {"fail": "double", "inconclusive": "dashed"}[outcome]
        assert re.search(rf"\.verdict\.{outcome} {{ border-left-style: {style}", page)


def test_every_requirement_leads_with_its_figures_before_any_other_metric(strict: Report) -> None:
    page = render_html(strict, judge(strict))
    first = top(page)
    text = words(first)
    required = text[text.index("What the policy requires") : text.index("What was gained and lost")]
    variant = strict.variants[0]
    for metric, name, loss in (("auroc", "AUROC", "drop"), ("brier", "Brier score", "rise")):
        (one,) = [c for c in strict.comparisons if c.variant == variant and c.metric == metric and not c.subgroup]
        cells = (one.teacher, one.bundle)
        figures = " ".join(f"{number(value.estimate)} {bounds(value)}" for value in cells)
        change = f"{signed(one.difference.estimate)} {bounds(one.difference, sign=True)}"
        assert f"{name} of pneumonia {figures} {change} {loss} below 0.05" in required
    assert "AUROC of pneumonia, floor of the bundle – 0.959" in required
    assert "AUROC of pneumonia, floor of the teacher 0.957" in required
    assert re.search(
        r"P50 latency 25\.\d ms [\d.]+ to [\d.]+ 1\.\d+ ms [\d.]+ to [\d.]+ −2\d\.\d ms at most 0\.5 ms", text
    )
    assert re.search(r"Speed-up at p50 – 15\.\d× \S+ to \S+ – at least 5×", required)
    assert "Size 92.1 MB 5.10 MB −87.0 MB at most 20 MB" in required
    assert re.search(r"Relative logit error – 0\.\d+ – at most 0\.5", required)
    assert re.search(r"share of patients – \S+% \S+ to \S+% – at least 50%", required)
    beside = text[text.index("What was gained and lost") :]
    assert "Sensitivity" in beside and "Specificity" in beside and "AUROC" not in beside
    assert "Sensitivity" not in required


@pytest.mark.parametrize(
    ("high", "too_few", "said"), [(-0.01, "", True), (0.01, "", False), (-0.01, "3 patients", False)]
)
def test_a_loss_beyond_doubt_that_no_margin_covers_is_said(
    strict: Report, high: float, too_few: str, said: bool
) -> None:
    difference = Interval(estimate=-0.05, low=-0.08, high=high)
    comparisons = tuple(
        msgspec.structs.replace(entry, difference=difference, too_few=too_few)
        if entry.metric == "specificity"
        else entry
        for entry in strict.comparisons
    )
    changed = msgspec.structs.replace(strict, comparisons=comparisons)
    text = words(top(render_html(changed, judge(changed))))
    beside = text[text.index("What was gained and lost") :]
    assert ("worse beyond doubt; the policy has no margin for it" in beside) == said


def test_every_check_of_the_policy_has_its_row(strict: Report) -> None:
    verdict = judge(strict)
    for card, judged in zip(cards(strict, verdict), verdict.variants, strict=True):
        assert len(card.requirements) + card.hidden == len(judged.checks) == sum(card.counts.values())
        outcomes = [entry.outcome for entry in card.requirements]
        assert outcomes == sorted(outcomes, key=("fail", "inconclusive", "pass").index)
        assert outcomes[0] == "fail"
        shown = [entry for entry in card.requirements if not entry.row.is_bare]
        assert {entry.row.name for entry in card.requirements} - {entry.row.name for entry in shown} <= {
            "Peak GPU memory",
            "Slowdown",
        }
        assert all(entry.row.required for entry in card.requirements)


def test_what_was_not_compared_goes_by_the_written_name_of_its_metric(strict: Report) -> None:
    verdict = judge(strict)  # of this report, whose comparisons do not come to the page
    page = words(top(render_html(msgspec.structs.replace(strict, comparisons=()), verdict)))
    assert "AUROC of pneumonia" in page and "Brier score of pneumonia" in page
    assert not re.search(r"Auroc|auroc of|Brier of", page)


def test_what_is_not_met_says_why_without_the_figures_again(full: ModuleType) -> None:
    report = full.make_report()
    text = words(top(render_html(report, judge(report))))
    assert "A drop so large is neither shown nor ruled out" in text
    assert "difference +0" not in text and "difference -0" not in text


def test_one_reason_of_several_rows_is_written_once(full: ModuleType) -> None:
    policy = Policy(
        non_inferiority=(NonInferiority(metric="auroc", margin=0.05, teacher_floor=0.8),), min_clusters=9000
    )
    report = under(full, policy)
    text = words(top(render_html(report, judge(report))))
    assert text.count("the policy asks for 9000") == len(report.variants)
    assert "0.957 no interval" in text


def test_checks_that_the_report_cannot_place_keep_their_reason(full: ModuleType) -> None:
    report = full.make_report()
    check = Check(name="something else", outcome="inconclusive", reason="nobody knows")
    verdict = full.make_verdict(report)
    variants = (msgspec.structs.replace(verdict.variants[0], outcome="inconclusive", checks=(check,) * 40),)
    page = render_html(report, msgspec.structs.replace(verdict, outcome="inconclusive", variants=variants))
    text = words(top(page))
    assert "Something else" in text and "Nobody knows" in text
    assert f"And {40 - MOST_ROWS} more in section 4" in text


def test_many_variants_keep_the_first_page_short(full: ModuleType) -> None:
    report = full.make_report()
    verdict = judge(report)
    many = msgspec.structs.replace(verdict, variants=verdict.variants * 6)
    assert {len(card.requirements) for card in cards(report, many)} == {6}


def test_a_step_is_read_as_it_is_written() -> None:
    for reason in (*REFUSED, "odd kept: and refused: both", "two\nlines"):
        refused = refused_candidate(candidate_step("openvino-cpu-int8", "int8-mse+smoothquant", reason, kept=False))
        assert refused == ("openvino-cpu-int8", "int8-mse+smoothquant", reason)
        assert refused_candidate(candidate_step("openvino-cpu-int8", "int8-mse", reason, kept=True)) is None or (
            "refused:" in reason
        )
    assert refused_candidate("quantize: calibrated on 55 training cases, seed 0") is None


def test_what_there_was_no_time_for_was_not_tried() -> None:
    said = [idle_candidate(FURTHER, "the time budget was used up"), idle_candidate("bf16", "this CPU lacks amx_bf16")]
    assert said == [
        "further candidates were not tried: the time budget was used up",
        "bf16 does not apply: this CPU lacks amx_bf16",
    ]
    assert all(map(keeps_out, said)) and keeps_out(candidate_step("v", "m", "too far", kept=False))
    assert not keeps_out("calibrated on 55 images, seed 0")


def test_refused_candidates_stand_in_the_appendix_alone(full: ModuleType) -> None:
    report = full.make_report()
    lines = [
        candidate_step("openvino-cpu-int8", f"int8-method-{n}", reason, kept=False) for n, reason in enumerate(REFUSED)
    ]
    kept = candidate_step("openvino-cpu-int8", "int8-chosen", "fastest within the limits", kept=True)
    provenance = msgspec.structs.replace(report.provenance, steps=(*report.provenance.steps, *lines, kept))
    page = render_html(msgspec.structs.replace(report, provenance=provenance), full.make_verdict(report))
    appendix = section(page, "candidates")
    assert page.count("int8-method-0") == page.count("int8-method-1") == 1
    for n, reason in enumerate(REFUSED):
        assert f"openvino-cpu-int8 int8-method-{n} {reason}" in words(appendix)
    change = words(section(page, "change"))
    assert "2 candidates were tried and not shipped : see the appendix, section 15" in change
    assert "int8-chosen kept: fastest" in change
    without = render_html(report, full.make_verdict(report))
    assert "tried and not shipped" not in words(section(without, "change"))
    assert "names no candidate" in words(section(without, "candidates"))


def test_hashes_are_whole_in_the_appendix_and_nowhere_else(full: ModuleType) -> None:
    report = full.make_report()
    digest = "0123456789abcdef" * 4
    evil = full.hostile_report(report, f"of {digest}, v")
    check = Check(name=digest, outcome="fail", reason=f"sha256:{digest}")
    verdict = full.make_verdict(report)
    variants = (msgspec.structs.replace(verdict.variants[0], variant=digest, checks=(check,)),)
    verdict = Verdict(
        outcome="fail", variants=variants, policy_sha256=digest, model_digest=digest, notes=(f"file_{digest}.onnx",)
    )
    for page in (render_html(evil, verdict), render_html(report, judge(report))):
        appendix = section(page, "provenance")
        assert not re.findall(r"[0-9a-fA-F]{40,}", page.replace(appendix, ""))
        for whole in (report.model_digest, report.study_fingerprint):
            assert whole in appendix
    assert digest in section(render_html(evil, verdict), "provenance")
    assert report.slowdowns[0].baseline_digest in appendix
    assert all(entry.model_digest in appendix for entry in report.test_set_evaluations)


@pytest.mark.parametrize(
    ("text", "short"),
    [
        ("a" * 64, "a" * 12),
        (f"x@{'0F' * 20}.", "x@0F0F0F0F0F0F."),
        ("a" * 39, "a" * 39),
        ("z" + "a" * 64, "z" + "a" * 64),
    ],
)
def test_words_of_forty_hexadecimal_digits_are_shortened(text: str, short: str) -> None:
    assert short_hashes(text) == short


def test_markup_serves_a_keyboard_and_a_screen_reader(full: ModuleType, strict: Report) -> None:
    several = full.make_report(findings=("effusion", "nodule"))
    for page in (
        render_html(several, judge(several)),
        render_html(strict, judge(strict)),
        render_html(full.make_multiclass_report(4), full.make_verdict(full.make_multiclass_report(4))),
    ):
        levels = [int(level) for level in re.findall(r"<h([1-6])", page)]
        assert levels[0] == 1 and levels.count(1) == 1
        assert all(later <= earlier + 1 for earlier, later in pairwise(levels))
        tables = re.findall(r"<table.*?</table>", page, flags=re.DOTALL)
        assert len(tables) > 10
        for table in tables:
            assert re.match(r"<table[^>]*>\s*<caption", table)
            assert words(re.search(r"<caption.*?</caption>", table, flags=re.DOTALL).group())
        headers = re.findall(r"<th\b([^>]*)>(.*?)</th>", page, flags=re.DOTALL)
        assert all("scope=" in attributes and words(content) for attributes, content in headers)
        assert all('tabindex="0"' in div for div in re.findall(r'<div class="wide[^>]*>', page))
        assert 'lang="en"' in page and 'aria-label="Contents"' in page
