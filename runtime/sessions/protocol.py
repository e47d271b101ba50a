"""`Session`: what every backend offers, and `SessionRef`: how another process opens one."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any, Protocol, cast, runtime_checkable

import msgspec
import numpy as np
from numpy.typing import NDArray

from medfm_compress.runtime.errors import InputError

Array = NDArray[Any]

MAX_MODEL_BYTES = 4 << 30
"""Of a model file beside no bundle; in a bundle it is smaller."""


class SessionInfo(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What really runs, read back from the engine and never assumed.

    Attributes:
        backend: e.g. ``onnxruntime``.
        version: engine version.
        provider: execution provider or device the engine reports.
        precision: inference precision that was set.
        threads: intra-op threads.
    """

    backend: str
    version: str
    provider: str
    precision: str
    threads: int


class Availability(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Whether a backend can run here, and the reason and remedy where it cannot."""

    ok: bool
    reason: str = ""
    version: str = ""


class Session(Protocol):
    """An opened network. ``run`` is safe to call from several threads."""

    input_names: tuple[str, ...]
    output_names: tuple[str, ...]
    info: SessionInfo

    def run(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        """Run once. Image input: float32 ``[1, channels, height, width]``; logits out: float32 ``[1, labels]``."""
        ...


@runtime_checkable
class DeviceTimed(Protocol):
    """A session that can also tell how long its device is busy, which leaves the host's part out."""

    def device_ms(self, inputs: Mapping[str, Array]) -> float | None:
        """Time on the device of one run, copies included, in ms; None where the device has no clock of its own."""
        ...


@runtime_checkable
class Batched(Protocol):
    """A session that knows how many images it takes at once."""

    @property
    def batch(self) -> int | None:
        """Images of every call, where the network fixes it; None where it is free."""
        ...


class SessionRef(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a fresh process opens a session: ``package.module:function`` and its JSON keyword arguments."""

    opener: str
    arguments: dict[str, Any] = {}

    def open(self) -> Session:
        """Import the opener and call it.

        Raises:
            InputError: the opener is not inside ``medfm_compress`` or does not exist.
        """
        module_name, _, function = self.opener.partition(":")
        if module_name.split(".")[0] != "medfm_compress":
            raise InputError(f"session opener {self.opener!r} is not inside medfm_compress")
        opener = getattr(importlib.import_module(module_name), function, None)
        if opener is None:
            raise InputError(f"session opener {self.opener!r} does not exist")
        return cast(Session, opener(**self.arguments))


def as_float32(array: Array) -> NDArray[np.float32]:
    """Contiguous float32 copy or view of ``array``."""
    return np.ascontiguousarray(array, dtype=np.float32)
