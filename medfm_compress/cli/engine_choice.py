"""How options say which engine is to be opened: of a bundle, or of what is active in a device folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from medfm_compress.runtime.errors import InputError

if TYPE_CHECKING:
    from medfm_compress.runtime.device.active_engine import ActiveEngine
    from medfm_compress.runtime.engine import Engine


class EngineChoice(NamedTuple):
    """How the options say that the engine is to be opened."""

    backend: str | None
    threads: int | None
    unverified: bool
    cache: Path | None
    shadow: bool
    trust_store: Path | None
    allow_unsigned: bool


def open_engine(bundle: Path, choice: EngineChoice) -> Engine | ActiveEngine:
    """Open it; raises what `Engine` and `ActiveEngine` do, and InputError for options that do not go together."""
    backend, unverified = choice.backend, choice.unverified
    if is_folder(bundle):
        if unverified or backend is not None:
            option = "--unverified" if unverified else "--backend"
            raise InputError(
                f"{option} is for bundles; what runs in the device folder {bundle} was settled by its activation"
            )
        return _open_active(bundle, choice)
    from medfm_compress.runtime.engine import Engine
    from medfm_compress.runtime.variant_selection import advising

    if choice.shadow:
        raise InputError(f"--shadow needs a device folder, in which a candidate waits; {bundle} is none")
    with advising("--unverified"):
        return Engine(
            bundle,
            backend=backend,
            threads=choice.threads,
            unverified=unverified,
            cache_dir=choice.cache,
            trust=choice.trust_store,
            allow_unsigned=choice.allow_unsigned,
        )


def _open_active(folder: Path, choice: EngineChoice) -> ActiveEngine:
    """The active bundle, counted; with ``shadow`` the candidate beside it."""
    from medfm_compress.runtime.device.active_engine import ActiveEngine, Observer
    from medfm_compress.runtime.device.folder import DeviceFolder
    from medfm_compress.runtime.monitor.monitor import Monitor
    from medfm_compress.runtime.monitor.shadow import Shadow

    device = DeviceFolder(folder, trust=choice.trust_store, allow_unsigned=choice.allow_unsigned)
    if choice.shadow and device.state.candidate is None:
        raise InputError(f"no candidate waits in the device folder {folder}; install one first")
    observers: list[Observer] = [Monitor(folder), *([Shadow(device)] if choice.shadow else [])]
    return ActiveEngine(device, threads=choice.threads, cache_dir=choice.cache, observers=observers)


def is_folder(path: Path) -> bool:
    """Whether there is a folder of that name."""
    try:
        return path.is_dir()
    except OSError:  # a name that no file can have
        return False
