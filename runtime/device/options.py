"""`DeviceOptions`: how a device tests a bundle and tries it out."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from medfm_compress.runtime.bundle.manifest import Backend
from medfm_compress.runtime.errors import InputError

DEFAULT_MAX_LATENCY_MS = 1000.0
DEFAULT_TRIAL = 10
MAX_TRIAL = 1000


class DeviceOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a device tests a bundle and tries it out.

    Attributes:
        backend: use only variants of this backend.
        threads: for one prediction; by default the physical cores.
        max_latency_ms: that one network run may take in the self-test, by the median of eight.
        trial: so many predictions commit a bundle, so many refusals bring the one before back; 0 commits at once.
    """

    backend: Backend | None = None
    threads: Annotated[int, Meta(ge=1)] | None = None
    max_latency_ms: Annotated[float, Meta(gt=0, extra={"unit": "ms"})] = DEFAULT_MAX_LATENCY_MS
    trial: Annotated[int, Meta(ge=0, le=MAX_TRIAL)] = DEFAULT_TRIAL

    def __post_init__(self) -> None:
        if not 0 <= self.trial <= MAX_TRIAL:
            raise InputError(f"trial is {self.trial}; it must be 0 to {MAX_TRIAL} predictions")
        if not self.max_latency_ms > 0:
            raise InputError(f"max_latency_ms is {self.max_latency_ms}; it must be above 0")
