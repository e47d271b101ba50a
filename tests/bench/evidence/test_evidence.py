"""An evidence pack verifies from itself alone; a forged one says which figure does not follow."""

from __future__ import annotations

import csv
import io
import json

import msgspec
import pytest
from evidence_scene import APPROVER, BUILDER, judged_bundle, pack, sha256
from signing import Signer, make_store

from medfm_compress.bench.evidence.pack_file import ALWAYS, INDEX, Index, make_index, read_pack, write_pack
from medfm_compress.bench.evidence.verify import verify_pack
from medfm_compress.bench.report import Report
from medfm_compress.runtime.bundle import archive
from medfm_compress.runtime.errors import EvidenceRefused, InputError
from medfm_compress.runtime.strict_json import encode
from medfm_compress.runtime.trust.store import TrustStore
from medfm_compress.runtime.trust.store_changes import remove_key

LIMITS = "Trained on adults of one hospital; not for children.\n"


@pytest.fixture(scope="module")
def scene(tiny, tmp_path_factory):
    """Bundles A and B, judged; B signed by both; a pack of it with everything, and a trust store."""
    folder = tmp_path_factory.mktemp("evidence")
    before = judged_bundle(tiny, folder / "a", noise=0.6, model=tiny.network(seed=1))
    request = judged_bundle(tiny, folder / "b")
    APPROVER.sign(BUILDER.sign(request.bundle))
    (folder / "limits.md").write_text(LIMITS)
    request = request._replace(limits=folder / "limits.md", baseline=(before.bundle, before.report))
    pack(request, folder / "good.evidence")
    make_store(folder / "trust", BUILDER, APPROVER)
    return folder, request


@pytest.fixture
def good(scene):
    return scene[0] / "good.evidence"


@pytest.fixture
def store(scene):
    return TrustStore.open(scene[0] / "trust")


def forge(good, out, change):
    """A copy whose members ``change`` edits, listed in the index with their new hashes; signatures as they were."""
    read = read_pack(good)
    members = dict(read.members)
    draft = change(members) or {}
    write_pack(out, make_index(msgspec.structs.replace(read.index, **draft), members), members, read.signatures)
    return out


def refusal(path, trust=None):
    with pytest.raises(EvidenceRefused) as info:
        verify_pack(path, trust)
    assert "\n" not in str(info.value) and info.value.exit_code == 4
    return str(info.value)


def edit_report(members, change):
    plain = json.loads(members["report.json"])
    change(plain)
    members["report.json"] = json.dumps(plain).encode()


def test_an_honest_pack_follows_from_itself(good, store):
    verified = verify_pack(good)
    assert verified.verdict.outcome == "pass" and verified.figures > 10 and verified.standing is None
    assert verified.not_derived == (
        "2 measurements (raw times, sizes and memory are taken as they stand)",
        "scores and times in the baseline's report",
        "the machine that packed and its libraries, the maker's own text on limits",
    )
    signed = verify_pack(good, store)
    assert [entry.name for entry in signed.signed_by] == ["Chief"]
    assert {entry.state for entry in signed.bundle.signatures} == {"holds"} and signed.unapproved == ""


def test_nobody_s_key_or_path_is_in_it(scene, good):
    everything = b"".join(read_pack(good).members.values())
    assert b"0.png" not in everything and b"299.png" not in everything and b"p299" not in everything
    assert str(scene[0]).encode() not in everything and b"s" * 32 not in everything


