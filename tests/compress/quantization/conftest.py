"""Tests of quantization choose among the candidates of a CPU with VNNI and no AMX, whatever the one below them has.

Their networks keep to weights within ±64, which no CPU saturates on. `test_without_vnni.py` looks at the others.
"""

from __future__ import annotations

import pytest

from medfm_compress.compress.quantization import targets


@pytest.fixture(autouse=True)
def _as_with_vnni(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(targets, "multiplies_exactly", lambda cpu: True)
    monkeypatch.setattr(targets, "favours_symmetric", lambda backend, cpu: False)
