"""POST of a FHIR transaction (https://hl7.org/fhir/R4/http.html#transaction) to a server of records.

An answer counts as success only if it is 2xx and a bundle that has a 2xx status for every entry that was sent. What
says something about the way there (no connection, 401, a redirection, which is never followed) makes the server be left
alone; 408, 425, 429 and 5xx are for the moment, ``Retry-After`` within bounds; any other 4xx is about the report, which
goes to quarantine. Every exchange ends within a total time; no more than 1 MiB of an answer is read, and none of it is
logged, for an OperationOutcome may quote the patient's data.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from medfm_compress.runtime.errors import MedfmError, in_one_line
from medfm_compress.runtime.node.association import Unreachable
from medfm_compress.runtime.node.config import FhirConfig
from medfm_compress.runtime.node.delivery_loop import (
    DeliveryLoop,
    Destination,
    Never,
    NobodyWatches,
    NotNow,
    Observer,
    Outcome,
    Sent,
)
from medfm_compress.runtime.node.spool.records import Delivery
from medfm_compress.runtime.ownership import is_private
from medfm_compress.runtime.regular_file import read_regular

_MEDIA_TYPE = "application/fhir+json"
_LONGEST_ANSWER = 1 << 20
_LONGEST_TOKEN = 16 * 1024
_LONGEST_REPORT = 256 << 20
_TOTAL_STEPS = 4  # connection, TLS, request, answer: each of timeout_s
_FOR_THE_MOMENT = frozenset({408, 425, 429})
_NOT_ABOUT_THE_REPORT = frozenset({401, 407})
_LONGEST_RETRY_AFTER_S = 86400.0


class FhirPoster(Destination):
    """Thread that posts reports to one FHIR server."""

    def __init__(
        self,
        config: FhirConfig,
        spool: Any,
        observer: Observer | None = None,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        channel = _FhirChannel(config, spool)
        super().__init__(
            DeliveryLoop(config.name, config.retry, spool, channel, observer or NobodyWatches(), clock=clock)
        )


class Answer(NamedTuple):
    """What came back; ``body`` of `_LONGEST_ANSWER` bytes and one more at most."""

    status: int
    retry_after: str
    body: bytes


class _FhirChannel:
    def __init__(self, config: FhirConfig, spool: Any) -> None:
        self._config, self._spool = config, spool
        self._connection: http.client.HTTPConnection | None = None

    def prepare(self, deliveries: Sequence[Delivery]) -> None:
        """Nothing: every report has a connection of its own."""

    def send(self, delivery: Delivery) -> Outcome:
        """POST one transaction."""
        try:
            content = read_regular(delivery.path, _LONGEST_REPORT, "report")
            entries = len(json.loads(content)["entry"])
        except (MedfmError, OSError) as exc:
            if not delivery.path.exists():
                return Never("object-missing", "its file is not in the spool")
            return NotNow(in_one_line(exc))
        except (ValueError, KeyError, TypeError, RecursionError):
            return Never("object-damaged", "its file holds no FHIR bundle")
        try:
            return classify(self._exchange(content), entries)
        except (OSError, http.client.HTTPException) as exc:  # of this report perhaps, so the others go first
            return NotNow(f"the exchange broke off: {_problem(exc)}")

    def idle(self, now: float) -> None:
        """A record system commits as it answers."""
        answered = self._spool.awaiting_commitment(self._config.name, now)
        if answered:
            self._spool.committed([delivery.id for delivery in answered])

    def close(self) -> None:
        """Nothing is open between two reports."""

    def sever(self) -> None:
        """Break the exchange that is under way."""
        _break(self._connection)

    def _exchange(self, content: bytes) -> Answer:
        headers = {"Content-Type": _MEDIA_TYPE, "Accept": _MEDIA_TYPE, "Prefer": "return=minimal"}
        if self._config.token_file is not None:
            headers["Authorization"] = f"Bearer {_read_token(Path(self._config.token_file))}"
        connection = self._connection = _connection(self._config)
        guard = threading.Timer(_TOTAL_STEPS * self._config.timeout_s, _break, [connection])
        guard.daemon = True
        guard.start()
        try:
            _connect(connection)
            connection.request("POST", urlsplit(self._config.url).path or "/", content, headers)
            with connection.getresponse() as response:
                body = response.read(_LONGEST_ANSWER + 1)
                return Answer(response.status, response.getheader("Retry-After") or "", body)
        finally:
            guard.cancel()
            connection.close()
            self._connection = None


def classify(answer: Answer, entries: int, now: datetime | None = None) -> Outcome:
    """What ``answer`` to a transaction of so many ``entries`` means.

    Raises:
        Unreachable: it says nothing about the report.
    """
    status, text = answer.status, f"the server answered {answer.status}"
    if 200 <= status < 300:
        return _read_bundle(answer.body, entries)
    if status in _NOT_ABOUT_THE_REPORT or not 400 <= status < 600:
        raise Unreachable(text)
    if status in _FOR_THE_MOMENT or status >= 500:
        return NotNow(text, _retry_after_s(answer.retry_after, now or datetime.now(timezone.utc)))
    return Never("status", text)


def _read_bundle(body: bytes, entries: int) -> Outcome:
    """Outcome by the response bundle: the worst of its entries."""
    try:
        if len(body) > _LONGEST_ANSWER:
            raise ValueError
        bundle = json.loads(body)
        statuses = [int(str(entry["response"]["status"])[:3]) for entry in bundle["entry"]]
        is_whole = bundle["resourceType"] == "Bundle" and bundle["type"] == "transaction-response"
    except (ValueError, KeyError, TypeError, RecursionError):
        return NotNow("the server answered success with something that is no response to a transaction")
    if not is_whole or len(statuses) != entries:
        return NotNow("the server answered success with a response to another transaction")
    bad = [status for status in statuses if not 200 <= status < 300]
    if not bad:
        return Sent()
    refused = [status for status in bad if 400 <= status < 500 and status not in _FOR_THE_MOMENT]
    if refused:
        return Never("entry-status", f"the server answered {refused[0]} for an entry")
    return NotNow(f"the server answered {bad[0]} for an entry")


def _retry_after_s(text: str, now: datetime) -> float:
    """Seconds of a Retry-After header (RFC 9110 10.2.3), a day at most; 0 for none that can be read."""
    try:
        seconds = float(int(text)) if text.strip().isdigit() else (parsedate_to_datetime(text) - now).total_seconds()
    except (ValueError, TypeError, OverflowError):
        return 0.0
    return min(max(seconds, 0.0), _LONGEST_RETRY_AFTER_S)


class _Https(http.client.HTTPSConnection):
    """One whose socket can be broken during the TLS handshake, too."""

    def __init__(self, host: str, port: int | None, timeout_s: float, context: ssl.SSLContext) -> None:
        super().__init__(host, port, timeout=timeout_s, context=context)
        self._tls = context

    def connect(self) -> None:
        http.client.HTTPConnection.connect(self)
        wrapped = self._tls.wrap_socket(self.sock, server_hostname=self.host, do_handshake_on_connect=False)
        self.sock = wrapped
        wrapped.do_handshake()


def _connect(connection: http.client.HTTPConnection) -> None:
    try:
        connection.connect()
    except (OSError, ValueError) as exc:  # ssl.SSLError is an OSError; UnicodeError of the host's name a ValueError
        raise Unreachable(f"no connection: {in_one_line(exc)}") from None


def _connection(config: FhirConfig) -> http.client.HTTPConnection:
    parts = urlsplit(config.url)
    host = parts.hostname or ""
    if parts.scheme == "http":
        return http.client.HTTPConnection(host, parts.port, timeout=config.timeout_s)
    try:
        context = ssl.create_default_context(cafile=config.authorities)
    except (OSError, ValueError) as exc:
        raise Unreachable(f"authorities cannot be used: {in_one_line(exc)}") from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return _Https(host, parts.port, config.timeout_s, context)


def _read_token(path: Path) -> str:
    """The bearer token, from a file that nobody else may read."""
    try:
        content = read_regular(path, _LONGEST_TOKEN, "token_file").decode("ascii").strip()
        private = is_private(path.stat())
    except (MedfmError, OSError) as exc:
        raise Unreachable(f"token_file cannot be read: {in_one_line(exc)}") from None
    except UnicodeDecodeError:
        content, private = "", True
    if not private:
        raise Unreachable("token_file can be read by others; make it yours alone: chmod 600")
    if not content or not content.isprintable() or " " in content:
        raise Unreachable("token_file holds no bearer token; give one line of ASCII without spaces")
    return content


def _break(connection: http.client.HTTPConnection | None) -> None:
    """Shut the connection down under whatever waits for it."""
    opened = None if connection is None else connection.sock
    if opened is not None:
        with contextlib.suppress(OSError):
            opened.shutdown(socket.SHUT_RDWR)


def _problem(exc: Exception) -> str:
    """An error of the network; of HTTP by its kind alone, as it may quote the answer."""
    return in_one_line(exc) if isinstance(exc, OSError) else type(exc).__name__
