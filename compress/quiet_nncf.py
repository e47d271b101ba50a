"""Import and run NNCF without its telemetry, its log on standard output and its progress bars."""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from medfm_compress.runtime.errors import MissingDependency
from medfm_compress.runtime.sessions.openvino import import_openvino

_TELEMETRY = "openvino_telemetry"


def import_nncf() -> Any:
    """Import NNCF with its telemetry package hidden: it then uses a stub that neither sends nor writes anything.

    Raises:
        MissingDependency: NNCF is not installed.
    """
    if "nncf" in sys.modules:
        return sys.modules["nncf"]
    with contextlib.suppress(ImportError):
        import_openvino()
    logger_class = logging.getLoggerClass()  # NNCF replaces it for the whole process
    try:
        with _hidden(_TELEMETRY), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module("nncf")
    except ImportError as exc:
        raise MissingDependency(f"nncf cannot be imported ({exc}): pip install 'medfm-compress[toolchain]'") from None
    finally:
        logging.setLoggerClass(logger_class)


@contextmanager
def silent() -> Iterator[None]:
    """No log record, warning or progress bar of a quantizer leaves the block (its bars go to standard output)."""
    disabled = logging.root.manager.disable
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        logging.disable(logging.CRITICAL)
        try:
            yield
        finally:
            logging.disable(disabled)


@contextmanager
def _hidden(name: str) -> Iterator[None]:
    before = sys.modules.get(name)
    sys.modules[name] = None  # type: ignore[assignment]  # makes "import name" raise ImportError
    try:
        yield
    finally:
        del sys.modules[name]
        if before is not None:
            sys.modules[name] = before
