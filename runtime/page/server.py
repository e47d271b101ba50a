"""`PageServer`: the page, served by uvicorn in a thread of its own."""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from medfm_compress.runtime.errors import InputError, MissingDependency, in_one_line
from medfm_compress.runtime.page.access import Access
from medfm_compress.runtime.page.reading import Source
from medfm_compress.runtime.page.settings import PageSettings
from medfm_compress.runtime.page.token import new_token, token_of

MAX_CONNECTIONS = 64
_LOOPBACK_NAMES = ("127.0.0.1", "localhost", "[::1]")
_START_S, _GRACE_S, _KEEP_ALIVE_S, _HEADERS_S = 10.0, 2, 5, 15.0


class PageServer:
    """`start` it, `stop` it; ``url`` has the token in its fragment, which browsers send to nobody."""

    def __init__(self, settings: PageSettings, source: Source) -> None:
        """Take the port; nothing is answered yet.

        Raises:
            MissingDependency: starlette or uvicorn is not installed.
            InputError: the port is taken, or token or certificate cannot be used.
        """
        check_installed()
        self._settings = settings
        self._token = token_of(settings.token_file) if settings.token_file is not None else new_token()
        names = served_names(settings)
        self._socket = _listen(settings.host, settings.port)
        self.port: int = self._socket.getsockname()[1]
        scheme = "http" if settings.certificate is None else "https"
        self.access = Access(self._token, scheme=scheme, names=names, port=self.port)
        self.address = f"{scheme}://{names[0]}:{self.port}/"
        from medfm_compress.runtime.page.app import Page

        self.page = Page(source, self.access, settings.max_upload_mb * 10**6)
        self._server: Any = _server(self.page.application(), settings)
        self._thread = threading.Thread(target=self._run, name="page", daemon=True)

    @property
    def url(self) -> str:
        """What opens the page; a secret."""
        return f"{self.address}#token={self._token}"

    @property
    def is_alive(self) -> bool:
        """Whether it answers."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Answer from now on; raises InputError where the certificate cannot be used."""
        self._thread.start()
        until = time.monotonic() + _START_S
        while not self._server.started:
            if not self._thread.is_alive() or time.monotonic() > until:
                raise InputError(f"the page cannot be served at {self.address}; see the log, or give another port")
            time.sleep(0.01)

    def stop(self, within_s: float = 10.0) -> None:
        """Close the port, and end what is under way."""
        self.page.desk.close()
        self._server.should_exit = True
        if self._thread.ident is not None:
            self._thread.join(within_s)
        self._socket.close()

    def _run(self) -> None:
        self._server.run(sockets=[self._socket])


def check_installed() -> None:
    """Raise MissingDependency where the page's libraries are not there."""
    try:
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as exc:
        raise MissingDependency(
            f"a page for people needs {exc.name}, which is not installed; run pip install 'medfm-compress[node]'"
        ) from None


def served_names(settings: PageSettings) -> list[str]:
    """What the page may be called: names of this machine alone, or those in the certificate.

    Raises:
        InputError: the certificate cannot be read, or names nothing.
    """
    if settings.certificate is None or settings.key is None:
        own = settings.host if ":" not in settings.host else f"[{settings.host}]"
        return list(dict.fromkeys([own, *_LOOPBACK_NAMES]))
    with _pem_problems():
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(settings.certificate, settings.key, _no_password)
        names = list(_certified(Path(settings.certificate).read_bytes()))
    if not names:
        raise InputError("the page's certificate names no host; give one with a subject alternative name")
    return names


def _certified(pem: bytes) -> Iterator[str]:
    from cryptography import x509

    certificate = x509.load_pem_x509_certificate(pem)
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return
    for name in names.get_values_for_type(x509.DNSName):
        yield name.lower()
    for address in names.get_values_for_type(x509.IPAddress):
        yield f"[{address}]" if isinstance(address, ipaddress.IPv6Address) else str(address)


@contextlib.contextmanager
def _pem_problems() -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as exc:
        raise InputError(
            f"the page's certificate or key cannot be used: {in_one_line(exc)}; give PEM files that belong together, "
            "the key without a password"
        ) from None


def _no_password() -> str:
    raise ValueError("the key has a password")


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        if hasattr(socket, "SO_REUSEADDR") and not hasattr(socket, "SO_EXCLUSIVEADDRUSE"):
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(MAX_CONNECTIONS)
    except OSError as exc:
        listener.close()
        raise InputError(
            f"the page cannot listen at {host} port {port}: {in_one_line(exc)}; end what listens there, or give "
            "another port"
        ) from None
    return listener


def _server(app: Any, settings: PageSettings) -> Any:
    """uvicorn, silent, with bounds."""
    import uvicorn

    from medfm_compress.runtime.page.connection import BoundedConnection

    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # whose words quote exceptions
    config = uvicorn.Config(
        app,
        loop="asyncio",
        http=BoundedConnection,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        limit_concurrency=MAX_CONNECTIONS,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=_GRACE_S,
        ssl_certfile=settings.certificate,
        ssl_keyfile=settings.key,
    )
    return uvicorn.Server(config)
