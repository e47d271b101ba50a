"""Asking the hub for weights tells it nothing of the machine or the user."""

from __future__ import annotations

import os

import pytest

constants = pytest.importorskip("huggingface_hub.constants")

from medfm_compress.compress.networks.architecture import Architecture  # noqa: E402
from medfm_compress.compress.networks.build import from_hub  # noqa: E402
from medfm_compress.runtime.errors import ModelError  # noqa: E402


def test_telemetry_is_off_even_where_the_library_has_read_its_switch(monkeypatch: pytest.MonkeyPatch) -> None:
    """The switch is read once, when the library is imported; a program may have done that before."""
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.delenv("HF_HUB_DISABLE_TELEMETRY", raising=False)
    with pytest.raises(ModelError, match="could not be had"):
        from_hub(Architecture(name="hf-hub:nobody/nothing"))
    assert constants.HF_HUB_DISABLE_TELEMETRY is True
    assert os.environ["HF_HUB_DISABLE_TELEMETRY"] == "1"
