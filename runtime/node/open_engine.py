"""The engine that the configuration names, as one thing: a bundle, or what is active in a device folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.fill_columns import only_by_argument
from medfm_compress.runtime.node.config import EngineConfig

if TYPE_CHECKING:
    from medfm_compress.runtime.device.active_engine import ActiveEngine
    from medfm_compress.runtime.engine import Engine


def open_engine(config: EngineConfig) -> Engine | ActiveEngine:
    """Open it.

    Raises:
        BundleRefused, TrustRefused, Refused: it may not run here; see `Engine` and `ActiveEngine`.
        InputError: a file that cannot be read, ``shadow`` where nothing waits to be one, or a bundle that takes a
            column which no DICOM attribute gives.
    """
    engine = _opened(config)
    names = only_by_argument(current(engine).manifest.told)
    if names:
        engine.close()
        raise InputError(
            f"the bundle gives no answer without {', '.join(names)}, which no DICOM attribute has, and a node fills "
            "columns from DICOM alone; name the attribute in the column's definition, or use 'medfm-compress run'"
        )
    return engine


def _opened(config: EngineConfig) -> Engine | ActiveEngine:
    if config.device is not None:
        return _open_active(Path(config.device), config)
    from medfm_compress.runtime.engine import Engine
    from medfm_compress.runtime.variant_selection import advising

    if config.shadow:
        raise InputError("engine.shadow needs engine.device, a device folder in which a candidate waits")
    with advising("engine.unverified: true"):
        return Engine(
            config.bundle or "",
            threads=config.threads,
            unverified=config.unverified,
            cache_dir=config.cache,
            trust=config.trust_store,
            allow_unsigned=config.allow_unsigned,
        )


def current(engine: Engine | ActiveEngine) -> Engine:
    """The engine that answers now."""
    from medfm_compress.runtime.engine import Engine

    return engine if isinstance(engine, Engine) else engine.engine


def _open_active(folder: Path, config: EngineConfig) -> ActiveEngine:
    from medfm_compress.runtime.device.active_engine import ActiveEngine, Observer
    from medfm_compress.runtime.device.folder import DeviceFolder
    from medfm_compress.runtime.monitor.monitor import Monitor
    from medfm_compress.runtime.monitor.shadow import Shadow

    trust = None if config.trust_store is None else Path(config.trust_store)
    device = DeviceFolder(folder, trust=trust, allow_unsigned=config.allow_unsigned)
    observers: list[Observer] = [Monitor(folder), *([Shadow(device)] if config.shadow else [])]
    return ActiveEngine(device, threads=config.threads, cache_dir=config.cache, observers=observers)
