"""A page that is served, and who asks it without a browser."""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import tiny_bundle

from medfm_compress.runtime.engine import Engine

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

from medfm_compress.runtime.page.reading import Source
from medfm_compress.runtime.page.server import PageServer
from medfm_compress.runtime.page.settings import PageSettings

TIMEOUT_S = 20.0


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Client:
    """Asks a page as its own script would; ``cookie`` is that of its session."""

    def __init__(self, server: PageServer) -> None:
        self.server, self.cookie = server, ""
        self.token = server.url.partition("#token=")[2]
        self.origin = server.address.rstrip("/")

    def log_in(self, token: str | None = None) -> Answer:
        answer = self.post("/api/login", json.dumps({"token": self.token if token is None else token}).encode())
        self.cookie = answer.headers.get("set-cookie", "").partition(";")[0] or self.cookie
        return answer

    def get(self, path: str, **headers: str) -> Answer:
        return self.ask("GET", path, None, headers)

    def post(self, path: str, body: bytes = b"", **headers: str) -> Answer:
        return self.ask("POST", path, body, {"Origin": self.origin, **headers})

    def ask(self, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> Answer:
        """Headers without a value are not sent."""
        connection = self.connect()
        sent = {"Host": f"127.0.0.1:{self.server.port}", "Cookie": self.cookie} | headers
        connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        for name, value in sent.items():
            if value:
                connection.putheader(name.replace("_", "-"), value)
        if body is not None and "Content_Length" not in headers:
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body)
        answer = connection.getresponse()
        kept = {name.lower(): value for name, value in answer.getheaders()}
        done = Answer(answer.status, kept, answer.read())
        connection.close()
        return done

    def connect(self) -> http.client.HTTPConnection:
        if self.origin.startswith("https"):
            trusting = ssl._create_unverified_context()
            return http.client.HTTPSConnection("127.0.0.1", self.server.port, timeout=TIMEOUT_S, context=trusting)
        return http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=TIMEOUT_S)

    def lines(self, answer: Answer) -> list[Any]:
        return [json.loads(line) for line in answer.body.splitlines()]


@contextlib.contextmanager
def served(
    engine: Engine | Callable[[], Any], settings: PageSettings | None = None, **source: Any
) -> Iterator[PageServer]:
    """A page, answered for as long as the block lasts."""
    opener = (lambda: engine) if isinstance(engine, Engine) else engine
    server = PageServer(settings or PageSettings(), Source(opener, **source))
    server.start()
    try:
        yield server
    finally:
        server.stop()


def png(pixels: np.ndarray | None = None) -> bytes:
    """A file of the tiny test image, or of ``pixels``."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(tiny_bundle.image() if pixels is None else pixels).save(file, "PNG")
    return file.getvalue()


def bomb() -> bytes:
    """A PNG of some hundred bytes that says it has 60,000 × 60,000 pixels."""
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)
    rows = chunk(b"IDAT", zlib.compress(bytes(1 << 20)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + rows + chunk(b"IEND", b"")


def write_bundle(folder: Path) -> Path:
    """A tiny bundle with a verdict that passed."""
    return tiny_bundle.bundle(folder / "tiny.medfm")
