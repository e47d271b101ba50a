"""The engine behind what answers: an `Engine` itself, or the one that an `ActiveEngine` has now."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from medfm_compress.runtime.device.active_engine import ActiveEngine
    from medfm_compress.runtime.engine import Engine


def current(engine: Engine | ActiveEngine) -> Engine:
    """The engine that answers now."""
    from medfm_compress.runtime.engine import Engine

    return engine if isinstance(engine, Engine) else engine.engine
