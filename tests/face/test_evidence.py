"""``evidence pack`` and ``evidence verify`` at the command line."""

from __future__ import annotations

import json
import stat

import pytest
from evidence_scene import judged_bundle

from medfm_compress.cli.main import run


@pytest.fixture
def call(capsys):
    """``call(*words) -> (exit code, standard output, standard error)``."""

    def invoke(*words):
        code = run([str(word) for word in words])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return invoke


@pytest.fixture
def folder(tiny, tmp_path, call):
    judged_bundle(tiny, tmp_path)
    assert call("bundle", "keygen", "--name", "Chief", "--role", "approver", "--out", tmp_path / "chief")[0] == 0
    return tmp_path


def pack(call, folder, *more):
    return call(
        *("evidence", "pack", folder / "b.medfm", "--report", folder / "report.json"),
        *("--policy", folder / "policy.yaml", "--key", folder / "chief.key", "--out", folder / "p.evidence", *more),
    )


def test_pack_and_verify(folder, call):
    code, out, _ = pack(call, folder)
    assert code == 0 and "the evidence for a verdict of pass" in out and "keep it at home" in out
    salt = folder / "p.evidence.salt"
    assert stat.S_IMODE(salt.stat().st_mode) == 0o600 and len(bytes.fromhex(salt.read_text())) == 32
    code, out, _ = call("evidence", "verify", folder / "p.evidence")
    assert code == 0 and "verdict: pass" in out and "not checked: no trust store was asked" in out
    call("trust", "add", folder / "chief.pub", "--trust-store", folder / "trust")
    code, out, _ = call("evidence", "verify", folder / "p.evidence", "--trust-store", folder / "trust")
    assert code == 0 and "signed by: Chief (approver)" in out and "its bundle is signed by: no trusted key" in out
    assert "no device would count this verdict: no trusted approver signed it" in out
    shown = json.loads(call("evidence", "verify", folder / "p.evidence", "--json")[1])
    assert shown["outcome"] == "pass" and shown["figures"] > 10


def test_a_second_pack_keeps_the_salt(folder, call):
    pack(call, folder)
    before = (folder / "p.evidence.salt").read_text()
    code, _, err = pack(call, folder)
    assert code == 2 and "exists" in err
    assert pack(call, folder, "--overwrite")[0] == 0 and (folder / "p.evidence.salt").read_text() == before
    (folder / "p.evidence.salt").write_text("pepper")
    code, _, err = pack(call, folder, "--overwrite")
    assert code == 2 and "is no salt of 32 bytes" in err


def test_a_forged_pack_is_one_sentence_and_exit_code_4(folder, call):
    pack(call, folder)
    data = (folder / "p.evidence").read_bytes()
    at = data.index(b'"outcome": "pass"')
    (folder / "p.evidence").write_bytes(data[:at] + b'"outcome": "fail"' + data[at + 17 :])
    code, out, err = call("evidence", "verify", folder / "p.evidence")
    assert (code, out) == (4, "") and err.startswith("error: ") and err.count("\n") == 1


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--baseline-report", "x"], "--baseline-bundle and --baseline-report together"),
        (["--limits", "none.md"], "cannot read the text on limits"),
        (["--study", "none"], "none"),
    ],
)
def test_bad_input(folder, call, more, message):
    code, out, err = pack(call, folder, *more)
    assert (code, out) == (2, "") and message in err and err.count("\n") == 1
    assert not (folder / "p.evidence").exists()
