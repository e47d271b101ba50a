"""The one cache: entries survive, and whatever is not this file's own counts as nothing."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from medfm_compress.compress.latency.json_cache import JsonCache
from medfm_compress.runtime.errors import InputError


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A value."""

    ms: float


class Other(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A value of another type."""

    bytes: int


def test_entries_survive_and_can_be_removed(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "cache.json"
    cache = JsonCache(path, "v1", Entry)
    cache["a"] = Entry(1.5)
    cache["b"] = Entry(2.5)
    assert dict(JsonCache(path, "v1", Entry)) == {"a": Entry(1.5), "b": Entry(2.5)}
    del cache["a"]
    assert list(JsonCache(path, "v1", Entry)) == ["b"]
    assert [file.name for file in path.parent.iterdir()] == ["cache.json"]


def test_another_fingerprint_type_or_damage_holds_nothing(tmp_path: Path) -> None:
    path = tmp_path / "cache.json"
    JsonCache(path, "v1", Entry)["a"] = Entry(1.5)
    assert not JsonCache(path, "v2", Entry)
    assert not JsonCache(path, "v1", Other)
    for content in (b"", b"{", b"\xff\x00", b'{"fingerprint": "v1", "entries": {"a": {"ms": 1, "more": 2}}}'):
        path.write_bytes(content)
        assert not JsonCache(path, "v1", Entry)


def test_a_new_fingerprint_replaces_the_old_entries(tmp_path: Path) -> None:
    path = tmp_path / "cache.json"
    JsonCache(path, "v1", Entry)["a"] = Entry(1.5)
    JsonCache(path, "v2", Entry)["b"] = Entry(2.5)
    assert not JsonCache(path, "v1", Entry)
    assert list(JsonCache(path, "v2", Entry)) == ["b"]


def test_two_that_write_at_the_same_time_keep_what_both_know(tmp_path: Path) -> None:
    first, second = (JsonCache(tmp_path / "cache.json", "v1", Entry) for _ in range(2))
    first["a"] = Entry(1.0)
    second["b"] = Entry(2.0)
    assert set(JsonCache(tmp_path / "cache.json", "v1", Entry)) == {"a", "b"}


def test_what_cannot_be_written_is_kept_in_memory(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    cache = JsonCache(tmp_path / "file" / "cache.json", "v1", Entry)
    with pytest.raises(InputError, match="cannot write"):
        cache["a"] = Entry(1.0)
    assert cache["a"] == Entry(1.0)
