"""The HTML report: complete, self-contained, and deaf to hostile strings."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType

import msgspec
import numpy as np
import pytest

from medfm_compress.bench.evaluate.roc_pr_curves import precision_recall, roc
from medfm_compress.bench.gate.gate import judge
from medfm_compress.bench.render.html.page import render_html
from medfm_compress.bench.render.html.subgroups import column_of, worst_group
from medfm_compress.bench.report import Report, load_report, save_report
from medfm_compress.bench.types.evaluation import Comparison
from medfm_compress.bench.types.interval import Interval
from medfm_compress.bench.types.policy import NonInferiority, Policy, SubgroupRule
from medfm_compress.bench.types.verdict import Check, VariantVerdict, Verdict
from medfm_compress.runtime.errors import InputError

HOSTILE = "<script>alert('x')</script>\"><img src=x onerror=alert(1)> & ' \x07"
VOID = {"meta", "br", "line", "rect", "circle", "path", "polyline", "img"}


class Balance(HTMLParser):
    """Every opened element is closed by its own kind."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()
        self.text: list[str] = []
        self.attributes: list[tuple[str, str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def parse(page: str) -> Balance:
    parser = Balance()
    parser.feed(page)
    parser.close()
    assert parser.open == []
    return parser


def words(page: str) -> str:
    """What a reader sees."""
    return re.sub(r"\s+", " ", " ".join(parse(page).text))


def section(page: str, key: str) -> str:
    """What a reader sees of one section."""
    match = re.search(rf'<section id="{key}">.*?</section>', page, flags=re.DOTALL)
    assert match
    return words(match.group())


@pytest.fixture(scope="module")
def report(full: ModuleType) -> Report:
    return full.make_report()


@pytest.fixture(scope="module")
def page(full: ModuleType, report: Report) -> str:
    return render_html(report, judge(report))


@pytest.mark.parametrize("outcome", ["pass", "fail", "inconclusive"])
def test_verdict_stands_first_and_in_words(full: ModuleType, report: Report, outcome: str) -> None:
    text = words(render_html(report, full.make_verdict(report, ("pass", outcome))))
    word = outcome.capitalize()
    assert word in text
    assert text.index(word) < text.index("From teacher to bundle")
    if outcome != "pass":
        assert text.index("margin 0.02") < text.index("From teacher to bundle")


def test_page_needs_nothing_from_elsewhere(page: str) -> None:
    parsed = parse(page)
    assert not parsed.seen & {"script", "link", "img", "iframe", "object", "use", "foreignobject", "base", "form"}
    assert not {name for name, _ in parsed.attributes} & {"src", "srcset", "action", "onload"}
    assert not re.search(r"https?:|//[a-z]|@import|@font-face", page)
    assert set(re.findall(r"url\(#([^)]*)\)", page)) <= set(re.findall(r'<pattern id="(\w+)"', page))
    assert len(re.findall(r"url\(", page)) == len(re.findall(r"url\(#", page))


def test_every_link_leads_inside_the_page_or_to_a_local_file_that_was_made(report: Report, page: str) -> None:
    ids = re.findall(r' id="([^"]+)"', page)
    assert len(set(ids)) == len(ids)
    links = {value for name, value in parse(page).attributes if name == "href"}
    assert links
    assert links <= {f"#{name}" for name in ids}
    linked = render_html(report, judge(report), ("flips.csv",))
    added = {value for name, value in parse(linked).attributes if name == "href"} - links
    assert added == {"flips.csv"}
    with pytest.raises(InputError, match="evil"):
        render_html(report, judge(report), ("evil.html",))


def test_page_names_no_case_and_no_patient(full: ModuleType, page: str) -> None:
    evaluation = full.make_evaluation("teacher", ("pneumonia",))
    assert evaluation.images[17] not in page
    assert evaluation.clusters[17] not in page


def test_hostile_strings_stay_text(full: ModuleType) -> None:
    several = full.make_report(findings=("a", HOSTILE))
    evil = full.hostile_report(several, HOSTILE)
    check = Check(name=HOSTILE, outcome="fail", reason=HOSTILE)
    verdict = Verdict(
        outcome="fail",
        variants=(VariantVerdict(variant=HOSTILE, outcome="fail", checks=(check,)),),
        policy_sha256=HOSTILE,
        model_digest=HOSTILE,
        notes=(HOSTILE,),
    )
    rendered = render_html(evil, verdict)
    parsed = parse(rendered)
    assert not parsed.seen & {"script", "img"}
    assert not [name for name, _ in parsed.attributes if name.startswith("on")]
    assert "\x07" not in rendered
    assert rendered.count("&lt;script&gt;") > 100


def test_parts_follow_a_change_control_plan_and_claim_no_clearance(page: str) -> None:
    text = words(page)
    body = text[text.index("What was changed?") :]
    places = [body.index(name) for name in ("Modification protocol", "Impact assessment", "Appendix")]
    assert places == sorted(places)
    assert "not a clearance" in text


def test_several_findings_and_variants_are_all_shown(full: ModuleType) -> None:
    findings = ("effusion", "nodule", "oedema")
    report = full.make_report(findings=findings)
    text = words(render_html(report, judge(report)))
    for name in (*findings, *report.variants, full.EXTERNAL):
        assert name in text


def test_what_does_not_fit_is_counted(full: ModuleType) -> None:
    report = full.make_report(findings=tuple("abcdefg"))
    logged = report.test_set_evaluations
    report = msgspec.structs.replace(report, test_set_evaluations=7 * logged + logged[:1])
    checks = tuple(Check(name=f"limit {number}", outcome="fail", reason="x") for number in range(32))
    variants = (VariantVerdict(variant=report.variants[0], outcome="fail", checks=checks),)
    page = render_html(report, msgspec.structs.replace(full.make_verdict(report), outcome="fail", variants=variants))
    assert "And 8 more in section 4" in words(page)
    assert "And 3 earlier." in section(page, "protocol")
    assert "Drawn for the first 4 of 7 findings." in section(page, "flips")
    assert re.search(r"\d+ more changes are not listed", section(page, "flips"))
    assert "3 more findings not drawn." in section(page, "calibration")
    assert "1 more finding not drawn." in section(page, "tradeoff")
    assert re.search(
        r"32 requirements are broken : limit 0 .* limit 5 \(\S+\) and others; see", section(page, "limits")
    )


@pytest.mark.parametrize("classes", [4, 14])
def test_labels_that_exclude_each_other_are_decided_by_the_largest(full: ModuleType, classes: int) -> None:
    report = full.make_multiclass_report(classes)
    page = render_html(report, full.make_verdict(report))
    text = section(page, "curves")
    assert "calls the most probable label" in text
    assert ("Not drawn: 14 classes; at most 12 fit a page." in text) == (classes == 14)
    assert ("By the most probable class." in text) == (classes == 4)
    if classes == 4:
        truth, called = (np.array(values).argmax(axis=1) for values in (report.teacher.truth, report.teacher.scores))
        assert f"truly label 1 {((truth == 1) & (called == 0)).sum()} " in text
    assert "newly wrong harmful" in section(page, "flips")


def test_groups_show_sizes_name_the_small_one_and_call_out_the_worst(report: Report, page: str) -> None:
    text = section(page, "groups")
    for name in ("By sex", "By age", "18 <= age < 65", "By site", "site = east"):
        assert name in text
    assert "1 group too small to judge: site = east" in text
    assert "12 patients, the policy asks for 30" in text
    compared = [c for c in report.comparisons if c.variant == report.variants[1] and c.metric == "auroc" and c.subgroup]
    lowest = min(c.difference.low for c in compared if not c.too_few)
    assert f"at least −{abs(lowest):.3f} with 97.5% confidence" in text
    brier = [c for c in report.comparisons if c.variant == report.variants[1] and c.metric == "brier" and c.subgroup]
    assert f"at most +{max(c.difference.high for c in brier):.3f} with 97.5% confidence" in text


def test_margin_of_an_error_stands_above_zero(page: str) -> None:
    assert re.search(r"Brier score \S+ \S+ to \S+ .{0,60}\+0\.01 (not )?excluded", section(page, "accuracy"))
    assert "AUROC every finding all −0.02" in section(page, "protocol")
    assert "Brier score every finding all +0.01" in section(page, "protocol")
    assert "logit profile, no shorter than the score's (AUROC" in section(page, "protocol")
    assert "a loss in patients of a kind that happens to be missing" in section(page, "protocol")


def test_log_loss_does_not_stretch_the_other_scales(report: Report) -> None:
    def widest(changed: Report) -> list[str]:
        drawn = render_html(changed, judge(report))
        return re.findall(r'<th scope="row">(?:AUROC|Brier score)</th>.*?cx="([\d.]+)"', drawn, flags=re.DOTALL)

    huge = tuple(
        msgspec.structs.replace(comparison, difference=Interval(estimate=4.0, low=3.0, high=9.0))
        if comparison.metric == "log_loss"
        else comparison
        for comparison in report.comparisons
    )
    places = widest(report)
    assert len(places) > 3
    assert widest(msgspec.structs.replace(report, comparisons=huge)) == places


def compared(subgroup: str, low: float, high: float, too_few: str = "", metric: str = "auroc") -> Comparison:
    interval = Interval(estimate=(low + high) / 2, low=low, high=high)
    return Comparison(
        metric=metric,
        finding="x",
        variant="v",
        teacher=interval,
        bundle=interval,
        difference=interval,
        subgroup=subgroup,
        too_few=too_few,
    )


def test_worst_group_is_the_largest_loss_that_is_left_possible() -> None:
    groups = [compared("", -0.9, 0), compared("a", -0.02, 0.05), compared("b", -0.03, -0.01)]
    groups.append(compared("c", -1, 1, too_few="3 patients"))
    assert worst_group(groups).subgroup == "b"
    errors = [compared("a", -0.05, 0.02, metric="brier"), compared("b", -0.09, 0.03, metric="brier")]
    assert worst_group(errors).subgroup == "b"
    assert worst_group(groups[-1:]) is None


@pytest.mark.parametrize(
    ("name", "column"),
    [
        ("sex = F", "sex"),
        ("age < 18", "age"),
        ("18 <= age < 65", "age"),
        ("age at scan >= 65", "age at scan"),
        ("q", ""),
    ],
)
def test_group_is_told_to_its_column(name: str, column: str) -> None:
    rules = tuple(SubgroupRule(column=known) for known in ("sex", "age", "age at scan"))
    policy = Policy(non_inferiority=(NonInferiority(metric="auroc", margin=0.1),), subgroups=rules)
    assert column_of(policy, name) == column


def test_report_without_groups_says_so(full: ModuleType, report: Report) -> None:
    plain = msgspec.structs.replace(
        report,
        comparisons=tuple(comparison for comparison in report.comparisons if not comparison.subgroup),
        policy=Policy(non_inferiority=(NonInferiority(metric="auroc", margin=0.02),)),
    )
    drawn = render_html(plain, full.make_verdict(plain))
    assert "No groups of patients were compared" in section(drawn, "groups")
    assert "No group of patients was compared" in section(drawn, "limits")


def test_flips_are_counted_by_what_they_mean_and_listed_by_number(report: Report, page: str) -> None:
    text = section(page, "flips")
    teacher, variant = (np.array(table.decisions)[:, 0] for table in report.evaluations[:2])
    truth = np.array(report.teacher.truth)[:, 0]
    missed, alarms = int(((truth & teacher) > variant).sum()), int(((1 - truth) & (1 - teacher) & variant).sum())
    assert missed
    assert f"{report.variants[0]} {missed} {alarms}" in text
    first = int(np.flatnonzero(truth & teacher & (1 - variant))[0]) + 1
    assert re.search(rf"\b{first} newly missed", text)
    assert f"decides {missed + alarms} cases wrongly that the teacher decides rightly" in section(page, "limits")


def test_evaluations_of_the_test_split_are_told_plainly(full: ModuleType, report: Report, page: str) -> None:
    assert "This test split has been looked at 2 times, this report included. It saw 2 models under 1 policy." in words(
        page
    )
    once = msgspec.structs.replace(report, test_set_evaluations=report.test_set_evaluations[-1:])
    assert "looked at once, for this report." in words(render_html(once, full.make_verdict(once)))
    never = msgspec.structs.replace(report, test_set_evaluations=())
    assert "is not known" in section(render_html(never, full.make_verdict(never)), "protocol")


def test_tradeoff_says_what_is_hollow_and_who_is_unbeaten(page: str) -> None:
    text = section(page, "tradeoff")
    assert "Hollow marks (teacher in ONNX Runtime, teacher in OpenVINO) were timed and not evaluated" in text
    assert "openvino-cpu-int8" in text[text.index("Beaten by nobody") :]


def test_speed_shows_stages_scenarios_slowdown_and_warm_up(page: str) -> None:
    text = section(page, "speed")
    for fact in (
        "read and decode",
        "Under load",
        "unofficial",
        "20 s in place of 600 s",
        "had not settled",
        "New / old",
    ):
        assert fact in text
    assert "no difference shown" in text


def test_calibration_gives_errors_before_and_after(report: Report, page: str) -> None:
    text = section(page, "calibration")
    scores, truth = np.array(report.teacher.scores)[:, 0], np.array(report.teacher.truth)[:, 0]
    logits = np.array(report.teacher.logits)
    before = 1 / (1 + np.exp(logits[:, 0] - logits[:, 1]))
    for values in (before, scores):
        assert f"{((values - truth) ** 2).mean():.4f}" in text


def test_explanations_show_the_floor(report: Report, page: str) -> None:
    text = section(page, "explanations")
    assert f"{np.median(report.explanations[0].rank_correlation):.3f}" in text
    assert "random weights" in text and "point at what was drawn" not in text


def test_pointing_stands_beside_the_teachers(report: Report) -> None:
    row = report.explanations[0]
    points = [None if number % 3 == 0 else float(number % 2) for number in range(len(row.cases))]
    none = tuple(None if value is None else 0.0 for value in points)
    drawn = msgspec.structs.replace(row, pointing=none, teacher_pointing=tuple(points))
    shown = msgspec.structs.replace(report, explanations=(drawn,))
    text = section(render_html(shown, judge(report)), "explanations")
    own = [value for value in points if value is not None]
    assert "point at what was drawn" in text
    teacher, difference = f" {len(own)} {np.mean(own):.2f} ", f" −{np.mean(own):.2f} "
    assert teacher in text and difference in text[text.index(teacher) :]  # the variant hits nothing


def test_unmeasured_and_uncomputed_values_are_dashes(full: ModuleType, report: Report) -> None:
    nothing = Interval(estimate=0.5, low=float("nan"), high=float("nan"))
    comparison = msgspec.structs.replace(report.comparisons[0], difference=nothing)
    bare = msgspec.structs.replace(
        report,
        comparisons=(comparison,),
        measurements=(),
        speedups=(),
        fidelity=(),
        scenarios=(),
        slowdowns=(),
        explanations=(),
        test_set_evaluations=(),
        notes=(),
        external_models=(),
        evaluations=report.evaluations[:-1],
    )
    text = words(render_html(bare, full.make_verdict(bare)))
    assert "Nothing was measured" in text
    assert not re.search(r"\bnan\b", text)


def test_verdict_on_another_model_is_called_void(full: ModuleType, report: Report) -> None:
    other = msgspec.structs.replace(full.make_verdict(report), model_digest="f" * 64)
    assert "void" in words(render_html(report, other))


def test_noise_and_unjudged_variants_are_said_at_the_top(full: ModuleType, report: Report) -> None:
    noisy = msgspec.structs.replace(report, noise=("the load was 9.0",), shipped=(*report.variants, "forgotten"))
    text = words(render_html(noisy, full.make_verdict(noisy)))
    top = text[: text.index("What was changed?")]
    assert "Noisy timings: the load was 9.0. See" in top
    assert "also ships forgotten" in top


def test_report_survives_its_json(tmp_path: Path, report: Report) -> None:
    save_report(report, tmp_path / "report.json")
    assert load_report(tmp_path / "report.json") == report
    assert len(json.loads((tmp_path / "report.json").read_bytes())["looks"]) == len(report.test_set_evaluations)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda raw: raw.replace(b'"schema_version":2', b'"schema_version":9', 1), "schema 9"),
        (lambda raw: raw.replace(b'"split"', b'"spilt"', 1), "spilt"),
        (lambda raw: raw[:-40], "report.json"),
        (
            lambda raw: re.sub(rb'"cases_sha256":"\w{64}"', b'"cases_sha256":"' + b"d" * 64 + b'"', raw, count=1),
            "cases",
        ),
    ],
)
def test_altered_report_is_refused(tmp_path: Path, report: Report, change, complaint: str) -> None:
    path = tmp_path / "report.json"
    save_report(report, path)
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(InputError, match=complaint):
        load_report(path)


def test_roc_equals_its_definition_with_ties() -> None:
    truth, scores = np.array([1, 0, 1, 0, 1]), np.array([0.9, 0.5, 0.5, 0.1, 0.5])
    curve = roc(truth, scores)
    np.testing.assert_allclose(curve.x, [0, 0, 0.5, 1])
    np.testing.assert_allclose(curve.y, [0, 1 / 3, 1, 1])


def test_curves_agree_with_scikit_learn() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    random = np.random.default_rng(3)
    truth, scores = (random.random(300) < 0.3).astype(int), random.random(300).round(2)
    curve = roc(truth, scores)
    assert np.trapezoid(curve.y, curve.x) == pytest.approx(metrics.roc_auc_score(truth, scores), abs=1e-12)
    steps = precision_recall(truth, scores)
    area = float(np.sum(np.diff(steps.x)[::1] * steps.y[1:]))
    assert area == pytest.approx(metrics.average_precision_score(truth, scores), abs=1e-12)


def test_curves_of_one_class_are_empty() -> None:
    assert roc(np.ones(4, dtype=int), np.arange(4.0)).x.size == 0
    assert precision_recall(np.zeros(4, dtype=int), np.arange(4.0)).x.size == 0
