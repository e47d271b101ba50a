"""A study small enough to train on in a test."""

from __future__ import annotations

from pathlib import Path

import pytest

from medfm_compress.data.open import open_study
from medfm_compress.data.study import Study


@pytest.fixture(scope="session")
def discs(discs_path: Path) -> Study:
    return open_study(discs_path)
