"""The archive's one layout: any tool can read it, and nothing else is accepted."""

from __future__ import annotations

import io
import zipfile

import pytest

from medfm_compress.runtime.bundle import archive
from medfm_compress.runtime.errors import BundleRefused, InputError

MEMBERS = {"manifest.json": b"{}", "goldens/a-1.npy": bytes(range(256)), "empty": b""}


@pytest.fixture
def path(tmp_path):
    archive.write_archive(tmp_path / "a.zip", MEMBERS)
    return tmp_path / "a.zip"


def refusal(path, data):
    path.write_bytes(data)
    with pytest.raises(BundleRefused) as info:
        archive.read_directory(path)
    return str(info.value)


def test_python_zipfile_reads_what_we_write(path):
    with zipfile.ZipFile(path) as peer:
        assert peer.testzip() is None
        assert {name: peer.read(name) for name in peer.namelist()} == MEMBERS
        assert peer.namelist()[0] == "manifest.json"


def test_members_come_back(path):
    assert {entry.name: archive.read_member(path, entry) for entry in archive.read_directory(path)} == MEMBERS


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_an_archive_of_another_tool_is_refused(tmp_path, compression):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as peer:
        for name, content in MEMBERS.items():
            peer.writestr(name, content)
    assert "not written by medfm-compress" in refusal(tmp_path / "b.zip", buffer.getvalue())


def test_a_declared_size_beyond_the_file_is_refused(path):
    data = bytearray(path.read_bytes())
    at = data.index(b"PK\1\2")
    data[at + 20 : at + 28] = b"\xff\xff\xff\x7f" * 2
    assert "altered" in refusal(path, bytes(data))


def test_traversal_duplicates_and_crowds_are_refused(path):
    data = path.read_bytes()
    assert "plain relative path" in refusal(path, data.replace(b"goldens/a-1.npy", b"../../../a-1.np"))
    assert "twice" in refusal(path, _twice())
    crowd = bytearray(data)
    crowd[-14:-10] = (999).to_bytes(2, "little") * 2
    assert "999 members" in refusal(path, bytes(crowd))


def _twice() -> bytes:
    entries = (archive.Entry("a", 0, 0, 0), archive.Entry("a", 0, 0, 31))
    return b"".join(entry.local_header() for entry in entries) + archive._directory(entries)[1]


@pytest.mark.parametrize(
    "change", [lambda d: d[:-1], lambda d: d + b"\0", lambda d: d[1:], lambda d: b"\0" + d, lambda d: b""]
)
def test_a_file_of_another_length_is_refused(path, change):
    assert refusal(path, change(path.read_bytes()))


@pytest.mark.parametrize("name", ["../a", "/a", "a//b", "a\\b", ".hidden", "C:a", "ü", "a/", "", "a" * 201, "a\n"])
def test_unsafe_names_are_not_written(tmp_path, name):
    with pytest.raises(InputError, match="relative path"):
        archive.write_archive(tmp_path / "a.zip", {name: b""})
    assert list(tmp_path.iterdir()) == []


def test_too_many_members_are_not_written(tmp_path):
    with pytest.raises(InputError, match="at most 256"):
        archive.write_archive(tmp_path / "a.zip", {f"m{i}": b"" for i in range(257)})


def test_too_many_bytes_are_not_written(tmp_path, monkeypatch):
    monkeypatch.setattr(archive, "MAX_ARCHIVE_BYTES", 100)
    with pytest.raises(InputError, match="ship fewer variants"):
        archive.write_archive(tmp_path / "a.zip", MEMBERS)
