"""What stands between a bundle and its first answer: files are read meanwhile, and none unchecked."""

from __future__ import annotations

import functools
import subprocess
import sys
import threading

import msgspec
import pytest

from medfm_compress.runtime import opening
from medfm_compress.runtime.bundle.bundle import Bundle
from medfm_compress.runtime.cpu import read_cpu
from medfm_compress.runtime.engine import Engine
from medfm_compress.runtime.errors import BundleRefused
from medfm_compress.runtime.image_spec import DicomRules
from medfm_compress.runtime.sessions import onnxruntime as backend
from medfm_compress.runtime.sessions.protocol import Availability
from medfm_compress.runtime.variant_selection import Machine


@pytest.fixture
def bundle(tiny, tmp_path):
    return Bundle.open(tiny.bundle(tmp_path / "a.medfm", (tiny.OV, tiny.ORT)))


def with_engines(monkeypatch, available):
    machine = functools.partial(Machine, availability=available)
    monkeypatch.setattr(opening.choice, "Machine", machine)


def recorded_reads(monkeypatch):
    """Names of members in the order in which they are read, and an event that the first reading sets."""
    read, names, begun = Bundle.read, [], threading.Event()

    def recorded(self, member):
        names.append((member, threading.current_thread() is threading.main_thread()))
        begun.set()
        return read(self, member)

    monkeypatch.setattr(Bundle, "read", recorded)
    return names, begun


def test_the_files_are_read_while_the_engine_is_imported(tiny, bundle, monkeypatch):
    names, begun = recorded_reads(monkeypatch)
    with_engines(monkeypatch, lambda *_: Availability(ok=begun.wait(20), reason="nothing was read", version="1.25"))
    variant, read = opening.choose_variant(bundle, "onnxruntime", unverified=False)
    assert variant == tiny.ORT and read() == [bundle.read(name) for name in tiny.ORT.files]
    assert (tiny.ORT.files[0], False) in names  # in another thread


def test_files_of_a_variant_whose_engine_is_missing_are_not_given_for_another(tiny, bundle, monkeypatch):
    with_engines(monkeypatch, lambda name, _: Availability(ok=name == "onnxruntime", reason="missing", version="1.25"))
    variant, read = opening.choose_variant(bundle, None, unverified=False)
    assert variant == tiny.ORT and read() == [bundle.read(name) for name in tiny.ORT.files]


def test_nothing_is_read_of_a_variant_that_may_not_run_or_whose_files_may_not_be_needed(tiny, bundle, monkeypatch):
    names, _ = recorded_reads(monkeypatch)
    with_engines(monkeypatch, lambda *_: Availability(ok=True, version="2026.1"))
    opening.choose_variant(bundle, "openvino", unverified=False, reads_files=False)
    alien = msgspec.structs.replace(tiny.OV, instruction_set=("warp_drive",))
    rest = msgspec.structs.replace(bundle.manifest, variants=(alien,))
    with pytest.raises(BundleRefused, match="warp_drive"):
        opening.choose_variant(Bundle(bundle.path, rest, {}, bundle.signed), None, unverified=True)
    assert not names and read_cpu().flags


def test_an_altered_file_reaches_no_parser(tiny, tmp_path, monkeypatch):
    path = tiny.bundle(tmp_path / "a.medfm", (tiny.ORT,))
    opened, content = Bundle.open(path), Bundle.open(path).read(tiny.ORT.files[0])
    raw = path.read_bytes()
    path.write_bytes(raw.replace(content, content[:-1] + bytes([content[-1] ^ 1])))
    parsed = []
    monkeypatch.setattr(backend, "_check_content", lambda *given: parsed.append(given))
    with pytest.raises(BundleRefused, match="does not match its sha256"):
        Engine(opened, threads=1)
    assert not parsed


@pytest.mark.parametrize(
    ("modalities", "loaded"),
    [((), ["PIL.JpegImagePlugin"]), (("DX",), ["medfm_compress.runtime.dicom.read_dicom", "pydicom"])],
)
def test_what_the_first_image_needs_is_loaded_when_the_engine_is_open(tiny, tmp_path, modalities, loaded):
    spec = msgspec.structs.replace(tiny.SPEC, dicom=DicomRules(modalities=modalities))
    path = tiny.bundle(tmp_path / "a.medfm", (tiny.ORT,), spec=spec)
    code = (
        "import sys; from medfm_compress.runtime import Engine\n"
        f"Engine({str(path)!r}, threads=1)\n"
        "wanted = ('PIL.JpegImagePlugin', 'medfm_compress.runtime.dicom.read_dicom', 'pydicom')\n"
        "print(*[name for name in wanted if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True, timeout=60)
    assert done.stdout.split() == loaded


def test_a_broken_decoder_is_no_reason_to_refuse_a_bundle(tiny, bundle, monkeypatch):
    monkeypatch.setattr(opening, "_OF_OTHER_FILES", ("medfm_compress.there_is_no_such_module",))
    assert opening.prepare_beside(bundle, tiny.ORT) == (None, None)
