"""Damage to a bundle: its bytes; its members, under hashes that fit, so that what they say is believed at first."""

from __future__ import annotations

import hashlib
import json
import random
import tempfile
from pathlib import Path
from typing import Any

from medfm_compress.runtime.bundle import archive
from medfm_compress.runtime.bundle.bundle import MANIFEST, model_digest
from medfm_compress.runtime.errors import MedfmError
from mutate_bytes import mutated
from mutate_text import HOSTILE, changed_value

_OTHER_NAMES = ("../x", "/etc/passwd", "a/../../b", "MANIFEST.json", "", "models\\x", "x" * 300, "goldens/inputs.npy")


def damage_bundle(whole: bytes, choose: random.Random) -> bytes:
    """One mutant of the bundle ``whole``."""
    if choose.random() < 0.25:
        return mutated(whole, choose, ())
    members = _members(whole)
    manifest: dict[str, Any] = json.loads(members.pop(MANIFEST))
    action = choose.randrange(5)
    if action <= 1:
        for _ in range(choose.choice((1, 1, 2))):
            manifest = changed_value(manifest, choose)
    elif action <= 3:
        name = choose.choice(sorted(members))
        members[name] = mutated(members[name], choose, ())
    else:
        name = choose.choice(sorted(members))
        other = choose.choice((*_OTHER_NAMES, *sorted(members)))
        members[other] = members.pop(name) if choose.random() < 0.5 else members[name]
    return _packed(manifest, members, fit=choose.random() < 0.85)


def _members(whole: bytes) -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "whole.medfm"
        path.write_bytes(whole)
        return {entry.name: archive.read_member(path, entry) for entry in archive.read_directory(path)}


def _packed(manifest: dict[str, Any], members: dict[str, bytes], *, fit: bool) -> bytes:
    if fit:
        _fit_hashes(manifest, members)
    raw = json.dumps(manifest).encode("utf-8", "surrogatepass")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mutant.medfm"
        try:
            archive.write_archive(path, {MANIFEST: raw, **members})
        except MedfmError:  # a name that the writer refuses: as it stands among the bytes of another
            good = {f"m{number}": content for number, content in enumerate(members.values())}
            archive.write_archive(path, {MANIFEST: raw, **good})
        return path.read_bytes()


def _fit_hashes(manifest: dict[str, Any], members: dict[str, bytes]) -> None:
    try:
        for member in manifest["members"]:
            content = members[member["path"]]
            member.update(bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
        manifest["model_digest"] = model_digest(manifest)
    except Exception:  # noqa: BLE001 - then they do not fit, which is a mutant too
        manifest["model_digest"] = HOSTILE[0]
