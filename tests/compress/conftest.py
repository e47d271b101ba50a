"""Studies small enough to train on in a test."""

from __future__ import annotations

from pathlib import Path

import pytest
import striped_study

from medfm_compress.data.open import open_study
from medfm_compress.data.study import Study


@pytest.fixture(scope="session")
def anomaly_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return striped_study.write(tmp_path_factory.mktemp("anomaly"))


@pytest.fixture(scope="session")
def discs(discs_path: Path) -> Study:
    return open_study(discs_path)
