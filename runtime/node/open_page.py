"""The node's page for people: its queue, and its own engine for an image that somebody wants to try."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import msgspec

from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.node.audit import Audit
from medfm_compress.runtime.node.config import NodeConfig
from medfm_compress.runtime.node.page_queue import PageQueue
from medfm_compress.runtime.node.read_instances import Reader
from medfm_compress.runtime.node.spool.spool import Spool
from medfm_compress.runtime.page.reading import Source
from medfm_compress.runtime.page.server import PageServer

FILE = "page.token"
_log = logging.getLogger("medfm_compress.runtime.node")


def open_page(
    config: NodeConfig, reader: Reader, spool: Spool, audit: Audit, faults: Callable[[], list[str]]
) -> PageServer:
    """Serve the page of a node.

    Raises:
        MissingDependency: starlette or uvicorn is not installed.
        InputError: the port is taken, or token or certificate cannot be used.
    """
    settings = config.page
    if settings is None:
        raise InputError("the configuration has no section page; add one")
    token_file = settings.token_file or str(Path(config.folder) / FILE)
    queue = PageQueue(spool, reader.last_results, audit, urgent=settings.urgent, faults=faults)
    source = Source(
        reader.engine,
        atypical=config.engine.atypical,
        is_research=config.results.status == "research",
        queue=queue,
    )
    server = PageServer(msgspec.structs.replace(settings, token_file=token_file), source)
    server.start()
    _log.info("the page is at %s, and the token in its token file opens it", server.address)
    return server
