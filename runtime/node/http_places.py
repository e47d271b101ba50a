"""An HTTP server whose places nobody can hold without asking for something.

At most so many requests are under way. A connection has a place from its first byte, before it is known who is there:
until it `has_asked`, it is cut off after ``asking_s``, and the longest silent goes first where a further one comes and
no place is free.
"""

from __future__ import annotations

import socket
import ssl
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

_FREED_S = 1.0  # within which a place that was taken away is free


class _Asking(NamedTuple):
    began: float
    connection: socket.socket


class HttpPlaces(ThreadingHTTPServer):
    """The server; ``busy`` requests are under way."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(
        self,
        address: tuple[str, int],
        handler: type[BaseHTTPRequestHandler],
        *,
        places: int,
        asking_s: float,
        context: ssl.SSLContext | None = None,
    ) -> None:
        """Listen at ``address``, over TLS where there is a ``context``; raises OSError where that cannot be."""
        self.busy, self._lock, self._context, self._asking_s = 0, threading.Lock(), context, asking_s
        self._places = threading.BoundedSemaphore(places)
        self._asking: dict[int, _Asking] = {}  # thread → its connection
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self.request_queue_size = 2 * places
        super().__init__(address, handler)

    def refused(self, reason: str) -> None:
        """A connection got no place, spoke no TLS, or broke off."""

    def has_asked(self) -> None:
        """The request of this thread may take its time now."""
        with self._lock:
            self._asking.pop(threading.get_ident(), None)

    def service_actions(self) -> None:
        """Cut off who takes too long to ask."""
        latest = time.monotonic() - self._asking_s
        with self._lock:
            for asking in self._asking.values():
                if asking.began < latest:
                    _cut(asking.connection)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Begin, where there is a place."""
        if not self._places.acquire(blocking=False):
            self._cut_longest()
            if not self._places.acquire(timeout=_FREED_S):
                self.refused("connections")
                self.shutdown_request(request)
                return
        with self._lock:
            self.busy += 1
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serve one connection, in a thread of its own."""
        try:
            self._begin(request)
            if self._context is not None:
                request = self._context.wrap_socket(request, server_side=True, do_handshake_on_connect=False)
                self._begin(request)
                request.do_handshake()
            super().process_request_thread(request, client_address)
        except OSError:
            self.refused("tls")
            self.shutdown_request(request)
        finally:
            self.has_asked()
            with self._lock:
                self.busy -= 1
            self._places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A peer that went away or was too slow."""
        self.refused("broken-off")

    def _begin(self, connection: socket.socket) -> None:
        connection.settimeout(self._asking_s)
        with self._lock:
            began = self._asking.get(threading.get_ident(), _Asking(time.monotonic(), connection)).began
            self._asking[threading.get_ident()] = _Asking(began, connection)

    def _cut_longest(self) -> None:
        with self._lock:
            if self._asking:
                _cut(min(self._asking.values(), key=lambda asking: asking.began).connection)


def _cut(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
