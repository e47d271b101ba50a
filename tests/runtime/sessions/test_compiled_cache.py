"""OpenVINO's compiled models in a folder of the user's: faster, and never another result."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import stat

import numpy as np
import pytest

from medfm_compress.runtime import Bundle, Engine
from medfm_compress.runtime.bundle.bundle import rewrite_bundle
from medfm_compress.runtime.errors import BundleRefused, InputError
from medfm_compress.runtime.sessions import compiled_cache
from medfm_compress.runtime.sessions import openvino as backend
from medfm_compress.runtime.sessions.table import open_variant

needs_users = pytest.mark.skipif(not hasattr(os, "geteuid"), reason="the system has no Unix permissions")


@pytest.fixture(autouse=True)
def _engine():
    if not backend.is_available().ok:
        pytest.skip("openvino is not installed")


@pytest.fixture
def image():
    return {"image": np.random.default_rng(0).normal(size=(1, 1, 32, 32)).astype(np.float32)}


def blobs(folder):
    return sorted(folder.iterdir())


def compilations(monkeypatch):
    """The list that grows with every real compilation."""
    done = []
    compile_ = backend._compile
    monkeypatch.setattr(backend, "_compile", lambda *arguments: done.append(1) or compile_(*arguments))
    return done


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_the_second_start_does_not_compile_and_computes_the_same(tiny, tmp_path, monkeypatch, image, precision):
    model = tiny.network() if precision == "fp32" else tiny.quantized_network()
    folder = tmp_path / "cache"
    done = compilations(monkeypatch)
    answers = []
    for _ in range(3):
        session = backend.from_bytes([model], 1, precision, str(folder))
        assert session.info.precision == precision
        answers.append(session.run(image)["logits"])
        del session
    assert len(done) == 1 and len(blobs(folder)) == 1
    assert np.array_equal(answers[0], answers[1]) and np.array_equal(answers[1], answers[2])


def test_without_a_folder_nothing_is_kept(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    backend.from_bytes([tiny.network()], 1)
    assert list(tmp_path.iterdir()) == []


def test_models_threads_and_precisions_have_files_of_their_own(tiny, tmp_path):
    for number, (model, precision) in enumerate(
        [(tiny.network(), "fp32"), (tiny.network(seed=1), "fp32"), (tiny.quantized_network(), "int8")], start=1
    ):
        backend.from_bytes([model], 1, precision, str(tmp_path / "c"))
        assert len(blobs(tmp_path / "c")) == number
    places = [
        compiled_cache.place(str(tmp_path / "c"), *rest)
        for rest in (
            ("openvino", ["a"], "1", {}, "cpu"),
            ("tensorrt", ["a"], "1", {}, "cpu"),
            ("openvino", ["a"], "2", {}, "cpu"),
            ("openvino", ["a"], "1", {"x": "1"}, "cpu"),
            ("openvino", ["a", "b"], "1", {}, "cpu"),
            ("openvino", ["a"], "1", {}, "another"),
        )
    ]
    assert len({place.path for place in places}) == 6


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "foreign"])
def test_a_damaged_or_foreign_file_is_compiled_anew(tiny, tmp_path, monkeypatch, caplog, image, damage):
    folder = tmp_path / "cache"
    expected = backend.from_bytes([tiny.network()], 1, cache_dir=str(folder)).run(image)["logits"]
    (path,) = blobs(folder)
    whole = bytearray(path.read_bytes())
    if damage == "foreign":  # another model's file under this one's name
        backend.from_bytes([tiny.network(seed=1)], 1, cache_dir=str(folder))
        (other,) = set(blobs(folder)) - {path}
        whole = bytearray(other.read_bytes())
    elif damage == "flip":
        whole[len(whole) // 2] ^= 1
    path.write_bytes(whole[: {"cut": len(whole) // 2, "empty": 0}.get(damage, len(whole))])
    done = compilations(monkeypatch)
    with caplog.at_level(logging.WARNING, "medfm_compress.runtime"):
        session = backend.from_bytes([tiny.network()], 1, cache_dir=str(folder))
    assert np.array_equal(session.run(image)["logits"], expected)
    assert len(done) == 1 and ("damaged" in caplog.text or damage == "empty")
    backend.from_bytes([tiny.network()], 1, cache_dir=str(folder))
    assert len(done) == 1


def test_a_blob_that_openvino_does_not_want_is_compiled_anew(tiny, tmp_path, caplog, image):
    folder = tmp_path / "cache"
    expected = backend.from_bytes([tiny.network()], 1, cache_dir=str(folder)).run(image)["logits"]
    (path,) = blobs(folder)
    digest = __import__("hashlib").sha256(tiny.network()).hexdigest()
    kept = backend._place([digest], backend.compile_properties(1, "fp32"), str(folder))
    assert kept.path == path
    compiled_cache.store(kept, b"no model at all" * 100)
    with caplog.at_level(logging.WARNING, "medfm_compress.runtime"):
        session = backend.from_bytes([tiny.network()], 1, cache_dir=str(folder))
    assert np.array_equal(session.run(image)["logits"], expected) and "does not import" in caplog.text


def test_the_goldens_are_replayed_on_what_comes_from_the_cache(tiny, tmp_path):
    folder = tmp_path / "cache"
    path = tiny.bundle(tmp_path / "a.medfm", (tiny.OV,))
    with Engine(path, threads=1, cache_dir=folder) as engine:
        assert engine.golden_error < 1e-5
    other = tiny.bundle(tmp_path / "b.medfm", (tiny.OV,), model=tiny.network(seed=1))
    model = tiny.network()
    rewrite_bundle(other, other, files={"model.onnx": model})  # its goldens are another network's
    with pytest.raises(BundleRefused, match="computes something else"):
        Engine(other, threads=1, unverified=True, cache_dir=folder)
    assert len(blobs(folder)) == 1


def test_a_compiled_variant_is_not_read_from_the_bundle(tiny, tmp_path, monkeypatch):
    bundle = Bundle.open(tiny.bundle(tmp_path / "a.medfm", (tiny.OV,)))
    read = []
    original = Bundle.read
    monkeypatch.setattr(Bundle, "read", lambda self, name: read.append(name) or original(self, name))
    for _ in range(2):
        open_variant(bundle, tiny.OV, 1, str(tmp_path / "cache"))
    assert read == ["model.onnx"]


def test_it_is_made_before_any_image_is_seen(tiny, tmp_path, image):
    folder = tmp_path / "cache"
    session = backend.from_bytes([tiny.network()], 1, cache_dir=str(folder))
    before = [(path.name, path.read_bytes()) for path in blobs(folder)]
    session.run(image)
    del session
    assert [(path.name, path.read_bytes()) for path in blobs(folder)] == before


@needs_users
def test_it_is_its_owners_alone(tiny, tmp_path):
    folder = tmp_path / "new" / "cache"
    backend.from_bytes([tiny.network()], 1, cache_dir=str(folder))
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (folder, *blobs(folder))]
    assert modes == [0o700, 0o600]


@needs_users
@pytest.mark.parametrize("names", [("cache",), ("within", "cache")])
def test_a_folder_that_others_may_replace_is_not_trusted(tiny, tmp_path, names):
    shared = tmp_path / "shared"
    shared.mkdir()
    link = tmp_path / "link"
    link.symlink_to(shared)
    for folder in (shared.joinpath(*names), link.joinpath(*names)):
        shared.chmod(0o777)
        with pytest.raises(InputError, match=r"others may write to .*(shared|link), where cache folder .* lies"):
            backend.from_bytes([tiny.network()], 1, cache_dir=str(folder))
        assert not any(shared.iterdir())
        shared.chmod(0o1777)  # like /tmp
        backend.from_bytes([tiny.network()], 1, cache_dir=str(folder))
        assert blobs(folder)
        shutil.rmtree(shared / names[0])


@needs_users
def test_a_folder_or_file_that_others_may_write_to_is_not_trusted(tiny, tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    backend.from_bytes([tiny.network()], 1, cache_dir=str(folder))
    (path,) = blobs(folder)
    path.chmod(0o666)
    done = compilations(monkeypatch)
    backend.from_bytes([tiny.network()], 1, cache_dir=str(folder))
    assert len(done) == 1
    path.unlink()
    path.symlink_to(tmp_path / "elsewhere")
    backend.from_bytes([tiny.network()], 1, cache_dir=str(folder))
    assert len(done) == 2 and not path.is_symlink()
    folder.chmod(0o770)
    with pytest.raises(InputError, match="others may write to cache folder"):
        backend.from_bytes([tiny.network()], 1, cache_dir=str(folder))


@needs_users
@pytest.mark.parametrize("kind", ["folder", "full folder", "pipe", "device", "sparse"])
def test_what_is_no_blob_in_a_blobs_place_is_not_read(tiny, tmp_path, monkeypatch, image, kind):
    folder = tmp_path / "cache"
    expected = backend.from_bytes([tiny.network()], 1, cache_dir=str(folder)).run(image)["logits"]
    (path,) = blobs(folder)
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path, 0o600)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "sparse":  # takes no room, and minutes to hash
        path.touch(0o600)
        os.truncate(path, 1 << 42)
    else:
        path.mkdir(0o700)
        if kind == "full folder":
            (path / "something").touch()
    done = compilations(monkeypatch)
    session = backend.from_bytes([tiny.network()], 1, cache_dir=str(folder))
    assert np.array_equal(session.run(image)["logits"], expected) and len(done) == 1
    assert blobs(folder) == [path] and path.is_dir() == ("folder" in kind)


@pytest.mark.parametrize("name", ["a" * 5000, "nul\0byte"])
def test_a_name_that_no_folder_can_have(tiny, tmp_path, name):
    with pytest.raises(InputError, match="cannot use cache folder") as info:
        backend.from_bytes([tiny.network()], 1, cache_dir=str(tmp_path / name))
    assert len(str(info.value)) < 1000


def test_a_model_that_openvino_does_not_export_still_runs(tiny, tmp_path, monkeypatch, caplog):
    class Unexported:
        def __init__(self, compiled):
            self._compiled = compiled

        def __getattr__(self, name):
            return getattr(self._compiled, name)

        def export_model(self):
            raise RuntimeError("not this one")

    compile_ = backend._compile

    def unexported(*arguments):
        compiled, keep = compile_(*arguments)
        return Unexported(compiled), keep

    monkeypatch.setattr(backend, "_compile", unexported)
    with caplog.at_level(logging.WARNING, "medfm_compress.runtime"):
        backend.from_bytes([tiny.network()], 1, cache_dir=str(tmp_path / "c"))
    assert "is not kept: not this one" in caplog.text and blobs(tmp_path / "c") == []


def test_a_folder_that_cannot_be_used(tiny, tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot use cache folder"):
        backend.from_bytes([tiny.network()], 1, cache_dir=str(tmp_path / "file"))

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempfile.mkstemp", full)
    with caplog.at_level(logging.WARNING, "medfm_compress.runtime"):
        assert backend.from_bytes([tiny.network()], 1, cache_dir=str(tmp_path / "c")).info.threads == 1
    assert "is not kept: No space left" in caplog.text and blobs(tmp_path / "c") == []


@pytest.mark.parametrize("size", [0, 4096])
def test_a_file_that_is_cut_short_under_a_running_engine_does_no_harm(tiny, tmp_path, monkeypatch, image, size):
    """The look at a page of a mapped file that is not there any more would end this process."""
    folder, places, place = tmp_path / "cache", [], compiled_cache.place
    monkeypatch.setattr(compiled_cache, "place", lambda *arguments: places.append(place(*arguments)) or places[-1])
    expected = backend.from_bytes([tiny.network()], 1, cache_dir=str(folder)).run(image)["logits"]
    kept = places[-1]
    session = backend.from_bytes([tiny.network()], 1, cache_dir=str(folder))
    blob = compiled_cache.load(kept)
    assert blob is not None and blob.is_mapped
    whole = bytes(blob.memory)
    compiled_cache.release(blob)
    os.truncate(kept.path, size)
    assert bytes(blob.memory) == whole
    assert np.array_equal(session.run(image)["logits"], expected)


def test_a_folder_that_takes_no_copy_still_gives_the_model(tiny, tmp_path, monkeypatch, image):
    folder = tmp_path / "cache"
    expected = backend.from_bytes([tiny.network()], 1, cache_dir=str(folder)).run(image)["logits"]
    done = compilations(monkeypatch)

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(compiled_cache.tempfile, "TemporaryFile", full)
    session = backend.from_bytes([tiny.network()], 1, cache_dir=str(folder))
    assert not done and np.array_equal(session.run(image)["logits"], expected)
