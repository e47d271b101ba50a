"""Fixtures that every room uses."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of the real data sets; the test is skipped where MEDFM_SHARED is not set."""
    root = os.environ.get("MEDFM_SHARED")
    if not root:
        pytest.skip("MEDFM_SHARED is not set: the real data sets are not at hand")
    return Path(root) / "data"
