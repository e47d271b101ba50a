"""Fixtures that every room uses."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of the real data sets; the test is skipped where MEDFM_SHARED is not set."""
    root = os.environ.get("MEDFM_SHARED")
    if not root:
        pytest.skip("MEDFM_SHARED is not set: the real data sets are not at hand")
    return Path(root) / "data"


@pytest.fixture(scope="session")
def tiny() -> ModuleType:
    """The module ``tests/tiny_bundle.py``: small networks, and bundles around them."""
    spec = importlib.util.spec_from_file_location("tiny_bundle", Path(__file__).with_name("tiny_bundle.py"))
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
