"""STOW-RS (PS3.18 10.5, Store transaction): ``POST /studies`` and ``POST /studies/{study}``.

Bodies of ``multipart/related; type="application/dicom"``. Every instance is durable before the answer, which lists all
of them by the Store Instances Response Module (PS3.18 annex I.2), as DICOM JSON or, on request, as XML.

    200 all stored · 202 some · 409 none · 503 none, for lack of room · 400, 401, 404, 405, 411, 413, 415 as in HTTP

Bounds: `MAX_REQUESTS` at one time, the headers of one within `ASKING_S`, all of it within `_BASE_S` and a second for
every 64 KB of it, its objects as those of ``receive``.
"""

from __future__ import annotations

import hmac
import logging
import re
import ssl
import threading
import time
from http.server import BaseHTTPRequestHandler
from typing import Any

from medfm_compress.runtime.errors import InputError, in_one_line
from medfm_compress.runtime.node.config import NodeConfig, StowConfig
from medfm_compress.runtime.node.http_places import HttpPlaces
from medfm_compress.runtime.node.multipart import Multipart
from medfm_compress.runtime.node.spool.spool import Spool, SpoolFull
from medfm_compress.runtime.node.store_response import Outcome, as_json, as_xml
from medfm_compress.runtime.node.take_file import Intake, NotTaken, take
from medfm_compress.runtime.regular_file import read_regular

SENDER = "stow"
MAX_REQUESTS = 16
ASKING_S = 15.0
MAX_BODY_BYTES = 64 * 10**9
_SLOWEST_BYTES_PER_S = 64 * 1024
_BASE_S = 60.0
_MAX_INSTANCES = 10_000
_MAX_TOKEN_BYTES = 4096
_PATH = re.compile(r"/studies(?:/([0-9.]{1,64}))?/?")
_OUT_OF_RESOURCES = 0xA700
_UNSUPPORTED = 0x0122
_log = logging.getLogger(__name__)


class Stow:
    """The listener for STOW-RS."""

    def __init__(self, config: NodeConfig, spool: Spool, audit: Any, metrics: Any) -> None:
        if config.stow is None:
            raise InputError("the configuration has no section stow; add one")
        self._config, self._spool, self._audit, self._metrics = config.stow, spool, audit, metrics
        self._max_bytes = config.receive.max_object_mb * 10**6
        self._token = b""
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._server.server_address[1]) if self._server is not None else 0

    @property
    def is_alive(self) -> bool:
        """Whether it listens."""
        return self._thread is not None and self._thread.is_alive()

    def start(self) -> None:
        """Begin to listen.

        Raises:
            InputError: the port is taken, or token or certificate cannot be used.
        """
        config = self._config
        if config.token_file is not None:
            self._token = read_regular(config.token_file, _MAX_TOKEN_BYTES, "stow.token_file").strip()
            if not self._token:
                raise InputError(f"stow.token_file {in_one_line(config.token_file)} is empty; put a token into it")
        context = _https(config)
        try:
            self._server = _Server(self, (config.host, config.port), context)
        except OSError as exc:
            raise InputError(
                f"cannot listen at {config.host} port {config.port}: {in_one_line(exc)}; "
                "end what listens there, or change stow.host or stow.port"
            ) from None
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.2,), name="stow", daemon=True)
        self._thread.start()

    def stop(self, within_s: float = 10.0) -> None:
        """Take no more requests, and give those that are under way their time."""
        if self._server is None:
            return
        self._server.shutdown()
        self._server.server_close()
        until = time.monotonic() + within_s
        while self._server.busy and time.monotonic() < until:
            time.sleep(0.02)
        if self._thread is not None:
            self._thread.join(5.0)

    def is_authorized(self, header: str) -> bool:
        """Whether a request with this Authorization may store."""
        if not self._token:
            return True
        scheme, _, token = header.partition(" ")
        return scheme.lower() == "bearer" and hmac.compare_digest(token.strip().encode(), self._token)

    def store(self, body: Multipart, study_uid: str) -> list[Outcome]:
        """Put every part into the spool.

        Raises:
            InputError: the body breaks off, or holds too many instances.
        """
        intake = Intake(self._spool, SENDER, self._config.priority, self._max_bytes, study_uid)
        outcomes: list[Outcome] = []
        for content_type, chunks in body.parts():
            if len(outcomes) >= _MAX_INSTANCES:
                raise InputError(f"more than {_MAX_INSTANCES} instances; send them in several requests")
            outcomes.append(self._store(content_type, chunks, intake))
        return outcomes

    def refused(self, reason: str) -> None:
        """A request or an instance was not taken."""
        self._metrics.count("refused", reason=reason)
        self._audit.record("refused", way=SENDER, reason=reason)

    def _store(self, content_type: str, chunks: Any, intake: Intake) -> Outcome:
        if content_type != "application/dicom":
            self.refused("media-type")
            return Outcome("", "", _UNSUPPORTED)
        try:
            taken = take(chunks, intake)
        except NotTaken as exc:
            self.refused(exc.code)
            return Outcome(*exc.uids, exc.status)
        except SpoolFull:
            self.refused("spool-full")
            return Outcome("", "", _OUT_OF_RESOURCES)
        except OSError as exc:
            _log.error("an object could not be written: %s", in_one_line(exc))
            self.refused("not-written")
            return Outcome("", "", _OUT_OF_RESOURCES)
        self._metrics.count("received", way=SENDER)
        self._audit.record("received", way=SENDER, instance=taken.instance_id, repeated=taken.repeated)
        return Outcome(taken.sop_class_uid, taken.sop_instance_uid, 0)


