"""A bundle as another release."""

from __future__ import annotations

from pathlib import Path

import msgspec

from medfm_compress.runtime.bundle.bundle import Bundle, write_bundle


def as_release(path: Path, target: Path, release: int) -> Path:
    """A copy of a bundle as another release; its verdicts hold."""
    bundle = Bundle.open(path)
    files = {member.path: bundle.read(member.path) for member in bundle.manifest.members}
    write_bundle(target, msgspec.structs.replace(bundle.manifest, release=release), files)
    return target
