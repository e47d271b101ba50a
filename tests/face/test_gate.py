"""``gate``: exit codes, the policy that may not change, and the bundle that keeps the verdict."""

from __future__ import annotations

import json
import re
from functools import partial
from xml.etree import ElementTree

import msgspec
import pytest
import typer
from typer.testing import CliRunner

from medfm_compress.bench.gate.policy_file import load_policy
from medfm_compress.bench.report import save_report
from medfm_compress.cli.gate import gate
from medfm_compress.cli.policy import app as policy_commands
from medfm_compress.runtime.bundle.bundle import Bundle
from medfm_compress.runtime.errors import InputError

VARIANT = "onnxruntime-cpu-fp32"


@pytest.fixture
def folder(tiny, reports, tmp_path):
    tiny.bundle(tmp_path / "b.medfm", (tiny.ORT,), outcome=None)
    (tmp_path / "policy.yaml").write_text(reports.POLICY)
    (tmp_path / "wider.yaml").write_text(reports.POLICY.replace("0.05", "0.5"))
    return tmp_path


@pytest.fixture
def write_report(tiny, reports, folder):
    return partial(reports.write_report, tiny, folder)


def invoke(folder, *arguments, policy="policy.yaml"):
    return run(folder / "report.json", "--policy", folder / policy, *arguments)


def run(*arguments):
    app = typer.Typer()
    app.command()(gate)
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def begin(path):
    return CliRunner().invoke(policy_commands, ["init", str(path)])


def complaint(result):
    """The one sentence with which a run ends that has exit code 2."""
    assert isinstance(result.exception, InputError), result.exception
    assert result.exception.exit_code == 2
    text = str(result.exception)
    assert text and "\n" not in text
    return text


@pytest.mark.parametrize(
    ("changes", "code", "word"),
    [
        ({"noise": 0.1}, 0, "PASS"),
        ({"shift": 1.5}, 1, "FAIL"),
        ({"noise": 1.2}, 3, "INCONCLUSIVE"),
        ({"cases": 30}, 3, "INCONCLUSIVE"),
    ],
)
def test_exit_codes_and_reasons(write_report, folder, changes, code, word):
    write_report(**changes)
    result = invoke(folder, "--junit", folder / "junit.xml")
    assert result.exit_code == code, result.output
    assert result.stdout.startswith(f"{word}: tiny")
    assert "auroc of opacity" in result.stdout
    assert "p50 latency" in result.stdout and "10 ms, at most 20 ms is allowed" in result.stdout
    root = ElementTree.fromstring((folder / "junit.xml").read_bytes())
    assert (root.get("failures") == "0") == (code == 0)


def test_json_is_one_document(write_report, folder):
    write_report()
    result = invoke(folder, "--json")
    document = json.loads(result.stdout)
    assert document["verdict"]["outcome"] == "pass"
    assert document["comparisons"][0]["difference"]["method"] == "identical outputs"


def test_the_bundle_keeps_the_verdict(write_report, folder):
    report = write_report()
    result = invoke(folder, "--bundle", folder / "b.medfm")
    assert result.exit_code == 0, result.output
    stored = Bundle.open(folder / "b.medfm").verdict(VARIANT)
    assert stored is not None
    assert (stored.outcome, stored.policy_sha256) == ("pass", report.policy_sha256)
    assert Bundle.open(folder / "b.medfm").model_digest == report.model_digest


def test_a_failing_bundle_keeps_that_too(write_report, folder):
    write_report(shift=1.5)
    assert invoke(folder, "--bundle", folder / "b.medfm").exit_code == 1
    stored = Bundle.open(folder / "b.medfm").verdict(VARIANT)
    assert stored is not None and stored.outcome == "fail"


def test_a_variant_that_was_not_benched_is_inconclusive(tiny, write_report, folder):
    tiny.bundle(folder / "b.medfm", (tiny.ORT, tiny.OV), outcome=None)
    write_report()
    result = invoke(folder, "--bundle", folder / "b.medfm")
    assert result.exit_code == 3
    assert "openvino-cpu-fp32: inconclusive" in result.stdout


def test_another_bundle_is_refused_and_left_alone(write_report, folder):
    report = write_report()
    save_report(msgspec.structs.replace(report, model_digest="0" * 64), folder / "report.json")
    before = (folder / "b.medfm").read_bytes()
    result = invoke(folder, "--bundle", folder / "b.medfm")
    assert isinstance(result.exception, InputError)
    assert "bench this bundle" in str(result.exception)
    assert (folder / "b.medfm").read_bytes() == before


def test_a_changed_policy_is_refused_unless_accepted_and_then_said(write_report, folder):
    write_report(noise=1.2)
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
    assert "not known to be older than the evaluation" in (folder / "j.xml").read_text()
    stored = Bundle.open(folder / "b.medfm").verdict(VARIANT)
    assert stored is not None
    assert stored.policy_sha256 == load_policy(folder / "wider.yaml").sha256


