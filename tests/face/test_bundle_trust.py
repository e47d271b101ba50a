"""``bundle keygen``, ``sign``, ``verify`` and ``trust``: from two keys to a device that takes the bundle."""

from __future__ import annotations

import hashlib
import json

import pytest
from msgspec.structs import replace

from medfm_compress.cli.main import run
from medfm_compress.runtime.bundle.bundle import Bundle, rewrite_bundle


@pytest.fixture
def call(capsys):
    """``call(*words) -> (exit code, standard output, standard error)``."""

    def invoke(*words):
        code = run([str(word) for word in words])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return invoke


@pytest.fixture
def folder(tiny, reports, tmp_path, call):
    """A judged bundle with its report and policy, and the keys of a builder and an approver."""
    tiny.bundle(tmp_path / "b.medfm", outcome=None)
    (tmp_path / "policy.yaml").write_text(reports.POLICY)
    reports.write_report(tiny, tmp_path)
    assert (
        call("gate", tmp_path / "report.json", "--policy", tmp_path / "policy.yaml", "--bundle", tmp_path / "b.medfm")[
            0
        ]
        == 0
    )
    for name, role in (("build", "builder"), ("chief", "approver")):
        assert call("bundle", "keygen", "--name", name, "--role", role, "--out", tmp_path / name)[0] == 0
    return tmp_path


def approve(call, folder, *more):
    evidence = ("--report", folder / "report.json", "--policy", folder / "policy.yaml")
    return call("bundle", "sign", folder / "b.medfm", "--key", folder / "chief.key", *evidence, *more)


def test_the_whole_way(folder, call):
    assert call("bundle", "sign", folder / "b.medfm", "--key", folder / "build.key", "--release", 4)[:2] == (
        0,
        f"signed the model of {folder / 'b.medfm'}, release 4\n",
    )
    code, out, _ = approve(call, folder)
    assert code == 0 and "signed the verdict on 1 report(s)" in out
    for name in ("build", "chief"):
        assert call("trust", "add", folder / f"{name}.pub", "--trust-store", folder / "trust")[0] == 0
    code, out, _ = call("bundle", "verify", folder / "b.medfm", "--trust-store", folder / "trust")
    assert code == 0 and out.count("holds") == 2 and "its passing verdict counts" in out
    listed = json.loads(call("trust", "list", "--trust-store", folder / "trust", "--json")[1])
    assert sorted(key["role"] for key in listed["keys"].values()) == ["approver", "builder"]
    shown = json.loads(call("inspect", folder / "b.medfm", "--json")[1])
    assert shown["manifest"]["release"] == 4 and len(shown["signatures"]) == 2
    assert "2; 'bundle verify' says whose" in call("inspect", folder / "b.medfm")[1]


def test_a_builder_alone_is_enough_for_the_model_and_not_for_a_device(folder, call):
    call("bundle", "sign", folder / "b.medfm", "--key", folder / "build.key")
    call("trust", "add", folder / "build.pub", "--trust-store", folder / "trust")
    words = ("bundle", "verify", folder / "b.medfm", "--trust-store", folder / "trust")
    code, out, _ = call(*words)
    assert code == 4 and "its verdict does not count: no trusted approver signed it" in out
    assert call(*words, "--model-only")[0] == 0


def test_a_revoked_key_and_an_edited_bundle(folder, call):
    call("bundle", "sign", folder / "b.medfm", "--key", folder / "build.key")
    for name in ("build", "chief"):
        call("trust", "add", folder / f"{name}.pub", "--trust-store", folder / "trust")
    code, out, _ = call("trust", "remove", "build", "--revoke", "stolen", "--trust-store", folder / "trust")
    assert code == 0 and out.startswith("revoked 'build'")
    assert "revoked: stolen" in call("trust", "list", "--trust-store", folder / "trust")[1]
    code, _, err = call("bundle", "verify", folder / "b.medfm", "--trust-store", folder / "trust")
    assert code == 4 and "'build' was revoked" in err
    assert call("trust", "add", folder / "build.pub", "--trust-store", folder / "trust")[0] == 2


