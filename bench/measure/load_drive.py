"""Which harness drives a load: LoadGen, or our own."""

from __future__ import annotations

from collections.abc import Callable

from medfm_compress.bench.measure.load_scenario import Load, LoadOutcome
from medfm_compress.bench.measure.load_system_under_test import Library

Drive = Callable[[Library, Load], LoadOutcome]


def drive(library: Library, load: Load) -> LoadOutcome:
    """Run ``load`` on ``library`` with the harness it names; imports LoadGen only where that is asked for."""
    if load.harness == "loadgen":
        from medfm_compress.bench.measure.load_driver_loadgen import drive_loadgen

        return drive_loadgen(library, load)
    from medfm_compress.bench.measure.load_driver_builtin import drive_plain

    return drive_plain(library, load)
