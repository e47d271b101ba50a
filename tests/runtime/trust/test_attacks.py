"""Each way to get another model, verdict or decision into a device, refused with one sentence and exit code 4."""

from __future__ import annotations

import io

import msgspec
import numpy as np
import pytest
from PIL import Image
from signing import Signer, cited_by, make_store, signed_bundle

from medfm_compress.cli.main import run
from medfm_compress.runtime import engine as engines
from medfm_compress.runtime.bundle import archive
from medfm_compress.runtime.bundle import bundle as bundles
from medfm_compress.runtime.bundle.bundle import Bundle, model_digest, rewrite_bundle
from medfm_compress.runtime.engine import Engine
from medfm_compress.runtime.errors import BundleRefused, Refused, TrustRefused
from medfm_compress.runtime.trust import standing as standings
from medfm_compress.runtime.trust.store_changes import remove_key

BUILDER, APPROVER = Signer.make("Build", "builder"), Signer.make("Chief", "approver")
STRANGER = Signer.make("Build", "builder")


@pytest.fixture
def scene(tiny, tmp_path):
    """A signed bundle, a store that trusts it, an image, and another signed bundle that failed its gate."""
    signed_bundle(tiny, tmp_path / "good.medfm", BUILDER, APPROVER)
    signed_bundle(tiny, tmp_path / "failed.medfm", BUILDER, APPROVER, outcome="fail", model=tiny.network(seed=1))
    make_store(tmp_path / "trust", BUILDER, APPROVER)
    Image.fromarray(tiny.image()).save(tmp_path / "x.png")
    return tmp_path


def answer(scene, capsys, bundle="good.medfm", *options):
    """Exit code of ``run``, and what it said on standard output and standard error."""
    code = run(["run", str(scene / bundle), str(scene / "x.png"), "--trust-store", str(scene / "trust"), *options])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def members(path):
    return {entry.name: archive.read_member(path, entry) for entry in archive.read_directory(path)}


def change(path, change_manifest=lambda plain: None, **changed_members):
    """Edit a bundle, its hashes and its model digest made to fit again; signatures are left as they are."""
    parts = members(path)
    plain = msgspec.json.decode(parts["manifest.json"])
    change_manifest(plain)
    plain["model_digest"] = model_digest(plain)
    parts["manifest.json"] = msgspec.json.encode(plain)
    archive.write_archive(path, parts | changed_members)


def flip_a_bit(scene, tiny):
    data = bytearray((scene / "good.medfm").read_bytes())
    data[data.index(tiny.network()) + 100] ^= 1
    (scene / "good.medfm").write_bytes(data)


def sign_with_another_key(scene, tiny):
    tiny.bundle(scene / "good.medfm")
    STRANGER.sign(scene / "good.medfm")
    APPROVER.sign(scene / "good.medfm")


def revoke(scene, tiny):
    remove_key(scene / "trust", "Build", revoke="stolen")
    make_store(scene / "trust", Signer.make("New", "builder"))


def strip(scene, tiny):
    path = scene / "good.medfm"
    archive.write_archive(path, {k: v for k, v in members(path).items() if not k.startswith("signatures/")})


def strip_the_approver(scene, tiny):
    path = scene / "good.medfm"
    archive.write_archive(path, {k: v for k, v in members(path).items() if APPROVER.public.key_id not in k})


def swap_the_verdict(scene, tiny):
    """The failed bundle with the good one's verdict, re-hashed, signatures and all."""
    good = msgspec.json.decode(members(scene / "good.medfm")["manifest.json"])
    change(scene / "failed.medfm", lambda plain: plain.update(verdicts=good["verdicts"]))
    (scene / "failed.medfm").replace(scene / "good.medfm")


def swap_the_verdict_and_sign_as_the_builder(scene, tiny):
    """A builder who approves his own model: the approver's signature is of other bytes, so he leaves it out."""
    path = scene / "failed.medfm"
    rewrite_bundle(path, path, verdicts=[tiny.verdict(path, tiny.ORT.name, "pass")])
    BUILDER.sign(path, cited=cited_by(Bundle.open(path)))
    path.replace(scene / "good.medfm")


def cite_another_model(scene, tiny):
    """All signatures are right, and the verdict is one on another model."""
    path = scene / "good.medfm"
    tiny.bundle(path)

    def cite(plain):
        plain["verdicts"][0]["model_digest"] = "f" * 64

    change(path, cite)
    APPROVER.sign(BUILDER.sign(path))


