"""``gate``: exit codes, the policy that may not change, and the bundle that keeps the verdict."""

from __future__ import annotations

import json
from xml.etree import ElementTree

import msgspec
import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from medfm_compress.bench.evaluate import EvaluationTable
from medfm_compress.bench.machine import Machine
from medfm_compress.bench.policy import load_policy
from medfm_compress.bench.report import REPORT_SCHEMA_VERSION, Report, save_report
from medfm_compress.bench.types import Comparison, Evaluation, Interval, Measurement
from medfm_compress.cli.gate import gate
from medfm_compress.runtime.bundle import Bundle
from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.manifest import Provenance

VARIANT = "onnxruntime-cpu-fp32"
POLICY = "non_inferiority: [{metric: auroc, margin: 0.05}]\nbudget: {p50_ms: 20}\nresamples: 1000\n"
MACHINE = Machine(
    cpu_model="",
    cpu_flags=(),
    logical_cpus=1,
    allowed_cpus=1,
    governor="",
    memory_bytes=0,
    system="",
    python="",
    libraries={},
)


def evaluation(name, cases, noise=0.0, shift=0.0):
    random = np.random.default_rng(0)
    truth = (np.arange(cases) % 2)[:, None]
    logits = random.normal(size=truth.shape) + 2 * truth - 1 - shift * truth
    logits = logits + noise * np.random.default_rng(1).normal(size=truth.shape)
    scores = 1 / (1 + np.exp(-logits))
    return Evaluation(
        name=name,
        images=tuple(f"{n}.png" for n in range(cases)),
        logits=np.hstack([-logits, logits]),
        scores=scores,
        truth=truth,
        decisions=(scores >= 0.5).astype(np.int64),
        clusters=tuple(f"p{n}" for n in range(cases)),
        findings=("opacity",),
    )


@pytest.fixture
def folder(tiny, tmp_path):
    tiny.bundle(tmp_path / "b.medfm", (tiny.ORT,), outcome=None)
    (tmp_path / "policy.yaml").write_text(POLICY)
    (tmp_path / "wider.yaml").write_text(POLICY.replace("0.05", "0.5"))
    return tmp_path


def write_report(tiny, folder, cases=300, **changes):
    policy = load_policy(folder / "policy.yaml")
    lie = Interval(estimate=0.0, low=0.0, high=0.0)
    report = Report(
        schema_version=REPORT_SCHEMA_VERSION,
        bundle_name="tiny",
        model_digest=Bundle.open(folder / "b.medfm").model_digest,
        study_fingerprint="f" * 64,
        split="test",
        policy=policy.policy,
        policy_sha256=policy.sha256,
        task=tiny.TASK,
        teacher_name="resnet18",
        evaluations=tuple(
            EvaluationTable.from_evaluation(e)
            for e in (evaluation("teacher", cases), evaluation(VARIANT, cases, **changes))
        ),
        measurements=(Measurement(name=VARIANT, target="onnxruntime:cpu:fp32:1", session_ms=(10.0,) * 120),),
        # What the report claims is not believed: the gate computes it again.
        comparisons=(
            Comparison(
                metric="auroc",
                finding="opacity",
                variant=VARIANT,
                teacher=lie,
                bundle=lie,
                difference=lie,
                margin=0.05,
                p_worse=1.0,
            ),
        ),
        machine=MACHINE,
        provenance=Provenance(),
        created="2026-01-01T00:00:00Z",
    )
    save_report(report, folder / "report.json")
    return report


def invoke(folder, *arguments, policy="policy.yaml"):
    app = typer.Typer()
    app.command()(gate)
    given = [folder / "report.json", "--policy", folder / policy, *arguments]
    return CliRunner().invoke(app, [str(argument) for argument in given])


