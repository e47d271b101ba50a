"""The HTML report: complete, self-contained, and deaf to hostile strings."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import numpy as np
import pytest

from medfm_compress.bench.curves import precision_recall, roc
from medfm_compress.bench.evaluate import EvaluationTable
from medfm_compress.bench.html import render_html
from medfm_compress.bench.machine import Machine
from medfm_compress.bench.report import REPORT_SCHEMA_VERSION, Report, Speedup, load_report, save_report
from medfm_compress.bench.speedup import speedup
from medfm_compress.bench.types import (
    METRICS,
    Budget,
    Check,
    Comparison,
    Interval,
    Measurement,
    NonInferiority,
    Policy,
    VariantVerdict,
    Verdict,
)
from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.manifest import Provenance
from medfm_compress.runtime.task import OperatingPoint, Task

HOSTILE = "<script>alert('x')</script>\"><img src=x onerror=alert(1)> & ' \x07"
VOID = {"meta", "br", "line", "rect", "circle", "path", "polyline"}


def make_evaluation(name: str, findings: tuple[str, ...], noise: float, cases: int = 624) -> EvaluationTable:
    random = np.random.default_rng(0)
    truth = (random.random((cases, len(findings))) < 0.6).astype(int)
    base = truth * 2.9 + random.standard_normal(truth.shape) * 1.25 - 1.2
    logit = base + noise * np.random.default_rng(len(name)).standard_normal(truth.shape)
    scores = 1 / (1 + np.exp(-logit))
    return EvaluationTable(
        name=name,
        findings=findings,
        cases_sha256="c" * 64,
        logits=tuple(map(tuple, np.hstack([-logit / 2, logit / 2]).tolist())),
        scores=tuple(map(tuple, scores.tolist())),
        truth=tuple(map(tuple, truth.tolist())),
        decisions=tuple(map(tuple, (scores >= 0.44).astype(int).tolist())),
        clusters=tuple((np.arange(cases) * 400 // cases).tolist()),
        subgroups={"sex": tuple(random.choice(["F", "M"], cases).tolist()), "site": ("north",) * cases},
    )


def make_measurement(name: str, target: str, ms: float, mb: float, rss: float) -> Measurement:
    random = np.random.default_rng(len(name))
    samples = ms * (1 + 0.02 * random.standard_exponential(400)) + (random.random(400) > 0.98) * ms * 0.3
    end_to_end = tuple((18.5 + samples[:80] * 1.02).tolist())
    return Measurement(
        name=name,
        target=target,
        session_ms=tuple(samples.tolist()),
        end_to_end_ms=end_to_end if "other" not in name else (),
        first_prediction_ms=400 + ms * 40,
        peak_rss_bytes=int(rss * 1e6),
        size_bytes=int(mb * 1e6),
        warm_up_calls=32,
        calls_per_round=20,
    )


def make_comparisons(variants: tuple[str, ...], findings: tuple[str, ...]) -> tuple[Comparison, ...]:
    values = dict(zip(METRICS, (0.963, 0.971, 0.913, 0.951, 0.850, 0.914, 0.932), strict=True))
    found = []
    for place, variant in enumerate(variants):
        for finding in findings:
            for number, metric in enumerate(METRICS):
                shift, half = (-0.002, 0.003, -0.005, 0.001, -0.014, 0.004, -0.001)[number] * (1 + place), 0.009
                wide = half * (1 if metric.startswith("au") else 1.8)
                value = values[metric]
                found.append(
                    Comparison(
                        metric=metric,
                        finding=finding,
                        variant=variant,
                        margin={"auroc": 0.02, "sensitivity": 0.03}.get(metric),
                        teacher=Interval(estimate=value, low=value - 0.016, high=value + 0.013),
                        bundle=Interval(estimate=value + shift, low=value + shift - 0.017, high=value + shift + 0.014),
                        difference=Interval(estimate=shift, low=shift - wide, high=shift + wide, method="DeLong"),
                    )
                )
    return tuple(found)


def make_report(
    variants: tuple[str, ...] = ("openvino-cpu-int8", "onnxruntime-cpu-int8"),
    findings: tuple[str, ...] = ("pneumonia",),
    text: str = "Second reader for frontal chest radiographs of children, as a hint and never as the only finding.",
) -> Report:
    binary = len(findings) == 1
    points = tuple(
        OperatingPoint(
            label=finding,
            threshold=0.44,
            rule="youden",
            sensitivity=0.95,
            specificity=0.87,
            positives=210,
            negatives=90,
        )
        for finding in findings
    )
    measurements = (
        make_measurement("teacher", "torch:cpu:fp32:1", 25.3, 92.1, 402),
        *(
            make_measurement(name, f"{name.replace('-', ':')}:1", 1.62 + 0.5 * place, 5.1 + place, 164 - 40 * place)
            for place, name in enumerate(variants)
        ),
        make_measurement("teacher in ONNX Runtime", "onnxruntime:cpu:fp32:1", 13.8, 61.9, 231),
        make_measurement("teacher in OpenVINO", "openvino:cpu:fp32:1", 12.9, 61.9, 290),
    )
    return Report(
        schema_version=REPORT_SCHEMA_VERSION,
        bundle_name="chest-xray-pneumonia",
        model_digest="3fa9c1d27b64e0c8" * 4,
        study_fingerprint="91d0b7a6c2f4e851" * 4,
        split="test",
        policy=Policy(
            non_inferiority=(
                NonInferiority(metric="auroc", margin=0.02),
                NonInferiority(metric="sensitivity", margin=0.03),
            ),
            budget=Budget(p50_ms=5, min_speedup=10, min_compression=10),
        ),
        policy_sha256="0c5e8aa1d4f7b392" * 4,
        task=Task(
            kind="binary" if binary else "multilabel",
            labels=("normal", *findings) if binary else findings,
            operating_points=points,
        ),
        teacher_name="coatnet_nano_rw_224",
        evaluations=(
            make_evaluation("teacher", findings, 0.0),
            *(make_evaluation(name, findings, 0.3 + 0.3 * place) for place, name in enumerate(variants)),
        ),
        measurements=measurements,
        comparisons=make_comparisons(variants, findings),
        speedups=tuple(
            Speedup(name=found.name, baseline="teacher", ratio=speedup(measurements[0], found, resamples=50))
            for found in measurements[1:]
        ),
        machine=Machine(
            cpu_model="AMD EPYC 9R14",
            cpu_flags=("avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "hypervisor"),
            logical_cpus=2,
            allowed_cpus=2,
            governor="",
            memory_bytes=25_000_000_000,
            system="Linux 6.1.0 x86_64",
            python="3.11.7",
            libraries={"medfm-compress": "0.1.0", "numpy": "2.3.4", "onnxruntime": "1.23.2", "openvino": "2025.4.0"},
            load_average=0.12,
        ),
        provenance=Provenance(
            teacher="coatnet_nano_rw_224 (sha256 5d2c…)",
            teacher_licence="Apache-2.0",
            student="repvit_m0_9 (sha256 77aa…)",
            study_fingerprint="91d0b7a6c2f4e851" * 4,
            steps=(
                "distilled for 12 epochs at temperature 4",
                "exported to ONNX, opset 18",
                "quantized to INT8, 300 cases",
            ),
            libraries={"torch": "2.9.1", "timm": "1.0.22", "nncf": "3.0.0"},
            date="2026-03-04T10:12:00Z",
        ),
        created="2026-03-04T11:30:12Z",
        intended_use=text,
    )


def make_verdict(report: Report, outcomes: tuple[str, ...] = ("pass", "pass")) -> Verdict:
    variants = tuple(
        VariantVerdict(
            variant=name,
            outcome=outcome,
            checks=(
                Check(
                    name="AUROC of pneumonia",
                    outcome=outcome,
                    reason="the difference is −0.002, 95% interval −0.011 to 0.007, margin 0.02",
                ),
                Check(name="speed-up", outcome="pass", reason="15.4× at the median; at least 10× is required"),
                Check(name="enough cases", outcome="pass", reason="390 positive, 234 negative, 400 patients"),
            ),
        )
        for name, outcome in zip(report.variants, outcomes, strict=False)
    )
    order = ("fail", "inconclusive", "pass")
    worst = min((variant.outcome for variant in variants), key=order.index)
    return Verdict(
        outcome=worst, variants=variants, policy_sha256=report.policy_sha256, model_digest=report.model_digest
    )


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


@pytest.mark.parametrize("outcome", ["pass", "fail", "inconclusive"])
def test_verdict_stands_first_and_in_words(outcome: str) -> None:
    report = make_report()
    text = " ".join(parse(render_html(report, make_verdict(report, ("pass", outcome)))).text)
    word = outcome.capitalize()
    assert word in text
    assert text.index(word) < text.index("Accuracy against the teacher")
    if outcome != "pass":
        assert text.index("margin 0.02") < text.index("What was required")


def test_page_needs_nothing_from_elsewhere() -> None:
    report = make_report()
    page = render_html(report, make_verdict(report))
    parsed = parse(page)
    assert not parsed.seen & {"script", "link", "img", "iframe", "object", "use", "foreignobject", "base", "form"}
    assert not {name for name, _ in parsed.attributes} & {"src", "href", "srcset", "action", "onload"}
    assert not re.search(r"https?:|//[a-z]|@import|@font-face", page)
    assert set(re.findall(r"url\(([^)]*)\)", page)) == {"#hatch"}


def test_hostile_strings_stay_text() -> None:
    report = make_report(variants=(HOSTILE,), findings=(HOSTILE,), text=HOSTILE)
    evil = Provenance(teacher=HOSTILE, steps=(HOSTILE,), libraries={HOSTILE: HOSTILE}, date=HOSTILE)
    machine = msgspec.structs.replace(report.machine, cpu_model=HOSTILE, libraries={HOSTILE: HOSTILE})
    teacher = msgspec.structs.replace(report.evaluations[0], subgroups={HOSTILE: (HOSTILE,) * 624})
    report = msgspec.structs.replace(
        report,
        bundle_name=HOSTILE,
        teacher_name=HOSTILE,
        split=HOSTILE,
        created=HOSTILE,
        noise=(HOSTILE,),
        provenance=evil,
        machine=machine,
        evaluations=(teacher, *report.evaluations[1:]),
    )
    verdict = Verdict(
        outcome="fail",
        variants=(
            VariantVerdict(
                variant=HOSTILE, outcome="fail", checks=(Check(name=HOSTILE, outcome="fail", reason=HOSTILE),)
            ),
        ),
        policy_sha256=HOSTILE,
        model_digest=HOSTILE,
    )
    page = render_html(report, verdict)
    parsed = parse(page)
    assert not parsed.seen & {"script", "img"}
    assert not [name for name, _ in parsed.attributes if name.startswith("on")]
    assert "\x07" not in page


def test_several_findings_and_variants_are_all_shown() -> None:
    findings = ("effusion", "nodule", "oedema")
    report = make_report(findings=findings)
    text = " ".join(parse(render_html(report, make_verdict(report))).text)
    for name in (*findings, *report.variants):
        assert name in text


def test_unmeasured_and_uncomputed_values_are_dashes() -> None:
    report = make_report()
    nothing = Interval(estimate=0.5, low=float("nan"), high=float("nan"))
    one = msgspec.structs.replace(report.comparisons[0], difference=nothing)
    report = msgspec.structs.replace(report, comparisons=(one,), measurements=(), speedups=())
    text = " ".join(parse(render_html(report, make_verdict(report))).text)
    assert "Nothing was measured" in text
    assert not re.search(r"\bnan\b", text)


def test_verdict_on_another_model_is_called_void() -> None:
    report = make_report()
    other = msgspec.structs.replace(make_verdict(report), model_digest="f" * 64)
    assert "void" in " ".join(parse(render_html(report, other)).text)


def test_noise_and_unjudged_variants_are_said_at_the_top() -> None:
    report = msgspec.structs.replace(
        make_report(), noise=("the load was 9.0",), shipped=("openvino-cpu-int8", "onnxruntime-cpu-int8", "forgotten")
    )
    text = " ".join(parse(render_html(report, make_verdict(report))).text)
    top = text[: text.index("What was required")]
    assert "noisy" in top
    assert "also ships forgotten" in top


def test_report_survives_its_json(tmp_path: Path) -> None:
    report = make_report()
    save_report(report, tmp_path / "report.json")
    assert load_report(tmp_path / "report.json") == report


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda raw: raw.replace(b'"schema_version":1', b'"schema_version":9', 1), "schema 9"),
        (lambda raw: raw.replace(b'"split"', b'"spilt"', 1), "spilt"),
        (lambda raw: raw[:-40], "report.json"),
        (lambda raw: raw.replace(b"c" * 64, b"d" * 64, 1), "different cases"),
    ],
)
def test_altered_report_is_refused(tmp_path: Path, change, said: str) -> None:
    path = tmp_path / "report.json"
    save_report(make_report(), path)
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(InputError, match=said):
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