def approve_another_report(scene, tiny):
    path = tiny.bundle(scene / "good.medfm")
    BUILDER.sign(path)
    APPROVER.sign(
        path, cited=tuple(msgspec.structs.replace(c, report_sha256="9" * 64) for c in cited_by(Bundle.open(path)))
    )


def edit_the_manifest(scene, tiny):
    def lower(plain):
        plain["task"]["operating_points"][0]["threshold"] = 0.01

    change(scene / "good.medfm", lower)


def edit_the_intended_use(scene, tiny):
    change(scene / "good.medfm", lambda plain: plain.update(intended_use="for every patient"))


def replay_signatures_of_another(scene, tiny):
    """The signatures of the good bundle on the failed one."""
    signatures = {k: v for k, v in members(scene / "good.medfm").items() if k.startswith("signatures/")}
    kept = {k: v for k, v in members(scene / "failed.medfm").items() if not k.startswith("signatures/")}
    archive.write_archive(scene / "good.medfm", kept | signatures)


def open_the_store_to_others(scene, tiny):
    (scene / "trust").chmod(0o777)


def empty_the_store(scene, tiny):
    for path in (scene / "trust").iterdir():
        path.unlink()


ATTACKS = {
    flip_a_bit: "does not match its sha256",
    sign_with_another_key: "only keys that are not in the trust store",
    revoke: "the key of 'Build' was revoked",
    strip: "no trusted builder signed it",
    strip_the_approver: "its verdict does not count: no trusted approver signed it",
    swap_the_verdict: "does not fit it: it was edited after it was signed",
    swap_the_verdict_and_sign_as_the_builder: "its verdict does not count: no trusted approver signed it",
    cite_another_model: "no verdict cites this model",
    approve_another_report: "for another report or policy than the verdict's",
    edit_the_manifest: "does not fit it: it was edited after it was signed",
    edit_the_intended_use: "does not fit it: it was edited after it was signed",
    replay_signatures_of_another: "does not fit it: it was edited after it was signed",
    open_the_store_to_others: "others may write to",
    empty_the_store: "holds no key",
}


def test_what_is_signed_runs(scene, capsys):
    code, out, err = answer(scene, capsys)
    assert (code, err) == (0, "") and "opacity" in out and "[" not in out


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
def test_an_attack_is_refused_with_one_sentence_and_exit_code_4(scene, tiny, capsys, attack):
    attack(scene, tiny)
    code, out, err = answer(scene, capsys)
    assert (code, out) == (4, "") and ATTACKS[attack] in err
    assert err.startswith("error: ") and err.count("\n") == 1


@pytest.mark.parametrize(
    "attack",
    [flip_a_bit, revoke, swap_the_verdict, edit_the_manifest, replay_signatures_of_another, open_the_store_to_others],
    ids=lambda attack: attack.__name__,
)
def test_a_lab_s_flag_forgives_no_forgery(scene, tiny, capsys, attack):
    attack(scene, tiny)
    code, _, _ = answer(scene, capsys, "good.medfm", "--allow-unsigned", "--unverified")
    assert code == 4


@pytest.mark.parametrize(
    "attack", [strip, strip_the_approver, sign_with_another_key], ids=lambda attack: attack.__name__
)
def test_a_lab_s_flag_shows_in_every_prediction(scene, tiny, capsys, attack):
    attack(scene, tiny)
    code, out, _ = answer(scene, capsys, "good.medfm", "--allow-unsigned")
    assert code == 0 and "[unsigned-bundle]" in out


def test_an_expired_key(scene, capsys, monkeypatch):
    monkeypatch.setattr(standings, "clock_now", lambda: "9999-06-01T00:00:00Z")
    code, out, err = answer(scene, capsys)
    assert (code, out) == (4, "") and "the key of 'Build' expired on 9999-01-01" in err


@pytest.mark.parametrize("signer", [BUILDER, APPROVER], ids=["builder", "approver"])
def test_a_key_that_is_revoked_stops_an_engine_that_runs(scene, tiny, monkeypatch, signer):
    engine = Engine(scene / "good.medfm", trust=scene / "trust")
    remove_key(scene / "trust", signer.public.key_id, revoke="stolen")
    assert engine.predict(tiny.image()).probabilities  # the store is asked every half minute
    monkeypatch.setattr(engines, "TRUST_EVERY_S", 0.0)
    for _ in range(2):
        with pytest.raises(BundleRefused, match="revoked"):
            engine.predict(tiny.image())


