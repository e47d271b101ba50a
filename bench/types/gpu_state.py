"""`GpuState`: clocks, power and heat of a GPU at one moment, and what held its clocks back."""

from __future__ import annotations

import msgspec


class GpuState(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One reading; a figure that the driver does not give is None.

    Attributes:
        sm_clock_mhz: of the multiprocessors.
        memory_clock_mhz: of the memory.
        power_w: that the board draws.
        temperature_c: of the chip.
        throttling: what held the clocks below what the load asks for, e.g. ``thermal limit``; empty where nothing did.
    """

    sm_clock_mhz: int | None = None
    memory_clock_mhz: int | None = None
    power_w: float | None = None
    temperature_c: int | None = None
    throttling: tuple[str, ...] = ()