def test_a_store_without_a_role_says_what_follows(folder, call):
    call("trust", "add", folder / "build.pub", "--trust-store", folder / "trust")
    out = call("trust", "list", "--trust-store", folder / "trust")[1]
    assert "there is no approver whose key is current, so no verdict counts" in out and "no builder" not in out
    call("trust", "remove", "build", "--revoke", "stolen", "--trust-store", folder / "trust")
    code, out, _ = call("trust", "list", "--trust-store", folder / "trust")
    assert code == 0 and "revoked: stolen" in out and "so no bundle is trusted" in out


def test_an_approver_s_verdict_is_judged_again(tiny, reports, folder, call):
    """The bundle says pass, the report says fail: whoever wrote that gets no signature."""
    path = folder / "b.medfm"
    honest = Bundle.open(path).manifest.verdicts[0]
    reports.write_report(tiny, folder, shift=3.0)
    sha256 = hashlib.sha256((folder / "report.json").read_bytes()).hexdigest()
    rewrite_bundle(path, path, verdicts=[replace(honest, report_sha256=sha256)])
    code, _, err = approve(call, folder)
    assert code == 2 and "is pass, and judged again from" in err and "it is fail; do not sign it" in err
    assert Bundle.open(path).signed.signatures == {}
    assert "none" in next(line for line in call("inspect", path)[1].splitlines() if line.startswith("signatures"))


def test_an_approver_signs_only_what_the_bundle_cites(tiny, reports, folder, call):
    reports.write_report(tiny, folder, noise=0.1)
    code, _, err = approve(call, folder)
    assert code == 2 and "no verdict of b.medfm cites report" in err


def test_the_gate_drops_signatures_and_says_so(folder, call):
    call("bundle", "sign", folder / "b.medfm", "--key", folder / "build.key")
    judge = ("gate", folder / "report.json", "--policy", folder / "policy.yaml", "--bundle", folder / "b.medfm")
    code, out, _ = call(*judge)
    assert code == 0 and "its 1 signature(s) were of the bundle as it was and are dropped; sign it again" in out


def test_signing_twice_says_that_it_replaces(folder, call):
    words = ("bundle", "sign", folder / "b.medfm", "--key", folder / "build.key")
    assert "replaced" not in call(*words)[1]
    assert "the earlier signature of this key is replaced" in call(*words)[1]
    code, _, err = call(*words, "--release", 5)
    assert code == 2 and "is signed, and its release is part of what was signed" in err


def test_a_key_with_a_passphrase_asks_for_it(folder, call, monkeypatch):
    monkeypatch.setattr("typer.prompt", lambda *_, **__: "swordfish")
    words = ("bundle", "keygen", "--name", "safe", "--role", "builder", "--out", folder / "safe", "--passphrase")
    assert call(*words)[0] == 0 and b"ENCRYPTED" in (folder / "safe.key").read_bytes()
    assert call("bundle", "sign", folder / "b.medfm", "--key", folder / "safe.key")[0] == 0
    monkeypatch.setattr("typer.prompt", lambda *_, **__: "guess")
    code, _, err = call("bundle", "sign", folder / "b.medfm", "--key", folder / "safe.key")
    assert code == 2 and "its passphrase is another" in err


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["bundle", "keygen", "--name", "n", "--role", "owner", "--out", "{}/n"], 2, "choose builder or approver"),
        (["bundle", "keygen", "--name", "n", "--role", "builder", "--out", "{}/build"], 2, "never overwritten"),
        (["bundle", "keygen", "--name", "", "--role", "builder", "--out", "{}/n"], 2, "1 to 100 printable"),
        (["bundle", "keygen", "--name", "n", "--role", "builder", "--out", "{}/n", "--expires", "x"], 2, "give a day"),
        (
            ["bundle", "keygen", "--name", "n", "--role", "builder", "--out", "{}/n", "--expires", "2020-01-01"],
            2,
            "which is past",
        ),
        (["bundle", "sign", "{}/b.medfm", "--key", "{}/none.key"], 2, "cannot read the private key"),
        (["bundle", "sign", "{}/b.medfm", "--key", "{}/build.pub"], 2, "others may read the private key"),
        (
            ["bundle", "sign", "{}/b.medfm", "--key", "{}/build.key", "--policy", "p"],
            2,
            "--report and --policy together",
        ),
        (["bundle", "sign", "{}/b.medfm", "--key", "{}/build.key", "--release", "0"], 2, "release is 0"),
        (["bundle", "sign", "{}/policy.yaml", "--key", "{}/build.key"], 4, "is not a bundle"),
        (["bundle", "verify", "{}/b.medfm", "--trust-store", "{}/none"], 4, "No such file"),
        (["bundle", "verify", "{}/b.medfm", "--trust-store", ""], 2, "the trust store is empty or"),
        (["trust", "add", "{}/b.medfm", "--trust-store", "{}/t"], 2, "public key"),
        (["trust", "add", "{}/build.key", "--trust-store", "{}/t"], 2, "is a PEM file"),
        (["trust", "add", "{}/build.pub", "--trust-store", "{}/t", "--role", "all"], 2, "choose builder or approver"),
        (["trust", "list", "--trust-store", "{}/none"], 4, "No such file"),
        (["trust", "remove", "x", "--trust-store", "{}/none"], 4, "No such file"),
    ],
)
def test_bad_input_is_one_sentence(folder, call, words, code, message):
    (folder / "build.pub").chmod(0o644)
    actual, out, err = call(*(word.format(folder) for word in words))
    assert (actual, out) == (code, "") and message in err
    assert err.startswith("error: ") and err.count("\n") == 1
    assert not (folder / "n.key").exists()


