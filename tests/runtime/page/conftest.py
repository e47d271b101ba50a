"""One engine for all tests of the page."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from medfm_compress.runtime.engine import Engine


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    scene = pytest.importorskip("page_scene")
    with Engine(scene.write_bundle(tmp_path_factory.mktemp("page")), threads=1) as opened:
        yield opened
