"""A bundle is read back as written, or refused with a reason."""

from __future__ import annotations

import errno
import os

import msgspec
import numpy as np
import pytest
from msgspec.structs import replace

from medfm_compress.runtime.bundle import archive
from medfm_compress.runtime.bundle import bundle as bundles
from medfm_compress.runtime.bundle.bundle import Bundle, rewrite_bundle, utc_date, write_bundle
from medfm_compress.runtime.bundle.manifest import SCHEMA_VERSION, Provenance
from medfm_compress.runtime.errors import BundleRefused, InputError
from medfm_compress.runtime.image_spec import ColourRule
from medfm_compress.runtime.strict_json import digest, encode


@pytest.fixture(scope="module")
def sealed(tiny, tmp_path_factory):
    return tiny.bundle(tmp_path_factory.mktemp("bundle") / "tiny.medfm", (tiny.OV, tiny.ORT))


def forged(path, out, change_manifest=lambda plain: None, change_members=lambda members: None):
    """A bundle in a valid layout whose manifest or members somebody changed."""
    members = {entry.name: archive.read_member(path, entry) for entry in archive.read_directory(path)}
    plain = msgspec.json.decode(members["manifest.json"])
    change_manifest(plain)
    members["manifest.json"] = msgspec.json.encode(plain)
    change_members(members)
    archive.write_archive(out, members)
    return out


def refusal(path):
    with pytest.raises(BundleRefused) as info:
        Bundle.open(path)
    text = str(info.value)
    assert "\n" not in text
    return text


def test_it_comes_back_as_written(tiny, sealed):
    bundle = Bundle.open(sealed)
    assert bundle.read("model.onnx") == tiny.network()
    assert bundle.manifest.schema_version == 1
    assert [v.name for v in bundle.manifest.variants] == [tiny.OV.name, tiny.ORT.name]
    assert bundle.variant_bytes(tiny.ORT) == len(tiny.network())
    assert len(bundle.model_digest) == 64
    with pytest.raises(InputError, match="it has openvino-cpu-fp32, onnxruntime-cpu-fp32"):
        bundle.variant("nope")
    with pytest.raises(InputError, match="no member 'nope'"):
        bundle.read("nope")


def test_equal_arguments_give_equal_bytes(tiny, tmp_path):
    files = tiny.contents()
    first = write_bundle(tmp_path / "a.medfm", tiny.draft(), files)
    write_bundle(tmp_path / "b.medfm", tiny.draft(), dict(reversed(files.items())))
    assert (tmp_path / "a.medfm").read_bytes() == (tmp_path / "b.medfm").read_bytes()
    assert Bundle.open(tmp_path / "a.medfm").manifest == first


def refuses_flips(sealed, tmp_path, positions):
    data, path = sealed.read_bytes(), tmp_path / "flipped.medfm"
    random = np.random.default_rng(0)
    for position in positions:
        flipped = bytearray(data)
        flipped[position] ^= 1 << int(random.integers(8))
        path.write_bytes(flipped)
        with pytest.raises(BundleRefused):
            Bundle.open(path)


def test_a_flipped_byte_is_refused_in_every_header_and_all_over_the_contents(sealed, tmp_path):
    last = archive.read_directory(sealed)[-1]
    headers = range(last.start + last.size, sealed.stat().st_size, 2)
    refuses_flips(sealed, tmp_path, [*range(0, 46), *range(46, headers.start, 29), *headers])


@pytest.mark.slow
def test_any_flipped_byte_at_all_is_refused(sealed, tmp_path):
    refuses_flips(sealed, tmp_path, range(sealed.stat().st_size))


@pytest.mark.parametrize("part", [0, 0.1, 0.5, 0.99])
def test_a_truncated_file_is_refused(sealed, tmp_path, part):
    path = tmp_path / "short.medfm"
    path.write_bytes(sealed.read_bytes()[: int(part * sealed.stat().st_size)])
    refusal(path)