@pytest.mark.parametrize(
    ("changes", "code", "word"),
    [
        ({"noise": 0.1}, 0, "PASS"),
        ({"shift": 1.5}, 1, "FAIL"),
        ({"noise": 1.2}, 3, "INCONCLUSIVE"),
        ({"cases": 30}, 3, "INCONCLUSIVE"),
    ],
)
def test_exit_codes_and_reasons(tiny, folder, changes, code, word):
    write_report(tiny, folder, **changes)
    result = invoke(folder, "--junit", folder / "junit.xml")
    assert result.exit_code == code, result.output
    assert result.stdout.startswith(f"{word}: tiny")
    assert "auroc of opacity" in result.stdout
    assert "p50 latency: 10 ms, at most 20 ms is allowed" in result.stdout
    root = ElementTree.fromstring((folder / "junit.xml").read_bytes())
    assert (root.get("failures") == "0") == (code == 0)


def test_json_is_one_document(tiny, folder):
    write_report(tiny, folder)
    result = invoke(folder, "--json")
    document = json.loads(result.stdout)
    assert document["verdict"]["outcome"] == "pass"
    assert document["comparisons"][0]["difference"]["method"] == "identical outputs"


def test_the_bundle_keeps_the_verdict(tiny, folder):
    report = write_report(tiny, folder)
    result = invoke(folder, "--bundle", folder / "b.medfm")
    assert result.exit_code == 0, result.output
    stored = Bundle.open(folder / "b.medfm").verdict(VARIANT)
    assert stored is not None
    assert (stored.outcome, stored.policy_sha256) == ("pass", report.policy_sha256)
    assert Bundle.open(folder / "b.medfm").model_digest == report.model_digest


def test_a_failing_bundle_keeps_that_too(tiny, folder):
    write_report(tiny, folder, shift=1.5)
    assert invoke(folder, "--bundle", folder / "b.medfm").exit_code == 1
    stored = Bundle.open(folder / "b.medfm").verdict(VARIANT)
    assert stored is not None and stored.outcome == "fail"


def test_a_variant_that_was_not_benched_is_inconclusive(tiny, folder):
    tiny.bundle(folder / "b.medfm", (tiny.ORT, tiny.OV), outcome=None)
    write_report(tiny, folder)
    result = invoke(folder, "--bundle", folder / "b.medfm")
    assert result.exit_code == 3
    assert "openvino-cpu-fp32: inconclusive" in result.stdout


def test_another_bundle_is_refused_and_left_alone(tiny, folder):
    report = write_report(tiny, folder)
    save_report(msgspec.structs.replace(report, model_digest="0" * 64), folder / "report.json")
    before = (folder / "b.medfm").read_bytes()
    result = invoke(folder, "--bundle", folder / "b.medfm")
    assert isinstance(result.exception, InputError)
    assert "bench this bundle" in str(result.exception)
    assert (folder / "b.medfm").read_bytes() == before


def test_a_changed_policy_is_refused_unless_accepted_and_then_said(tiny, folder):
    write_report(tiny, folder, noise=1.2)
    refused = invoke(folder, policy="wider.yaml")
    assert isinstance(refused.exception, InputError)
    assert "--accept-changed-policy" in str(refused.exception)
    accepted = invoke(
        folder,
        "--accept-changed-policy",
        "--junit",
        folder / "j.xml",
        "--bundle",
        folder / "b.medfm",
        policy="wider.yaml",
    )
    assert accepted.exit_code == 0, accepted.output
    assert "note: the policy" in accepted.stdout
    assert "changed after the test cases were evaluated" in (folder / "j.xml").read_text()
    stored = Bundle.open(folder / "b.medfm").verdict(VARIANT)
    assert stored is not None
    assert stored.policy_sha256 == load_policy(folder / "wider.yaml").sha256


def test_a_missing_or_broken_report_is_one_sentence(folder):
    assert "makes one" in str(invoke(folder).exception)
    (folder / "report.json").write_text("{}")
    broken = invoke(folder).exception
    assert isinstance(broken, InputError) and "\n" not in str(broken)