def test_an_engine_that_runs_goes_on_as_long_as_it_is_trusted(scene, tiny, monkeypatch):
    monkeypatch.setattr(engines, "TRUST_EVERY_S", 0.0)
    engine = Engine(scene / "good.medfm", trust=scene / "trust")
    assert engine.predict(tiny.image()).flags == Engine(scene / "good.medfm").predict(tiny.image()).flags
    (scene / "trust").rename(scene / "elsewhere")
    with pytest.raises(TrustRefused):
        engine.predict(tiny.image())


def test_a_clock_of_1970_is_flagged(scene, tiny, monkeypatch):
    monkeypatch.setattr(standings, "clock_now", lambda: "1970-01-01T00:00:00Z")
    with Engine(scene / "good.medfm", threads=1, trust=scene / "trust") as engine:
        assert engine.predict(tiny.image()).flags == ("clock-is-wrong",)


def test_the_default_store_is_asked_without_being_named(scene, tiny, monkeypatch):
    tiny.bundle(scene / "unsigned.medfm")
    with Engine(scene / "unsigned.medfm", threads=1) as engine:
        assert engine.predict(tiny.image()).flags == ()
    monkeypatch.setenv("MEDFM_TRUST_STORE", str(scene / "trust"))
    with pytest.raises(BundleRefused, match="no trusted builder"):
        Engine(scene / "unsigned.medfm", threads=1)
    with pytest.raises(BundleRefused, match="no trusted builder"):
        Engine(Bundle.open(scene / "unsigned.medfm"), threads=1)  # opened before, without a store


def test_nothing_is_decoded_before_the_signature_was_checked(scene, tiny, monkeypatch):
    edit_the_manifest(scene, tiny)
    monkeypatch.setattr(bundles, "_decode_manifest", lambda *_: pytest.fail("the manifest was decoded"))
    with pytest.raises(BundleRefused, match="was edited"):
        Engine(scene / "good.medfm", threads=1, trust=scene / "trust")


def exchanging(target, other, function):
    """``function``, before which the file at ``target`` is exchanged for ``other``."""

    def exchange(*arguments, **options):
        target.write_bytes(other)
        return function(*arguments, **options)

    return exchange


@pytest.mark.parametrize(
    ("module", "name"),
    [(bundles, "check_signatures"), (bundles, "_decode_manifest"), (archive, "read_content")],
    ids=["after the manifest was read", "after the signature was checked", "before the model is read"],
)
def test_a_file_exchanged_between_check_and_load_does_not_run(scene, tiny, monkeypatch, module, name):
    """The other file is a sound bundle with a network of the same size, unsigned."""
    evil = tiny.bundle(scene / "evil.medfm", model=tiny.network(seed=2)).read_bytes()
    original = Bundle.open(scene / "good.medfm")
    monkeypatch.setattr(module, name, exchanging(scene / "good.medfm", evil, getattr(module, name)))
    with pytest.raises(Refused):
        Engine(original.path, threads=1, trust=scene / "trust")


def test_the_bytes_that_were_checked_are_the_bytes_that_run(scene, tiny, monkeypatch):
    """Where a member is equal in both files, what runs is what was signed, whatever the file says now."""
    with Engine(scene / "good.medfm", threads=1, trust=scene / "trust") as engine:
        expected = engine.predict(tiny.image())
        point = msgspec.structs.replace(tiny.POINT, threshold=0.0)
        task = msgspec.structs.replace(tiny.TASK, operating_points=(point,))
        evil = tiny.bundle(scene / "evil.medfm", task=task).read_bytes()
        (scene / "good.medfm").write_bytes(evil)
        assert engine.predict(tiny.image()).findings == expected.findings


def test_json_says_so_too(scene, tiny, capsys):
    strip(scene, tiny)
    code, out, _ = answer(scene, capsys, "good.medfm", "--allow-unsigned", "--json")
    (prediction,) = msgspec.json.decode(io.StringIO(out).read())
    assert code == 0 and prediction["flags"] == ["unsigned-bundle"]
    assert np.isfinite(prediction["probabilities"]["opacity"])