def test_a_newer_schema_says_upgrade_even_with_unknown_keys(sealed, tmp_path):
    newer = SCHEMA_VERSION + 1
    path = forged(sealed, tmp_path / "new.medfm", lambda plain: plain.update(schema_version=newer, holograms=[]))
    wanted = f"new.medfm was made by a newer medfm-compress (schema {newer}; this one reads {SCHEMA_VERSION}): upgrade"
    assert refusal(path) == wanted


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda plain: plain.update(schema_version=0), "never existed"),
        (lambda plain: plain.update(schema_version="1"), "schema_version"),
        (lambda plain: plain.update(extra=1), "unknown field `extra`"),
        (lambda plain: plain.pop("task"), "missing required field `task`"),
        (lambda plain: plain["task"]["operating_points"][0].update(threshold=0.1), "model digest"),
        (lambda plain: plain["image_spec"].update(mean=[0.4]), "model digest"),
        (lambda plain: plain["image_spec"].update(mean=[]), "mean"),
        (lambda plain: plain["image_spec"].update(mean=[1e300]), "mean is (1e+300,)"),
        (lambda plain: plain["image_spec"].update(std=[1e-320]), "every value must be above 0"),
        (lambda plain: plain["variants"][0].update(golden_tolerance=0.2), "model digest"),
        (lambda plain: plain["variants"][0].update(golden_tolerance=1e300), "golden_tolerance"),
        (lambda plain: plain["variants"][0].update(golden_tolerance=-1e-9), "it must be 0 to 0.25"),
        (lambda plain: plain["task"].update(temperature=1e-320), "it must be 0.001 to 1000"),
        (lambda plain: plain["variants"][0].update(temperature=1e300, operating_points=[]), "temperature is 1e+300"),
        (lambda plain: plain["task"]["operating_points"][0].update(sensitivity=7), "sensitivity of 'opacity' is 7"),
        (lambda plain: plain["task"]["operating_points"][0].update(positives=-1), "-1 positives"),
        (lambda plain: plain["members"].append(plain["members"][0]), "lists a member twice"),
        (lambda plain: plain["members"].pop(), "not listed in the manifest"),
        (lambda plain: plain["members"].append({"path": "x", "bytes": 0, "sha256": ""}), "missing"),
        (lambda plain: plain["members"][0].update(sha256="0" * 64), "sha256"),
        (lambda plain: plain["variants"].clear(), "at least one"),
        (lambda plain: plain["variants"][0].update(files=["none.onnx"]), "need 'none.onnx'"),
        (lambda plain: plain["inputs"][0].update(shape=[1, 1, 64, 64]), "its image spec gives"),
        (lambda plain: plain["outputs"][0].update(shape=[1, 3]), "its task needs"),
        (lambda plain: plain["verdicts"][0].update(variant="ghost"), "'ghost'"),
    ],
)
def test_a_forged_manifest_is_refused(sealed, tmp_path, change, words):
    assert words in refusal(forged(sealed, tmp_path / "forged.medfm", change))


@pytest.mark.parametrize("tolerance", [float("nan"), float("inf"), -1.0, 0.26])
def test_a_tolerance_that_would_switch_the_replay_off_is_no_tolerance(tiny, tolerance):
    with pytest.raises(InputError, match=r"it must be 0 to 0\.25"):
        msgspec.structs.replace(tiny.ORT, golden_tolerance=tolerance)


def test_what_export_allows_is_allowed(tiny):
    parity = pytest.importorskip("medfm_compress.export.parity")
    for precision, tolerance in parity.TOLERANCES.items():
        msgspec.structs.replace(tiny.ORT, precision=precision, golden_tolerance=tolerance)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda members: members.update({"model.onnx": b"other"}), "model.onnx does not match"),
        (lambda members: members.update({"stowaway": b""}), "'stowaway' is not listed"),
        (lambda members: members.pop("model.onnx"), "'model.onnx' is listed in the manifest and missing"),
        (lambda members: members.update({"manifest.json": b"not json"}), "manifest.json"),
        (lambda members: members.update({"manifest.json": b"[" * 100_000}), "manifest.json"),
        (lambda members: members.update({"manifest.json": b" " * (5 << 20)}), "does not start with"),
        (lambda members: members.update({"a": members.pop("manifest.json")}), "does not start with"),
    ],
)
def test_forged_members_are_refused(sealed, tmp_path, change, words):
    assert words in refusal(forged(sealed, tmp_path / "forged.medfm", change_members=change))


def test_what_is_not_a_bundle(tmp_path):
    with pytest.raises(InputError, match="No such file"):
        Bundle.open(tmp_path / "absent.medfm")
    with pytest.raises(InputError, match="is a folder"):
        Bundle.open(tmp_path)
    (tmp_path / "text.medfm").write_text("hello " * 100)
    assert "is not a bundle" in refusal(tmp_path / "text.medfm")