def test_the_same_sources_and_time_give_the_same_bytes(scene, tmp_path, monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1800000000")
    assert pack(scene[1], tmp_path / "1.evidence").read_bytes() == pack(scene[1], tmp_path / "2.evidence").read_bytes()


# What is edited, and what verify says of it. Every hash in the index is made to fit.


def raise_a_score(members):
    edit_report(members, lambda plain: plain["evaluations"][1]["scores"][7].__setitem__(0, 0.99))


def raise_scores_and_logits(members):
    """The variant answers as the teacher does: consistent in itself, and no figure follows any more."""

    def change(plain):
        for column in ("logits", "scores", "decisions"):
            plain["evaluations"][1][column] = plain["evaluations"][0][column]

    edit_report(members, change)


def narrow_an_interval(members):
    edit_report(members, lambda plain: plain["comparisons"][0]["difference"].update(low=-0.001))


def raise_an_estimate(members):
    edit_report(members, lambda plain: plain["comparisons"][4]["bundle"].update(estimate=0.99))


def speed_it_up(members):
    edit_report(members, lambda plain: plain["speedups"][0]["ratio"].update(estimate=30.0))


def drop_a_comparison(members):
    edit_report(members, lambda plain: plain["comparisons"].pop(3))


def hide_a_loss(members):
    edit_report(members, lambda plain: plain["drops"][0].update(bundle=[0.99, 0.99]))


def claim_fidelity(members):
    edit_report(members, lambda plain: plain["fidelity"][0].update(flipped_cases=0))


def turn_the_verdict(members):
    plain = json.loads(members["verdict.json"])
    plain["variants"][0]["checks"][0]["outcome"] = "fail"
    members["verdict.json"] = json.dumps(plain).encode()


def turn_the_whole_verdict(members):
    plain = json.loads(members["verdict.json"])
    plain["outcome"] = "fail"
    members["verdict.json"] = json.dumps(plain).encode()


def widen_the_policy(members):
    members["policy.yaml"] = members["policy.yaml"].replace(b"margin: 0.05", b"margin: 0.50")


def widen_the_policy_everywhere(members):
    widen_the_policy(members)

    def change(plain):
        plain["policy_sha256"] = sha256(members["policy.yaml"])
        plain["policy"]["non_inferiority"][0]["margin"] = 0.5
        plain["comparisons"][0]["margin"] = 0.5

    edit_report(members, change)


def another_policy_in_the_report(members):
    edit_report(members, lambda plain: plain["policy"].update(alpha=0.05))


def another_model(members):
    edit_report(members, lambda plain: plain.update(model_digest="f" * 64))


def edit_the_manifest(members):
    members["bundle/manifest.json"] = members["bundle/manifest.json"].replace(b'"threshold": 0.5', b'"threshold": 0.4')


def turn_the_manifest_s_verdict(members):
    """It is no part of the model's digest."""
    members["bundle/manifest.json"] = members["bundle/manifest.json"].replace(
        b'"outcome": "pass"', b'"outcome": "fail"'
    )


def damage_a_signature_of_the_bundle(members):
    name = next(name for name in members if name.startswith("bundle/signatures/"))
    members[name] = members[name].replace(b'"signature"', b'"signed"')


def edit_a_case(members):
    rows = members["cases.csv"].split(b"\n")
    rows[5] = rows[5].replace(b",F,", b",M,") if b",F," in rows[5] else rows[5].replace(b",M,", b",F,")
    members["cases.csv"] = b"\n".join(rows)


def merge_two_patients(members):
    rows = list(csv.reader(io.StringIO(members["cases.csv"].decode())))
    rows[2][1] = rows[1][1]
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(rows)
    members["cases.csv"] = text.getvalue().encode()


def another_file_in_the_bill(members):
    plain = json.loads(members["bom.cdx.json"])
    plain["metadata"]["component"]["components"][0]["hashes"][0]["content"] = "0" * 64
    members["bom.cdx.json"] = json.dumps(plain).encode()


def another_machine(members):
    plain = json.loads(members["environment.json"])
    plain["measured_on"]["cpu_model"] = "a faster one"
    members["environment.json"] = json.dumps(plain).encode()


def soften_the_card(members):
    members["model-card.md"] = members["model-card.md"].replace(b"not for children", b"for everybody")


def soften_the_plan(members):
    members["change-control-plan.md"] += b"\nAll is well.\n"


def hide_a_flip(members):
    members["change-report.md"] = members["change-report.md"].replace(b"harmful", b"beneficial", 1)


FORGERIES = {
    raise_a_score: "scores or decisions of 'onnxruntime-cpu-fp32' do not follow from its logits",
    raise_scores_and_logits: "auroc of opacity (onnxruntime-cpu-fp32), bundle, estimate is 0.94",
    narrow_an_interval: "auroc of opacity (onnxruntime-cpu-fp32), difference, low is -0.001 in the report and -0.02",
    raise_an_estimate: "sensitivity of opacity (onnxruntime-cpu-fp32), bundle, estimate is 0.99 in the report",
    speed_it_up: "speed-up of onnxruntime-cpu-fp32, estimate is 30 in the report and 2.8",
    drop_a_comparison: "balanced_accuracy of opacity (onnxruntime-cpu-fp32) is computed from its scores and not in it",
    hide_a_loss: "loss on perturbed images (onnxruntime-cpu-fp32, blur, 1, auroc, opacity), bundle is (0.99, 0.99) in",
    claim_fidelity: "fidelity of onnxruntime-cpu-fp32, flipped_cases is 0 in the report and ",
    turn_the_verdict: "auroc of opacity of onnxruntime-cpu-fp32 is fail in verdict.json, and pass follows",
    turn_the_whole_verdict: "the verdict is fail in verdict.json, and pass follows",
    widen_the_policy: "is not the policy that the report was made under",
    widen_the_policy_everywhere: "no verdict in the bundle's manifest cites this report",
    another_policy_in_the_report: "the policy that report.json repeats is not that of policy.yaml",
    another_model: "report.json is of model ffffffffffff",
    edit_the_manifest: "bundle/manifest.json: its model digest does not match it",
    turn_the_manifest_s_verdict: "is fail, and it is pass of model",
    damage_a_signature_of_the_bundle: "its bundle: signatures/",
    edit_a_case: "cases.csv differs from report.json in case 5, column 'sex'",
    merge_two_patients: "do not name the report's cases and patients",
    another_file_in_the_bill: "bom.cdx.json is not what follows from the pack, from line",
    another_machine: "environment.json is not the machine that report.json was measured on",
    soften_the_card: "model-card.md is not what follows from the pack, from line ",
    soften_the_plan: "change-control-plan.md is not what follows",
    hide_a_flip: "change-report.md is not what follows",
}


def cited(members):
    """The manifest's verdicts cite the report as edited, which whoever can write the manifest can do."""
    plain = json.loads(members["bundle/manifest.json"])
    for verdict in plain["verdicts"]:
        verdict["report_sha256"] = sha256(members["report.json"])
    members["bundle/manifest.json"] = json.dumps(plain).encode()


@pytest.mark.parametrize("edit", FORGERIES, ids=lambda edit: edit.__name__)
def test_a_forged_pack_says_what_differs(good, tmp_path, edit):
    def change(members):
        before = members["report.json"]
        edit(members)
        if members["report.json"] != before and edit is not widen_the_policy_everywhere:
            cited(members)
        return {"report_sha256": sha256(members["report.json"])}

    assert FORGERIES[edit] in refusal(forge(good, tmp_path / "forged.evidence", change))


def test_a_report_that_the_bundle_s_verdict_does_not_cite(good, tmp_path):
    def change(members):
        members["report.json"] = members["report.json"] + b"\n"

    assert "no verdict in the bundle's manifest cites this report" in refusal(
        forge(good, tmp_path / "p.evidence", change)
    )


def test_an_index_that_says_otherwise(good, tmp_path):
    for field, value in (
        ("outcome", "fail"),
        ("model_digest", "0" * 64),
        ("bundle_name", "other"),
        ("policy_sha256", "0"),
        ("report_sha256", "0"),
    ):
        forged = forge(good, tmp_path / "p.evidence", lambda _, said={field: value}: said)
        assert f"{field} is {value} in its index" in refusal(forged)


def test_a_forgery_that_contradicts_itself_nowhere_is_found_by_its_signatures(scene, tiny, tmp_path, store):
    """Somebody benches a better model, or writes better scores, and packs them with the tool itself."""
    request = judged_bundle(tiny, tmp_path / "forger", noise=0.0)
    stranger = Signer.make("Chief", "approver")
    stranger.sign(request.bundle)
    forged = pack(request, tmp_path / "forged.evidence", stranger)
    assert verify_pack(forged).verdict.outcome == "pass"  # without a trust store nothing speaks against it
    assert "no trusted key stands behind it: its key is not in the trust store" in refusal(forged, store)
    # With the approver's signatures of the real bundle and pack put in their places.
    real, read = read_pack(scene[0] / "good.evidence"), read_pack(forged)
    taken = {name: content for name, content in real.members.items() if name.startswith("bundle/signatures/")}
    members = {n: c for n, c in read.members.items() if not n.startswith("bundle/signatures/")} | taken
    write_pack(forged, make_index(read.index, members), members, real.signatures)
    assert "the signature of 'Chief' does not fit it" in refusal(forged, store)


def test_signatures_of_a_pack(good, tmp_path, store, scene):
    def note(members):
        members["limits.md"] += b" "

    assert "the signature of 'Chief' does not fit it" in refusal(forge(good, tmp_path / "a.evidence", note), store)
    read = read_pack(good)
    write_pack(tmp_path / "b.evidence", read.raw_index, read.members, {})
    assert "nobody signed it" in refusal(tmp_path / "b.evidence", store)
    folder = make_store(tmp_path / "trust", BUILDER, APPROVER)
    remove_key(folder, "Chief", revoke="left")
    assert "'Chief' was revoked" in refusal(good, TrustStore.open(folder))
    built = pack(scene[1], tmp_path / "c.evidence", BUILDER)
    assert [entry.role for entry in verify_pack(built, store).signed_by] == ["builder"]  # any trusted key may


@pytest.mark.parametrize("name", [*ALWAYS, "baseline/report.json", "change-report.md"])
def test_a_missing_member_is_named(good, tmp_path, name):
    def remove(members):
        del members[name]

    assert f"lacks {name}" in refusal(forge(good, tmp_path / "short.evidence", remove))
    read = read_pack(good)
    write_pack(tmp_path / "s.evidence", read.raw_index, {k: v for k, v in read.members.items() if k != name}, {})
    assert f"lacks {name}" in refusal(tmp_path / "s.evidence")


def test_what_is_no_pack(scene, good, tmp_path):
    assert "it does not start with index.json" in refusal(scene[1].bundle)
    (tmp_path / "text.evidence").write_text("hello " * 100)
    assert "is not a pack" in refusal(tmp_path / "text.evidence")
    with pytest.raises(InputError, match="No such file"):
        verify_pack(tmp_path / "none.evidence")
    data = bytearray(good.read_bytes())
    for position in range(40, len(data), len(data) // 60):
        flipped = bytearray(data)
        flipped[position] ^= 8
        (tmp_path / "flipped.evidence").write_bytes(flipped)
        refusal(tmp_path / "flipped.evidence")


def test_a_stowaway_and_a_newer_schema_are_refused(good, tmp_path):
    read = read_pack(good)
    extra = {**read.members, "patients.csv": b"name"}
    write_pack(tmp_path / "a.evidence", make_index(read.index, extra), extra, {})
    assert "holds patients.csv, which no pack does" in refusal(tmp_path / "a.evidence")
    newer = msgspec.structs.replace(read.index, schema_version=2)
    write_pack(tmp_path / "b.evidence", make_index(newer, read.members), read.members, {})
    assert "pack schema 2, this version reads 1" in refusal(tmp_path / "b.evidence")


def test_another_version_s_wording_is_not_held_against_it(good, tmp_path):
    def reworded(members):
        members["model-card.md"] += b"\n(as an earlier version wrote it)\n"
        return {"software": "0.0.9"}

    verified = verify_pack(forge(good, tmp_path / "old.evidence", reworded))
    assert "wording of the documents (written by version 0.0.9" in verified.not_derived[-1]


def test_the_documents_say_what_an_auditor_asks(good):
    members = {name: content.decode() for name, content in read_pack(good).members.items()}
    plan, card, change = (members[f"{name}.md"] for name in ("change-control-plan", "model-card", "change-report"))
    for heading in ("## Description of modifications", "## Modification protocol", "## Impact assessment"):
        assert heading in plan
    assert "R1 | auroc of opacity | non\\_inferiority.0, line 2" in plan and "budget.p50\\_ms, line 6" in plan
    assert "auroc of opacity under blur 1 | robustness.0, line 5" in plan
    assert "tests only" in card and LIMITS.strip() in card and "sex = F" in card
    assert "files.model.onnx" in change and "| sex = M | 150 |" in change and "McNemar p" in change


def test_the_bill_of_materials_says_nothing_of_its_own(good, tmp_path):
    """The time of the pack is an input; whatever else is changed or added does not follow."""
    edits = {
        "licences": lambda plain: plain["metadata"]["component"].update(licenses=[{"license": {"name": "approved"}}]),
        "model card": lambda plain: plain["metadata"]["component"].update(modelCard={}),
        "version": lambda plain: plain["metadata"]["component"].update(version="99"),
        "intended use": lambda plain: plain["metadata"]["component"]["properties"].append({"name": "x", "value": "y"}),
        "of a file": lambda plain: plain["metadata"]["component"]["components"][0].update(description="approved"),
        "annotations": lambda plain: plain.update(annotations=[{"text": "approved"}]),
        "serial number": lambda plain: plain.update(serialNumber="urn:uuid:0"),
        "library left out": lambda plain: plain["components"].pop(),
        "library": lambda plain: plain["components"][0].update(version="0", description="approved"),
    }
    for edit in edits.values():

        def change(members, edit=edit):
            plain = json.loads(members["bom.cdx.json"])
            edit(plain)
            members["bom.cdx.json"] = encode(plain)

        assert "bom.cdx.json is not what follows" in refusal(forge(good, tmp_path / "forged.evidence", change))
    untimely = forge(good, tmp_path / "forged.evidence", lambda members: {"created": "approved"})
    assert "created is 'approved', which is no time" in refusal(untimely)


def test_the_bill_of_materials_is_cyclonedx_1_6(good):
    content = read_pack(good).members["bom.cdx.json"].decode()
    bill = json.loads(content)
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    assert bill["metadata"]["component"]["type"] == "machine-learning-model"
    assert any(part["purl"].startswith("pkg:pypi/numpy@") for part in bill["components"])
    pytest.importorskip("jsonschema", reason="the validator needs it")
    pytest.importorskip("cyclonedx", reason="the validator is its")
    from cyclonedx.exception import MissingOptionalDependencyException
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    try:
        assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(content) is None
    except MissingOptionalDependencyException:
        pytest.skip("cyclonedx-python-lib[json-validation] is not installed")


def test_packing_refuses_what_does_not_belong_together(scene, tiny, tmp_path):
    folder, request = scene
    other = judged_bundle(tiny, tmp_path / "other", noise=0.4, model=tiny.network(seed=3))
    with pytest.raises(InputError, match="is of model"):
        pack(request._replace(report=other.report), tmp_path / "p.evidence")
    unjudged = tiny.bundle(tmp_path / "b.medfm", outcome=None)
    with pytest.raises(InputError, match="no verdict in the bundle's manifest cites this report"):
        pack(request._replace(bundle=unjudged), tmp_path / "p.evidence")
    with pytest.raises(InputError, match="not of the baseline bundle"):
        pack(request._replace(baseline=(other.bundle, folder / "a" / "report.json")), tmp_path / "p.evidence")
    assert not (tmp_path / "p.evidence").exists()


def test_the_index_is_what_was_signed(good):
    read = read_pack(good)
    raw = archive.read_member(good, archive.read_directory(good)[0])
    assert raw == read.raw_index and msgspec.json.decode(raw, type=Index) == read.index and INDEX == "index.json"
    assert msgspec.json.decode(read.members["report.json"], type=Report).bundle_name == "tiny"