class _Server(HttpPlaces):
    def __init__(self, stow: Stow, address: tuple[str, int], context: ssl.SSLContext | None) -> None:
        self.stow = stow
        super().__init__(address, _Handler, places=MAX_REQUESTS, asking_s=ASKING_S, context=context)

    def refused(self, reason: str) -> None:
        self.stow.refused(reason)


class _BrokenOff(Exception):
    """A peer that went away in the middle of its request, or was too slow."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "medfm-compress", ""
    timeout = 30.0

    def do_POST(self) -> None:
        """The Store transaction."""
        self.close_connection = True
        path = _PATH.fullmatch(self.path.partition("?")[0])
        if path is None:
            self._refuse(404, "POST to /studies or /studies/{study}")
        elif not self.server.stow.is_authorized(self.headers.get("Authorization", "")):
            self._refuse(401, "show the bearer token")
        elif not (length := self.headers.get("Content-Length", "")).isdecimal() or len(length) > 15:
            self._refuse(411, "give Content-Length")
        elif int(length) > MAX_BODY_BYTES:
            self._refuse(413, f"a request may have {MAX_BODY_BYTES} bytes")
        else:
            self.server.has_asked()
            self._store(int(length), path[1] or "")

    def handle_expect_100(self) -> bool:
        """Only who may store is asked for the body."""
        return not self._is_hopeless() and super().handle_expect_100()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 -- the base class names it so
        """Paths hold study UIDs: nothing is logged."""

    def _is_hopeless(self) -> bool:
        if self.server.stow.is_authorized(self.headers.get("Authorization", "")):
            return False
        self.close_connection = True
        self._refuse(401, "show the bearer token")
        return True

    def _store(self, length: int, study_uid: str) -> None:
        left, until = length, time.monotonic() + _BASE_S + length / _SLOWEST_BYTES_PER_S

        def read(size: int) -> bytes:
            nonlocal left
            if time.monotonic() > until:
                raise _BrokenOff
            try:
                data = self.rfile.read1(min(size, left)) if left else b""
            except OSError as exc:
                raise _BrokenOff from exc
            left -= len(data)
            return data

        try:
            body = Multipart(read, self.headers.get("Content-Type", ""))
        except InputError as exc:
            self._refuse(415, str(exc))
            return
        try:
            outcomes = self.server.stow.store(body, study_uid)
        except InputError as exc:
            self._refuse(400, str(exc))
            return
        if not outcomes:
            self._refuse(400, "the body holds no instance")
            return
        xml = "application/dicom+xml" in self.headers.get("Accept", "")
        content = as_xml(outcomes) if xml else as_json(outcomes)
        self._answer(_status(outcomes), content, "application/dicom+xml" if xml else "application/dicom+json")

    def _refuse(self, status: int, message: str) -> None:
        self.server.stow.refused(f"http-{status}")
        self._answer(status, f"{message}\n".encode(), "text/plain; charset=utf-8")

    def _answer(self, status: int, content: bytes, content_type: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Connection", "close")
        if status == 401:
            self.send_header("WWW-Authenticate", "Bearer")
        self.end_headers()
        self.wfile.write(content)


def _status(outcomes: list[Outcome]) -> int:
    failed = [outcome for outcome in outcomes if outcome.failure]
    if not failed:
        return 200
    if len(failed) < len(outcomes):
        return 202
    return 503 if all(outcome.failure == _OUT_OF_RESOURCES for outcome in failed) else 409


def _https(config: StowConfig) -> ssl.SSLContext | None:
    if config.certificate is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(config.certificate, config.key)
    except OSError as exc:
        raise InputError(
            f"stow.certificate or stow.key cannot be used: {in_one_line(exc)}; give PEM files that belong together"
        ) from None
    return context
