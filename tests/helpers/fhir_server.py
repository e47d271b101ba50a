"""A FHIR server for tests: checks the transaction that it gets by fhir.resources, keeps it, and answers as told."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class FhirServer:
    """Answers at ``url``.

    Attributes:
        answer: gets the number of requests before; None for what a server answers that takes the transaction, else a
            status, headers and body.
        kept: report identifiers → bundle; a conditional create finds what is there.
    """

    def __init__(self, tls: tuple[str, str] | None = None) -> None:
        self.answer: Callable[[int], tuple[int, dict[str, str], bytes] | None] = lambda number: None
        self.kept: dict[str, Any] = {}
        self.requests: list[dict[str, str]] = []
        self.paths: list[str] = []
        self.ended = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        if tls is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*tls)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        port = self._server.server_address[1]
        self.url = f"{'http' if tls is None else 'https'}://127.0.0.1:{port}/fhir"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop listening."""
        self.ended.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)

    def take(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        """Check the transaction, keep it, and answer as PS FHIR R4 3.1.0.11 says."""
        from fhir.resources.R4B.bundle import Bundle

        try:
            bundle = Bundle.model_validate_json(body)
            entries = [(entry.request.method, entry.request.url, entry.request.ifNoneExist) for entry in bundle.entry]
        except (ValueError, AttributeError, TypeError):
            return 400, {}, b'{"resourceType": "OperationOutcome"}'
        if bundle.type != "transaction":
            return 400, {}, b'{"resourceType": "OperationOutcome"}'
        statuses = []
        for (method, url, condition), entry in zip(entries, bundle.entry, strict=True):
            key = f"{method} {url} {condition}"
            statuses.append("200 OK" if condition and key in self.kept else "201 Created")
            self.kept[key] = entry.resource
        answer = {
            "resourceType": "Bundle",
            "type": "transaction-response",
            "entry": [{"response": {"status": status}} for status in statuses],
        }
        return 200, {}, json.dumps(answer).encode()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                number = len(owner.requests)
                owner.requests.append(dict(self.headers.items()))
                owner.paths.append(self.path)
                status, headers, content = owner.answer(number) or owner.take(body)
                try:
                    self.send_response(status)
                    for name, value in {"Content-Length": str(len(content)), **headers}.items():
                        self.send_header(name, value)
                    self.end_headers()
                    self.wfile.write(content)
                except OSError:  # the client has gone
                    self.close_connection = True

            def log_message(self, *args: Any) -> None:
                """Nothing."""

        return Handler
