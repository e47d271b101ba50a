"""`Guard`: around the whole page: who may ask, what a browser may do with the answer, and nothing of a fault in logs.

The policy forbids everything but the page's own files: no other server, no inline script or style, no frame, no
plug-in, no text that becomes markup (Content Security Policy Level 3 and Trusted Types, W3C).
"""

from __future__ import annotations

import logging
from typing import Any

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from medfm_compress.runtime.errors import EXIT_UNUSABLE
from medfm_compress.runtime.page.access import Access

POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' blob:",  # pictures that the page itself makes of an answer
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
_HEADERS = {
    "content-security-policy": POLICY,
    "cache-control": "no-store",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=(), usb=()",
}
_RAW = [(name.encode(), value.encode()) for name, value in _HEADERS.items()]
_log = logging.getLogger("medfm_compress.runtime.page")


class Guard:
    """An ASGI application around ``app``."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app, self._access = app, access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", []), *_RAW]}
            await send(message)

        objection = self._access.objection(scope["method"], scope["path"], Headers(scope=scope))
        if objection is not None:
            await refusal(objection.sentence, objection.status)(scope, receive, guarded)
            return
        try:
            await self._app(scope, receive, guarded)
        except ClientDisconnect:
            return
        except Exception as exc:  # noqa: BLE001 -- its words may hold what an image says
            _log.error("the page failed at a request: %s", type(exc).__name__)


def refusal(sentence: str, status: int, exit_code: int = EXIT_UNUSABLE, **more: Any) -> JSONResponse:
    """What every error is answered with; the connection is closed, since a body may be under way."""
    return JSONResponse({"error": sentence, "exit_code": exit_code, **more}, status, {"connection": "close"})
