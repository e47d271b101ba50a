"""TensorRT-RTX where the extra ``acceptance`` is installed; else these tests skip and say so."""

from __future__ import annotations

import os
import sys

import pytest

from acceptance.accept import NotInstalled, libraries


@pytest.fixture(scope="session", autouse=True)
def _tensorrt_rtx():
    try:
        libraries()
    except NotInstalled as exc:
        if os.environ.get("MEDFM_REQUIRE_ACCEPTANCE") == "1":
            raise
        pytest.skip(str(exc))
    if sys.platform != "linux":
        pytest.skip("TensorRT-RTX's libraries are called on Linux only")