def test_a_missing_or_broken_report_is_one_sentence(folder):
    assert "makes one" in str(invoke(folder).exception)
    (folder / "report.json").write_text("{}")
    broken = invoke(folder).exception
    assert isinstance(broken, InputError) and "\n" not in str(broken)


def test_a_starter_policy_is_written_once(folder):
    made = begin(folder / "new" / "policy.yaml")
    assert made.exit_code == 0, made.output
    assert load_policy(folder / "new" / "policy.yaml").policy.non_inferiority
    assert "not overwritten" in complaint(begin(folder / "new" / "policy.yaml"))


@pytest.mark.parametrize(
    ("arguments", "lines"),
    [
        (["r.json"], "--policy"),
        (["--policy", "POLICY"], "give the report to judge, or --bundle, --study, --teacher and --out"),
        (["r.json", "--policy", "POLICY", "--study", "s"], "not both; --check-study"),
        (["r.json", "--policy", "POLICY", "--out", "o"], "--out has a meaning with --study only"),
        (["--policy", "POLICY", "--study", "s", "--out", "o"], "needs --bundle, --teacher too"),
        (["r.json", "--policy", "nowhere.yaml"], "policy init' writes a starter"),
    ],
)
def test_it_takes_a_report_or_a_study_and_says_which_is_missing(folder, arguments, lines):
    supplied = [folder / "policy.yaml" if argument == "POLICY" else argument for argument in arguments]
    assert lines in complaint(run(*supplied))


@pytest.mark.parametrize(
    ("changes", "code", "words"),
    [
        ({"shift": 1.5}, 1, "significantly worse than the margin allows"),
        ({"noise": 1.2}, 3, "of studies were the two equal in truth"),
    ],
)
def test_every_output_tells_the_same(write_report, folder, changes, code, words):
    write_report(**changes)
    paths = {kind: folder / f"gate.{kind}" for kind in ("junit", "markdown", "sarif")}
    result = invoke(folder, *(part for kind, path in paths.items() for part in (f"--{kind}", path)))
    assert result.exit_code == code, result.output
    for text in (result.stdout, *(path.read_text() for path in paths.values())):
        assert words in " ".join(text.split())
    level = json.loads(paths["sarif"].read_text())["runs"][0]["results"][0]["level"]
    assert level == {1: "error", 3: "warning"}[code]