def test_without_a_store_verify_says_how_to_make_one(folder, call, monkeypatch, tmp_path):
    from medfm_compress.runtime.trust import store

    monkeypatch.delenv("MEDFM_TRUST_STORE", raising=False)
    monkeypatch.setattr(store, "DEFAULT_STORE", tmp_path / "none")
    code, _, err = call("bundle", "verify", folder / "b.medfm")
    assert code == 2 and "there is no trust store: give --trust-store" in err


def test_a_key_of_the_other_role_signs_nothing(folder, call):
    before = (folder / "b.medfm").read_bytes()
    code, _, err = call("bundle", "sign", folder / "b.medfm", "--key", folder / "chief.key")
    assert code == 2 and "the key of 'chief' is an approver's" in err
    evidence = ("--report", folder / "report.json", "--policy", folder / "policy.yaml")
    code, _, err = call("bundle", "sign", folder / "b.medfm", "--key", folder / "build.key", *evidence)
    assert code == 2 and "the key of 'build' is a builder's" in err
    assert (folder / "b.medfm").read_bytes() == before
    (folder / "chief.pub").replace(folder / "build.pub")  # of another key: nothing says the role
    code, out, _ = call("bundle", "sign", folder / "b.medfm", "--key", folder / "build.key")
    assert code == 0 and "has this key as builder" in out


def test_a_path_or_a_day_that_is_none_makes_no_key(tmp_path, call):
    (tmp_path / "there").mkdir()
    words = ("bundle", "keygen", "--name", "x", "--role", "builder", "--out")
    for out in (f"{tmp_path}/new/", f"{tmp_path}/new/.", f"{tmp_path}/there"):
        code, _, err = call(*words, out)
        assert code == 2 and "is a folder" in err
    code, _, err = call(*words, tmp_path / "key", "--expires", "2027-02-30")
    assert code == 2 and "'2027-02-30'; give a day" in err
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


def test_two_years_from_a_leap_day(tmp_path, call, monkeypatch):
    monkeypatch.setattr("medfm_compress.runtime.trust.clock.clock_now", lambda: "2028-02-29T12:00:00Z")
    code, out, _ = call("bundle", "keygen", "--name", "x", "--role", "builder", "--out", tmp_path / "key", "--json")
    assert code == 0 and json.loads(out)["expires"] == "2030-02-28T12:00:00Z"


def test_an_unset_reason_is_no_reason(folder, call):
    call("trust", "add", folder / "build.pub", "--trust-store", folder / "trust")
    code, _, err = call("trust", "remove", "build", "--revoke", "", "--trust-store", folder / "trust")
    assert code == 2 and "say why" in err
    code, _, err = call("trust", "remove", "", "--trust-store", folder / "trust")
    assert code == 2 and "no key ''" in err
