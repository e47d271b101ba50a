"""The backends: one import string each, so that only the one that is used is loaded."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from types import MappingProxyType, ModuleType
from typing import cast

from medfm_compress.runtime.bundle.bundle import Bundle
from medfm_compress.runtime.bundle.manifest import Variant
from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.sessions.protocol import Availability, Session

BACKENDS = MappingProxyType(
    {
        "openvino": "medfm_compress.runtime.sessions.openvino",
        "onnxruntime": "medfm_compress.runtime.sessions.onnxruntime",
        "tensorrt": "medfm_compress.runtime.sessions.tensorrt",
    }
)
_COMPILING = ("openvino", "tensorrt")  # they keep compiled models, and need not read the files then


def is_available(backend: str, device: str = "") -> Availability:
    """Whether ``backend`` can run here on ``device`` (by default the first that it drives).

    Imports its engine, so ask only for one you mean to use.

    Raises:
        InputError: no such backend.
    """
    module = _module(backend)
    if backend == "onnxruntime":
        return cast(Availability, module.is_available(device or "cpu"))
    return cast(Availability, module.is_available())


def open_session_from_bytes(
    backend: str,
    files: Sequence[bytes],
    threads: int,
    precision: str,
    cache_dir: str | None = None,
    device: str = "cpu",
) -> Session:
    """Open a model held in memory on ``backend``; ``cache_dir`` is for backends that compile.

    Raises:
        InputError, MissingDependency, Refused: see the backend's own ``from_bytes``.
    """
    module = _module(backend)
    if backend in _COMPILING:
        return cast(Session, module.from_bytes(files, threads, precision, cache_dir))
    return cast(Session, module.from_bytes(files, threads, precision, device))


def open_variant(
    bundle: Bundle,
    variant: Variant,
    threads: int,
    cache_dir: str | None = None,
    read: Callable[[], list[bytes]] | None = None,
) -> Session:
    """Open ``variant`` of an opened bundle, its files' hashes checked once more; the goldens are not replayed.

    A backend that finds the model compiled in ``cache_dir``, under its files' hashes, does not read the files. ``read``
    gives their contents, checked against the hashes, where that has begun already.
    """
    read = read or (lambda: [bundle.read(name) for name in variant.files])
    if variant.backend in _COMPILING:
        digests = [bundle.sha256(name) for name in variant.files]
        module = _module(variant.backend)
        return cast(Session, module.open_listed(digests, read, threads, variant.precision, cache_dir))
    return open_session_from_bytes(variant.backend, read(), threads, variant.precision, device=variant.device)


def open_bundle_variant(bundle: str, variant: str, threads: int, cache_dir: str | None = None) -> Session:
    """Open one variant of the bundle at path ``bundle``: the opener that a `SessionRef` names."""
    opened = Bundle.open(bundle)
    return open_variant(opened, opened.variant(variant), threads, cache_dir)


def _module(backend: str) -> ModuleType:
    if backend not in BACKENDS:
        raise InputError(f"there is no backend {backend!r}; choose one of {', '.join(BACKENDS)}")
    return importlib.import_module(BACKENDS[backend])
