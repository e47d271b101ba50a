"""Bundles of several releases."""

from __future__ import annotations

import pytest
from released_bundle import as_release
from updated_device import OPTIONS

from medfm_compress.runtime import DeviceFolder


@pytest.fixture(scope="session")
def releases(tiny, tmp_path_factory):
    """Release → path of a passed bundle; each has weights of its own."""
    folder = tmp_path_factory.mktemp("releases")
    paths = {}
    for release in (1, 2, 3, 4):
        plain = tiny.bundle(folder / "plain.medfm", (tiny.ORT,), model=tiny.network(seed=release))
        paths[release] = as_release(plain, folder / f"tiny-{release}.medfm", release)
    return paths


@pytest.fixture
def device(tmp_path):
    return DeviceFolder(tmp_path / "device", options=OPTIONS)
