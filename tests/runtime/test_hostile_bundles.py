"""Whatever stands in a bundle, or in its place, it is opened, or refused with an error of the project's own tree."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import random
import threading
from pathlib import Path

import msgspec
import numpy as np
import pytest

from medfm_compress.runtime import Bundle, Engine
from medfm_compress.runtime.bundle import archive
from medfm_compress.runtime.bundle.bundle import model_digest
from medfm_compress.runtime.errors import BundleRefused, InputError, MedfmError, in_one_line, quoted, refusing
from medfm_compress.runtime.regular_file import read_regular
from medfm_compress.runtime.sessions import onnxruntime as ort_backend
from tests.helpers import tiny_columns

needs_pipes = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")

HOSTILE = [
    *(None, True, "", "x", "\n", "../x", "\udcff\ud800", "a" * 5000, "9" * 5000, ">=" + "9" * 5000, "<\u0661"),
    *(0, -1, 1, 2**31, 2**63, 2**64, 10**30, -(10**30), 0.5, -0.0, 1e-320, 1e300, -1e300),
    *([], {}, [[]], [None], {"": {}}, ["a"] * 300),
]


@pytest.fixture(scope="module")
def whole(tiny, tmp_path_factory):
    """Manifest and other members of a sound bundle."""
    path = tiny.bundle(tmp_path_factory.mktemp("hostile") / "tiny.medfm", (tiny.ORT,))
    members = {entry.name: archive.read_member(path, entry) for entry in archive.read_directory(path)}
    return msgspec.json.decode(members.pop("manifest.json")), members


def written(path: Path, manifest, members) -> Path:
    """A bundle whose hashes fit, so that what it says is believed as far as it can be."""
    try:
        for member in manifest["members"]:
            content = members[member["path"]]
            member.update(bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
        manifest["model_digest"] = model_digest(manifest)
    except Exception:  # noqa: BLE001 - then its hashes do not fit
        pass
    raw = json.dumps(manifest).encode("utf-8", "surrogatepass")
    archive.write_archive(path, {"manifest.json": raw, **members})
    return path


def leaves(value, at=()):
    """Every place in plain data, as the keys that lead there."""
    yield at
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from leaves(inner, (*at, key))


def replaced(manifest, at, value):
    changed = copy.deepcopy(manifest)
    inner = changed
    for key in at[:-1]:
        inner = inner[key]
    inner[at[-1]] = value
    return changed


def use(path, image, columns=None) -> str:
    """Open it and predict; the error of the tree that comes out, empty where none does."""
    try:
        with Engine(path, threads=1, unverified=True) as engine:
            scores = engine.predict(image, columns=columns).probabilities
    except MedfmError as exc:
        assert "\n" not in str(exc) and len(str(exc)) < 2000
        return str(exc)
    assert all(0 <= score <= 1 for score in scores.values())
    return ""


def test_any_value_anywhere_in_the_manifest(tiny, whole, tmp_path):
    manifest, members = whole
    draw = random.Random(0)
    places = [at for at in leaves(manifest) if at]
    refused = 0
    for at in places:
        for value in draw.sample(HOSTILE, 4):
            path = written(tmp_path / "a.medfm", replaced(manifest, at, value), members)
            refused += bool(use(path, tiny.image()))
    assert refused > len(places)


def test_any_value_anywhere_in_the_columns(tiny, tmp_path):
    path = tiny_columns.bundle(tmp_path / "columns.medfm")
    members = {entry.name: archive.read_member(path, entry) for entry in archive.read_directory(path)}
    manifest = msgspec.json.decode(members.pop("manifest.json"))
    places = [at for at in leaves(manifest) if at and at[0] in ("columns", "inputs")]
    draw = random.Random(0)
    messages = set()
    for at in places:
        for value in draw.sample(HOSTILE, 2):
            path = written(tmp_path / "a.medfm", replaced(manifest, at, value), members)
            messages.add(use(path, tiny.image(), {"age": 63, "sex": "female", "view": "AP"}))
    assert len(messages) > 20


@pytest.mark.parametrize("member", ["goldens/inputs.npy", "goldens/onnxruntime-cpu-fp32.npy", "model.onnx"])
def test_any_damage_to_a_member_whose_hash_was_made_to_fit(tiny, whole, tmp_path, member):
    manifest, members = whole
    draw = random.Random(1)
    header = 128 if member.endswith(".npy") else len(members[member])
    for _ in range(120):
        content = bytearray(members[member])
        for _ in range(draw.randint(1, 4)):
            content[draw.randrange(min(header, len(content)))] = draw.randrange(256)
        if draw.random() < 0.2:
            del content[draw.randrange(len(content)) :]
        path = written(tmp_path / "a.medfm", copy.deepcopy(manifest), {**members, member: bytes(content)})
        use(path, tiny.image())


def test_any_damage_to_the_file(tiny, whole, tmp_path):
    path = written(tmp_path / "a.medfm", copy.deepcopy(whole[0]), whole[1])
    data, draw = path.read_bytes(), random.Random(2)
    for _ in range(100):
        damaged = bytearray(data)
        if draw.random() < 0.5:
            damaged[draw.randrange(len(damaged))] ^= 1 << draw.randrange(8)
        else:
            del damaged[draw.randrange(len(damaged)) :][: draw.randrange(1, 100)]
            damaged += bytes(draw.randrange(100))
        path.write_bytes(damaged)
        with pytest.raises(MedfmError):
            Bundle.open(path)


@pytest.mark.parametrize("shape", ["(10000000000, 1, 32, 32)", "(-2, -1, 32, 32)", "(2, 1, 32, True)", "(" * 200])
def test_a_golden_member_allocates_no_more_than_it_holds(tiny, whole, tmp_path, shape):
    manifest, members = whole
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    content = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(2 * 32 * 32)
    path = written(tmp_path / "a.medfm", copy.deepcopy(manifest), {**members, "goldens/inputs.npy": content})
    assert "goldens/inputs.npy is not an array" in use(path, tiny.image())


@pytest.mark.parametrize("digits", ["9" * 5000, "1." * 3000 + "1", "\u0661"])
def test_a_version_of_endless_digits_is_no_version(tiny, whole, tmp_path, digits):
    manifest, members = whole
    changed = replaced(manifest, ("variants", 0, "engine_versions"), f">={digits}")
    assert "version clause" in use(written(tmp_path / "a.medfm", changed, members), tiny.image())


@pytest.mark.parametrize("place", [("schema_version",), ("members", 0, "bytes"), ("inputs", 0, "shape")])
def test_an_integer_of_endless_digits_is_refused(whole, tmp_path, place):
    manifest, members = whole
    raw = json.dumps(replaced(manifest, place, 12345678987654321)).replace("12345678987654321", "9" * 5000)
    archive.write_archive(tmp_path / "a.medfm", {"manifest.json": raw.encode(), **members})
    with pytest.raises(BundleRefused):
        Bundle.open(tmp_path / "a.medfm")


@pytest.mark.parametrize(("backend", "precision"), [("onnxruntime", "int8-bf16"), ("onnxruntime", "bf16")])
def test_a_precision_that_the_backend_lacks(tiny, whole, tmp_path, backend, precision):
    manifest, members = whole
    manifest = replaced(replaced(manifest, ("variants", 0, "precision"), precision), ("schema_version",), 3)
    message = use(written(tmp_path / "a.medfm", manifest, members), tiny.image())
    assert f"is declared {precision}, a precision in which {backend} does not run" in message


@pytest.mark.parametrize("name", ["a" * 5000, "a/" * 3000, "nul\0byte", "\udcff" * 300])
def test_a_name_that_no_file_can_have(tiny, tmp_path, name):
    for attempt in (Bundle.open, lambda path: ort_backend.open_session(str(path), 1)):
        with pytest.raises(InputError, match="cannot read") as info:
            attempt(tmp_path / name)
        assert len(str(info.value)) < 1000


@needs_pipes
def test_only_regular_files_are_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "pipe")
    places = [tmp_path / "pipe", tmp_path / "folder", tmp_path / "link", Path("/dev/zero"), Path("/dev/null")]

    def attempts():
        for path in places:
            for attempt in (Bundle.open, lambda path: ort_backend.open_session(str(path), 1)):
                with pytest.raises(InputError, match="not a regular file"):
                    attempt(path)
        done.append(True)

    done: list[bool] = []
    thread = threading.Thread(target=attempts, daemon=True)  # it would wait for a writer for ever
    thread.start()
    thread.join(10)
    assert done


def test_a_file_that_is_larger_than_it_may_be_or_than_it_says_is_not_read(tmp_path, monkeypatch):
    path = tmp_path / "a"
    path.write_bytes(b"12345")
    assert read_regular(path, 5, "model") == b"12345"
    with pytest.raises(InputError, match="has 5 bytes, more than the 4"):
        read_regular(path, 4, "model")
    if Path("/proc/self/status").exists():  # says that it has 0 bytes
        with pytest.raises(InputError, match="changes while it is read"):
            read_regular("/proc/self/status", 5, "model")


class FailingDisk:
    """A file whose reads fail after the first few."""

    def __init__(self, file, after):
        self._file, self._left = file, after

    def read(self, *arguments):
        self._left -= 1
        if self._left < 0:
            raise OSError(5, "Input/output error")
        return self._file.read(*arguments)

    def __getattr__(self, name):
        return getattr(self._file, name)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._file.close()


def test_a_disk_that_fails_in_the_middle(tiny, whole, tmp_path, monkeypatch):
    path = written(tmp_path / "a.medfm", copy.deepcopy(whole[0]), whole[1])
    real, failed = archive.open_regular, 0
    sound = Bundle.open(path)
    for after in range(12):
        monkeypatch.setattr(archive, "open_regular", lambda path, after=after: FailingDisk(real(path), after))
        for attempt in (lambda: Bundle.open(path), lambda: sound.read("model.onnx")):
            try:
                attempt()
            except InputError as exc:
                assert "Input/output error; check the disk" in str(exc)
                failed += 1
    assert failed >= 8


def test_a_bundle_that_shrinks_while_it_is_read(tiny, whole, tmp_path):
    path = written(tmp_path / "a.medfm", copy.deepcopy(whole[0]), whole[1])
    bundle = Bundle.open(path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(BundleRefused):
        bundle.read("model.onnx")


def test_a_model_that_gives_no_numbers_is_refused(tiny, whole, tmp_path):
    onnx = pytest.importorskip("onnx")
    helper, (manifest, members) = onnx.helper, whole
    for kind, value in ((onnx.TensorProto.STRING, [b"a", b"b"]), (onnx.TensorProto.INT64, [1, 2])):
        node = helper.make_node("Constant", [], ["logits"], value=helper.make_tensor("c", kind, [1, 2], value))
        graph = helper.make_graph(
            [node],
            "g",
            [helper.make_tensor_value_info("image", 1, tiny.SPEC.shape)],
            [helper.make_tensor_value_info("logits", kind, [1, 2])],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
        path = written(tmp_path / "a.medfm", copy.deepcopy(manifest), {**members, "model.onnx": model})
        assert "not real numbers" in use(path, tiny.image())


def test_what_is_not_of_the_tree_becomes_one_sentence_of_it():
    for exc in (
        KeyError("k"),
        MemoryError(),
        RecursionError("a\nb"),
        OSError(5, "Input/output error"),
        StopIteration(),
    ):
        with pytest.raises(BundleRefused) as info, refusing(BundleRefused, "it is odd"):
            raise exc
        assert str(info.value).startswith("it is odd: ") and "\n" not in str(info.value)
    with pytest.raises(InputError, match=r"^kept$"), refusing(BundleRefused, "it is odd"):
        raise InputError("kept")
    with pytest.raises(KeyboardInterrupt), refusing(BundleRefused, "it is odd"):
        raise KeyboardInterrupt
    assert len(in_one_line("x" * 9999)) == 300 and in_one_line(10**5000) == "int"
    assert [in_one_line(blank) for blank in ("", " ", ValueError())] == ["''", "' '", "ValueError"]
    assert [quoted(text) for text in ("", "a\n b")] == ["''", "'a b'"]
    assert np.array_equal([in_one_line("\ud800"), in_one_line(" a\n b ")], ["\\ud800", "a b"])