def test_the_sarif_names_the_policy_as_the_repository_does(write_report, folder):
    write_report(shift=1.5)
    invoke(folder, "--sarif", folder / "s.sarif", "--policy-name", "ml/policy.yaml")
    (actual,) = json.loads((folder / "s.sarif").read_text())["runs"][0]["results"]
    assert actual["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] == "ml/policy.yaml"


def test_a_report_alone_is_checked_against_a_study(write_report, reports, folder, discs_path):
    from medfm_compress.data.fingerprint import study_fingerprint
    from medfm_compress.data.open import open_study

    write_report()
    assert "other cases, labels, splits or images" in complaint(invoke(folder, "--check-study", discs_path))
    reports.change_report(folder, study_fingerprint=study_fingerprint(open_study(discs_path)))
    assert invoke(folder, "--check-study", discs_path).exit_code == 0


def test_an_earlier_report_is_shown_and_not_judged(write_report, folder):
    write_report(name="earlier.json", shift=1.5)
    write_report(noise=0.1)
    result = invoke(folder, "--baseline-report", folder / "earlier.json", "--markdown", folder / "c.md")
    assert result.exit_code == 0, result.output
    assert re.search(r"auroc of opacity \(onnx\S+\) +0\.\d+ +0\.\d+ +\+0\.\d+", result.stdout)
    assert re.search(r"p50 latency, ms \(onnx\S+\) +10\.0 +10\.0 +0\.000", result.stdout)
    assert "not judged" in (folder / "c.md").read_text()
    lines = json.loads(invoke(folder, "--baseline-report", folder / "earlier.json", "--json").stdout)["earlier"]
    assert lines["medians_ms"] == [{"variant": VARIANT, "name": "p50 latency", "before": 10.0, "now": 10.0}]
    assert lines["estimates"][0]["now"] > lines["estimates"][0]["before"]


def test_timings_of_another_machine_are_not_shown(write_report, reports, folder):
    write_report(name="earlier.json")
    machine = msgspec.structs.replace(reports.MACHINE, cpu_model="another")
    reports.change_report(folder, "earlier.json", machine=machine)
    write_report()
    result = invoke(folder, "--baseline-report", folder / "earlier.json")
    assert "not compared: measured on another machine; re-run with bench --baseline" in result.stdout
    assert "p50 latency, ms" not in result.stdout


@pytest.mark.parametrize("what", ["study", "cases"])
def test_an_earlier_report_of_other_cases_is_refused(write_report, reports, folder, what):
    write_report(name="earlier.json", cases=300 if what == "study" else 280)
    if what == "study":
        reports.change_report(folder, "earlier.json", study_fingerprint="0" * 64)
    write_report()
    assert f"the baseline report has another {what}" in complaint(
        invoke(folder, "--baseline-report", folder / "earlier.json")
    )


def test_a_report_whose_cases_were_looked_at_often_says_so(write_report, reports, folder):
    from medfm_compress.bench.evaluate.test_set_log import LoggedEvaluation

    write_report()
    evaluations = tuple(
        LoggedEvaluation(
            date="2026-01-01T00:00:00Z",
            split="test",
            cases=300,
            policy_sha256="p",
            model_digest=str(number),
            study_fingerprint="f" * 64,
        )
        for number in range(3)
    )
    reports.change_report(folder, test_set_evaluations=evaluations)
    lines = " ".join(invoke(folder).stdout.split())
    assert "evaluated 3 times (different models: 3, different policies: 1)" in lines


def edit(folder, change):
    """Edit the report by hand, as somebody with a text editor would."""
    path = folder / "report.json"
    document = json.loads(path.read_text())
    change(document["evaluations"])
    path.write_text(json.dumps(document))


def set_score(tables, value):
    tables[1]["scores"][0][0] = value


@pytest.mark.parametrize(
    ("change", "lines"),
    [
        (lambda tables: set_score(tables, float("nan")), "report.json"),
        (lambda tables: set_score(tables, None), "scores"),
        (lambda tables: set_score(tables, 1.5), "probabilities in [0, 1]"),
        (lambda tables: tables[1]["truth"].pop(), "truth of evaluation"),
        (lambda tables: tables[1]["scores"].pop(), "scores of evaluation"),
        (lambda tables: tables[1]["scores"][0].append(0.5), "rows of different length"),
        (lambda tables: tables[1]["clusters"].pop(), "cases by findings is (299, 1)"),
        (lambda tables: [table["subgroups"]["sex"].pop() for table in tables], "subgroup 'sex'"),
        (lambda tables: [table["truth"].__setitem__(0, [2]) for table in tables], "must be 0 or 1"),
        (lambda tables: [table["truth"].__setitem__(0, [2**80]) for table in tables], "numbers out of range"),
        (lambda tables: tables[1].update(cases_sha256="0"), "different cases"),
        (lambda tables: tables.clear(), "the teacher's and then one a variant"),
    ],
)
def test_an_edited_report_is_refused_in_one_sentence(write_report, folder, change, lines):
    write_report()
    edit(folder, change)
    assert lines in complaint(invoke(folder))


def test_relabelled_cases_are_refused(write_report, folder):
    write_report()
    edit(folder, lambda tables: tables[1]["truth"].__setitem__(0, [1]))
    assert "truth" in complaint(invoke(folder))


def test_one_class_only_is_inconclusive_with_a_reason(write_report, folder):
    write_report()
    edit(folder, lambda tables: [table.update(truth=[[1]] * 300) for table in tables])
    result = invoke(folder)
    assert result.exit_code == 3, result.exception
    assert "0 patients without it" in result.stdout


def test_an_unevaluated_report_is_refused(write_report, folder):
    write_report()
    edit(folder, lambda tables: tables.pop())
    assert "no variant to judge" in complaint(invoke(folder))


@pytest.mark.parametrize(
    ("rule", "lines"),
    [("site", "is empty for all 300 evaluated cases"), ("race", "no column of the study or report; it has sex, site")],
)
def test_a_subgroup_that_cannot_be_judged_is_refused(write_report, folder, reports, rule, lines):
    entry = f"non_inferiority: [{{metric: auroc, margin: 0.05, subgroup: {rule}}}]"
    (folder / "policy.yaml").write_text(f"{entry}\nsubgroups: [{{column: {rule}}}]\n")
    write_report()
    assert lines in complaint(invoke(folder))


def test_groups_are_judged_one_by_one(write_report, folder):
    entry = "non_inferiority: [{metric: auroc, margin: 0.1, subgroup: sex}]"
    (folder / "policy.yaml").write_text(f"{entry}\nsubgroups: [{{column: sex}}]\nresamples: 1000\n")
    write_report(noise=0.1)
    result = invoke(folder, "--markdown", folder / "c.md")
    assert result.exit_code == 0, result.output
    for name in ("auroc of opacity, sex = F", "auroc of opacity, sex = M"):
        assert re.search(rf"pass +{name} +0\.\d+ +0\.\d+", result.stdout)
        assert f"| {name} |" in (folder / "c.md").read_text()


def test_a_policy_that_names_what_nobody_measures_is_one_sentence(write_report, folder):
    write_report()
    (folder / "wider.yaml").write_text("non_inferiority: [{metric: jaccard, margin: 0.1}]")
    assert "it must be one of accuracy, auprc, auroc" in complaint(invoke(folder, policy="wider.yaml"))
    (folder / "wider.yaml").write_text("non_inferiority: [{metric: auroc, margin: 0.1, finding: nodule}]")
    lines = complaint(invoke(folder, "--accept-changed-policy", policy="wider.yaml"))
    assert "'nodule', which this task lacks; it has opacity" in lines