def test_a_file_swapped_after_opening_is_refused_at_the_next_read(tiny, tmp_path):
    path = tiny.bundle(tmp_path / "a.medfm")
    bundle = Bundle.open(path)
    data = bytearray(path.read_bytes())
    at = data.index(tiny.network()) + 100
    data[at] ^= 1
    path.write_bytes(data)
    with pytest.raises(BundleRefused, match=r"model\.onnx"):
        bundle.read("model.onnx")


def test_writing_refuses_parts_that_do_not_fit(tiny, tmp_path):
    files = tiny.contents()
    path = tmp_path / "a.medfm"
    with pytest.raises(InputError, match=r"need 'goldens/onnxruntime-cpu-fp32\.npy'"):
        write_bundle(path, tiny.draft(), {k: v for k, v in files.items() if "onnxruntime" not in k})
    with pytest.raises(InputError, match="leave it out"):
        write_bundle(path, tiny.draft(), files | {"manifest.json": b""})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("failure", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_a_failed_write_leaves_the_old_file(tiny, tmp_path, monkeypatch, failure):
    path = tiny.bundle(tmp_path / "a.medfm")
    before = path.read_bytes()

    def fail(_):
        raise failure

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises((InputError, KeyboardInterrupt)):
        rewrite_bundle(path, path, provenance=Provenance(teacher="other"))
    assert [p.name for p in tmp_path.iterdir()] == ["a.medfm"]
    assert path.read_bytes() == before


def test_verdicts_and_provenance_do_not_change_the_model(tiny, tmp_path):
    path = tiny.bundle(tmp_path / "a.medfm", outcome=None)
    digest = Bundle.open(path).model_digest
    rewrite_bundle(path, path, verdicts=[tiny.verdict(path, tiny.ORT.name, "fail")])
    rewrite_bundle(path, path, verdicts=[tiny.verdict(path, tiny.ORT.name, "pass")], files={"report.html": b"<p>"})
    sealed = rewrite_bundle(path, path, provenance=Provenance(teacher="other"))
    assert sealed.model_digest == digest
    assert [v.outcome for v in sealed.verdicts] == ["pass"]
    assert Bundle.open(path).read("report.html") == b"<p>"


def test_a_new_variant_voids_old_verdicts_and_a_dropped_one_leaves_nothing(tiny, tmp_path):
    path = tiny.bundle(tmp_path / "a.medfm", (tiny.ORT,))
    golden = tiny.contents((tiny.OV,))
    both = rewrite_bundle(path, tmp_path / "b.medfm", variants=(tiny.OV, tiny.ORT), files=golden)
    assert both.verdicts == ()
    assert both.model_digest != Bundle.open(path).model_digest
    alone = rewrite_bundle(tmp_path / "b.medfm", tmp_path / "c.medfm", variants=(tiny.OV,))
    assert [m.path for m in alone.members] == ["goldens/inputs.npy", "goldens/openvino-cpu-fp32.npy", "model.onnx"]


def test_a_verdict_on_another_model_is_not_recorded(tiny, tmp_path):
    path = tiny.bundle(tmp_path / "a.medfm")
    stranger = msgspec.structs.replace(tiny.verdict(path, tiny.ORT.name, "pass"), model_digest="f" * 64)
    with pytest.raises(InputError, match="cites another model"):
        rewrite_bundle(path, path, verdicts=[stranger])


def test_the_digest_ignores_what_a_later_type_would_add_by_default(sealed):
    plain = msgspec.to_builtins(Bundle.open(sealed).manifest)
    assert bundles.model_digest(plain) == bundles.model_digest(msgspec.json.decode(encode(plain)))
    assert bundles.model_digest(plain | {"later": 1}) == bundles.model_digest(plain)


@pytest.fixture
def deciding(tiny, tmp_path):
    """A bundle whose ONNX Runtime variant decides by itself and whose OpenVINO variant decides as the task does."""
    point = msgspec.structs.replace(tiny.POINT, threshold=0.25, sensitivity=0.95)
    own = msgspec.structs.replace(tiny.ORT, temperature=2.0, operating_points=(point,))
    return tiny.bundle(tmp_path / "deciding.medfm", (tiny.OV, own), outcome=None)


def test_a_variant_may_decide_by_itself(tiny, deciding):
    bundle = Bundle.open(deciding)
    theirs, own = bundle.manifest.variants
    assert bundle.manifest.task_of(theirs) == bundle.manifest.task == tiny.TASK
    task = bundle.manifest.task_of(own)
    assert (task.temperature, task.operating_points[0].threshold) == (2.0, 0.25)
    assert (task.kind, task.labels) == (tiny.TASK.kind, tiny.TASK.labels)
    assert (theirs.decides_itself, own.decides_itself) == (False, True)


def test_a_variants_decisions_are_part_of_the_model(tiny, deciding, tmp_path):
    plain = Bundle.open(tiny.bundle(tmp_path / "plain.medfm", (tiny.OV, tiny.ORT))).model_digest
    assert Bundle.open(deciding).model_digest != plain
    path = forged(
        deciding,
        tmp_path / "forged.medfm",
        lambda plain: plain["variants"][1]["operating_points"][0].update(threshold=0.2),
    )
    assert "model digest" in refusal(path)


def test_a_bundle_without_them_is_written_as_it_always_was(sealed):
    raw = archive.read_member(sealed, archive.read_directory(sealed)[0])
    stored = msgspec.json.decode(raw)
    assert stored["schema_version"] == 1
    assert {key for variant in stored["variants"] for key in variant} == {
        "name", "files", "backend", "device", "precision", "instruction_set", "engine_versions", "golden_tolerance",
    }  # fmt: skip


def test_an_older_runtime_is_told_to_upgrade(deciding, sealed, monkeypatch):
    monkeypatch.setattr(bundles, "SCHEMA_VERSION", 1)
    assert "made by a newer medfm-compress (schema 2; this one reads 1): upgrade" in refusal(deciding)
    assert Bundle.open(sealed).manifest.schema_version == 1


@pytest.mark.parametrize(
    ("own", "words"),
    [
        ({"temperature": 2.0}, "give it operating points too"),
        ({"temperature": 0.0, "operating_points": []}, "temperature is 0.0"),
        ({"operating_points": [{"label": "ghost"}]}, "'ghost'"),
        ({"operating_points": [{}, {}]}, "one a finding"),
        ({"operating_points": [{"threshold": 1.5}]}, "in [0, 1]"),
    ],
)
def test_decisions_that_do_not_fit_the_task_are_refused(tiny, sealed, tmp_path, own, words):
    if "operating_points" in own:
        own = own | {
            "operating_points": [msgspec.to_builtins(tiny.POINT) | change for change in own["operating_points"]]
        }
    path = forged(sealed, tmp_path / "forged.medfm", lambda plain: plain["variants"][1].update(own))
    assert words in refusal(path)


def test_the_date_follows_source_date_epoch(monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "0")
    assert utc_date() == "1970-01-01T00:00:00Z"
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "soon")
    with pytest.raises(InputError, match="'soon'"):
        utc_date()
    monkeypatch.delenv("SOURCE_DATE_EPOCH")
    assert utc_date() > "2025"


