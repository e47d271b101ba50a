"""The page's requests.

    GET  /                    the page, and its files beside it; they say nothing of bundle or images
    POST /api/login           {"token"} → the session's cookie
    POST /api/logout
    GET  /api/page            what the bundle is, and whether there is a queue
    POST /api/predict         an image as the body → what the network says of it
    POST /api/heat-map        the same image → lines of JSON: how far it is, at last the map; who hangs up cancels it
    GET  /api/queue           of a node
    POST /api/replay          {"names"}

Of a model that takes columns both POSTs of an image have a header ``Medfm-Columns``, a JSON object of what is known,
percent-encoded: an address would stand in histories and logs.

Errors are JSON with the sentence and the exit code that the command line has for them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from importlib import resources
from typing import TypeVar
from urllib.parse import unquote

import msgspec
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp

from medfm_compress.runtime.errors import EXIT_INTERNAL, InputError, MedfmError, Refused
from medfm_compress.runtime.page.access import Access, Objection
from medfm_compress.runtime.page.guard import Guard, refusal
from medfm_compress.runtime.page.queue import Queue
from medfm_compress.runtime.page.reading import HeatMapJob, ReadingDesk, Source
from medfm_compress.runtime.page.upload import NotTaken, Places, receive

FILES = {
    "/": ("page.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/dom.js": ("dom.js", "text/javascript; charset=utf-8"),
    "/image.js": ("image.js", "text/javascript; charset=utf-8"),
    "/columns.js": ("columns.js", "text/javascript; charset=utf-8"),
    "/queue.js": ("queue.js", "text/javascript; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
COLUMNS_HEADER = "medfm-columns"
MOST_MAPS = 4
_TICK_S = 0.15
_SMALL_BYTES = 64 * 1024
T = TypeVar("T")


class _Login(msgspec.Struct, forbid_unknown_fields=True):
    token: str


class _Replay(msgspec.Struct, forbid_unknown_fields=True):
    names: tuple[str, ...]


class Page:
    """The answers."""

    def __init__(self, source: Source, access: Access, max_upload_bytes: int) -> None:
        self._access, self._queue, self._max_bytes = access, source.queue, max_upload_bytes
        self.desk, self.places = ReadingDesk(source), Places()

    def application(self) -> ASGIApp:
        """With everything that guards it."""
        routes = [Route(path, _file(name, kind)) for path, (name, kind) in FILES.items()]
        routes += [
            Route("/api/login", self.log_in, methods=["POST"]),
            Route("/api/logout", self.log_out, methods=["POST"]),
            Route("/api/page", self.facts),
            Route("/api/predict", self.predict, methods=["POST"]),
            Route("/api/heat-map", self.heat_map, methods=["POST"]),
            Route("/api/queue", self.queue),
            Route("/api/replay", self.replay, methods=["POST"]),
        ]
        app = Starlette(
            routes=routes,
            exception_handlers={
                MedfmError: _answer_error,
                HTTPException: _answer_unknown,
                Exception: _answer_fault,
            },
        )
        return Guard(app, self._access)

    async def log_in(self, request: Request) -> Response:
        """A session against the token."""
        outcome = self._access.log_in((await _small(request, _Login)).token)
        if isinstance(outcome, Objection):
            return refusal(outcome.sentence, outcome.status)
        return JSONResponse({}, headers={"set-cookie": outcome})

    async def log_out(self, request: Request) -> Response:
        """The session ends."""
        return JSONResponse({}, headers={"set-cookie": self._access.log_out(request.headers.get("cookie", ""))})

    async def facts(self, _: Request) -> Response:
        """What answers here."""
        return JSONResponse({**self.desk.facts(), "max_upload_bytes": self._max_bytes})

    async def predict(self, request: Request) -> Response:
        """One image."""
        columns = _columns(request)
        with self.places.one():
            image = await receive(request, self._max_bytes)
            return JSONResponse(await asyncio.wrap_future(self.desk.predict(image, columns)))

    async def heat_map(self, request: Request) -> Response:
        """The heat map of one image, and how far it is; ``?finding=`` has the number of the finding."""
        finding = request.query_params.get("finding")
        if finding is not None and not (finding.isdecimal() and len(finding) < 6):
            raise InputError("finding is no number; give that of one of the bundle's findings, from 0")
        columns = _columns(request)
        with self.places.one():
            image = await receive(request, self._max_bytes)
        if self.desk.running_maps >= MOST_MAPS:
            raise NotTaken("other heat maps are under way; try again in a moment", 503)
        lines = _progress(partial(self.desk.map, image, None if finding is None else int(finding), columns))
        return StreamingResponse(lines, media_type="application/x-ndjson")

    async def queue(self, _: Request) -> Response:
        """What waits, what was found, what was set aside."""
        view = await run_in_threadpool(self._node_queue().view)
        return Response(msgspec.json.encode(view), media_type="application/json")

    async def replay(self, request: Request) -> Response:
        """Try again what is in quarantine."""
        names = (await _small(request, _Replay)).names
        return JSONResponse({"replayed": await run_in_threadpool(self._node_queue().replay, names)})

    def _node_queue(self) -> Queue:
        if self._queue is None:
            raise NotTaken("this page has no queue; a node's has, see 'medfm-compress serve'", 404)
        return self._queue


async def _progress(begin: Callable[[], HeatMapJob]) -> AsyncIterator[bytes]:
    """Lines until the map is there; it begins with the first listener, and whoever stops listening cancels it."""
    job = begin()
    result = asyncio.wrap_future(job.result)
    try:
        while not (await asyncio.wait({result}, timeout=_TICK_S))[0]:
            yield msgspec.json.encode({"done": job.done, "total": job.total}) + b"\n"
        try:
            yield msgspec.json.encode(result.result()) + b"\n"
        except MedfmError as exc:
            yield msgspec.json.encode({"error": str(exc), "exit_code": exc.exit_code}) + b"\n"
    finally:
        job.cancelled.set()
        result.cancel()


async def _small(request: Request, kind: type[T]) -> T:
    """A small body as JSON."""
    body = await receive(request, _SMALL_BYTES)
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.MsgspecError:
        raise InputError("the request is not what this page sends; reload it") from None


def _columns(request: Request) -> dict[str, float | str | None]:
    """What the page was told beside the image; nothing where there is no such header."""
    text = request.headers.get(COLUMNS_HEADER, "")
    if not text:
        return {}
    try:
        return msgspec.json.decode(unquote(text[:_SMALL_BYTES], errors="strict"), type=dict[str, float | str | None])
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise InputError("the values beside the image are not what this page sends; reload it") from None


def _file(name: str, kind: str) -> Callable[[Request], Awaitable[Response]]:
    content = resources.files(__package__).joinpath("static", name).read_bytes()

    async def answer(_: Request) -> Response:
        return Response(content, media_type=kind)

    return answer


async def _answer_error(_: Request, exc: Exception) -> Response:
    assert isinstance(exc, MedfmError)  # noqa: S101 -- what the table of handlers says
    if isinstance(exc, NotTaken):
        return refusal(str(exc), exc.status)
    return refusal(str(exc), 422 if isinstance(exc, Refused) else 400, exc.exit_code)


async def _answer_fault(_: Request, exc: Exception) -> Response:
    """By its kind alone: its words may hold what an image says."""
    sentence = f"internal error ({type(exc).__name__}); nothing of the image was kept, try again"
    return refusal(sentence, 500, EXIT_INTERNAL)


async def _answer_unknown(_: Request, exc: Exception) -> Response:
    status = exc.status_code if isinstance(exc, HTTPException) else 404
    return refusal("there is nothing of that kind here; open the page at /", status)
