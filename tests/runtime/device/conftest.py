"""Bundles of several releases."""

from __future__ import annotations

import msgspec
import pytest

from medfm_compress.runtime.bundle.bundle import Bundle, write_bundle


def as_release(path, target, release):
    """A copy of a bundle as another release; its verdicts hold."""
    bundle = Bundle.open(path)
    files = {member.path: bundle.read(member.path) for member in bundle.manifest.members}
    write_bundle(target, msgspec.structs.replace(bundle.manifest, release=release), files)
    return target


@pytest.fixture(scope="session")
def releases(tiny, tmp_path_factory):
    """Release → path of a passed bundle; each has weights of its own."""
    folder = tmp_path_factory.mktemp("releases")
    paths = {}
    for release in (1, 2, 3, 4):
        plain = tiny.bundle(folder / "plain.medfm", (tiny.ORT,), model=tiny.network(seed=release))
        paths[release] = as_release(plain, folder / f"tiny-{release}.medfm", release)
    return paths