def test_a_colour_rule_is_of_schema_4_and_its_absence_changes_nothing(tiny, sealed, tmp_path):
    rule = ColourRule(images="grey")
    path = tiny.bundle(tmp_path / "grey.medfm", spec=replace(tiny.SPEC, colour_rule=rule))
    opened = Bundle.open(path)
    assert opened.manifest.schema_version == 4
    assert opened.manifest.image_spec.colour_rule == rule
    assert opened.model_digest != Bundle.open(tiny.bundle(tmp_path / "plain.medfm")).model_digest
    stored = msgspec.json.decode(archive.read_member(sealed, archive.read_directory(sealed)[0]))
    assert "colour_rule" not in stored["image_spec"]
    # Of the same bundle as it was written before there were colour rules.
    assert digest(tiny.SPEC) == "37a663150d40c5daf58a5ff7a5d4d7048865337226c6b4addbc6e6b6cc0ca4c3"


@pytest.mark.parametrize(
    "rule", [{"images": "blue"}, {"images": "grey", "others": "ignore"}, {"others": "flag"}, {"images": None}, 7]
)
def test_an_unknown_colour_rule_is_refused(tiny, tmp_path, rule):
    sealed = tiny.bundle(tmp_path / "grey.medfm", spec=replace(tiny.SPEC, colour_rule=ColourRule(images="grey")))
    path = forged(sealed, tmp_path / "forged.medfm", lambda plain: plain["image_spec"].update(colour_rule=rule))
    assert "colour_rule" in refusal(path)
