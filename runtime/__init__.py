"""The device: bundle, preprocessing, DICOM, sessions, engine. Imports numpy and little else.

The names below are loaded when they are first used, so that importing the package costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medfm_compress.runtime.bundle.bundle import Bundle
    from medfm_compress.runtime.device.active_engine import ActiveEngine
    from medfm_compress.runtime.device.folder import DeviceFolder
    from medfm_compress.runtime.engine import Engine
    from medfm_compress.runtime.image_spec import ImageSpec
    from medfm_compress.runtime.prediction import Prediction
    from medfm_compress.runtime.task import Task
    from medfm_compress.runtime.trust.store import TrustStore

__all__ = ["ActiveEngine", "Bundle", "DeviceFolder", "Engine", "ImageSpec", "Prediction", "Task", "TrustStore"]

_HOME = {
    "ActiveEngine": "medfm_compress.runtime.device.active_engine",
    "Bundle": "medfm_compress.runtime.bundle.bundle",
    "DeviceFolder": "medfm_compress.runtime.device.folder",
    "Engine": "medfm_compress.runtime.engine",
    "ImageSpec": "medfm_compress.runtime.image_spec",
    "Prediction": "medfm_compress.runtime.prediction",
    "Task": "medfm_compress.runtime.task",
    "TrustStore": "medfm_compress.runtime.trust.store",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
