"""Health and metrics over HTTP, on loopback alone.

GET /health     200 while every worker is alive and gets on, and the engine reads; else 503 with the reasons
GET /ready      200 while images are accepted as well
GET /metrics    Prometheus
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler

from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.node.http_places import HttpPlaces

HOST = "127.0.0.1"
_NAMES = frozenset({"127.0.0.1", "localhost", "[::1]"})
_TIMEOUT_S = 5.0
_MOST_REQUESTS = 16
Reasons = Callable[[], list[str]]


class Health:
    """The listener."""

    def __init__(
        self,
        port: int,
        *,
        faults: Reasons,
        unready: Reasons,
        metrics: Callable[[], str],
        remarks: Reasons = list,
    ) -> None:
        """Listen at ``port`` of loopback.

        Args:
            port: 0 for any that is free.
            faults: why the node is not well; empty while it is.
            unready: why it takes no images; empty while it does.
            metrics: the text for Prometheus.
            remarks: what an operator should know beside that, e.g. a destination that cannot be reached.

        Raises:
            InputError: the port is taken.
        """
        self._answers: dict[str, Reasons] = {"/health": faults, "/ready": lambda: [*faults(), *unready()]}
        self._metrics, self._remarks = metrics, remarks
        handler = type("_Bound", (_Handler,), {"health": self})
        try:
            self._server = HttpPlaces((HOST, port), handler, places=_MOST_REQUESTS, asking_s=_TIMEOUT_S)
        except OSError as exc:
            raise InputError(
                f"health and metrics cannot listen at {HOST}:{port}: {exc.strerror}; give another operate.port"
            ) from None
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, name="health", daemon=True)

    def start(self) -> None:
        """Answer from now on."""
        self._thread.start()

    def is_alive(self) -> bool:
        """Whether it answers."""
        return self._thread.is_alive()

    def stop(self) -> None:
        """Close the port."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()

    def answer(self, path: str) -> tuple[int, str, str]:
        """Status, content type and text for ``path``."""
        if path == "/metrics":
            return 200, "text/plain; version=0.0.4; charset=utf-8", self._metrics()
        if path not in self._answers:
            return 404, "text/plain; charset=utf-8", "there are /health, /ready and /metrics\n"
        reasons = self._answers[path]()
        status = "ok" if not reasons else "unavailable"
        text = json.dumps({"status": status, "reasons": reasons, "remarks": self._remarks()}) + "\n"
        return 503 if reasons else 200, "application/json", text


class _Handler(BaseHTTPRequestHandler):
    health: Health
    timeout = _TIMEOUT_S
    server_version, sys_version = "medfm-compress", ""

    def do_GET(self) -> None:
        host = (self.headers.get("Host") or HOST).lower().strip()
        if (host.rpartition(":")[0] or host) not in _NAMES and host not in _NAMES:
            status, kind, text = 403, "text/plain; charset=utf-8", "ask at 127.0.0.1\n"
        else:
            status, kind, text = self.health.answer(self.path.partition("?")[0])
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing."""
