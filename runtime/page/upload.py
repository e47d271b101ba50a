"""An image on its way from a browser: into memory alone, bounded in size, time and number while it arrives."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import anyio
from starlette.requests import Request

from medfm_compress.runtime.errors import InputError

PLACES = 4
"""Images that are received, wait or are read at one time."""
SILENCE_S = 20.0
"""A browser that sends nothing for so long has left."""
_BASE_S, _SLOWEST_BYTES_PER_S = 60.0, 64 * 1024


class NotTaken(InputError):
    """An upload that is not taken; ``status`` is that of HTTP."""

    def __init__(self, sentence: str, status: int) -> None:
        super().__init__(sentence)
        self.status = status


class Places:
    """How many images there may be at one time."""

    def __init__(self, number: int = PLACES) -> None:
        self._number, self.taken = number, 0

    @contextmanager
    def one(self) -> Iterator[None]:
        """A place for as long as the block lasts; raises NotTaken where none is free."""
        if self.taken >= self._number:
            raise NotTaken("other images are being read; try again in a moment", 503)
        self.taken += 1
        try:
            yield
        finally:
            self.taken -= 1


async def receive(request: Request, max_bytes: int) -> bytes:
    """The whole body of ``request``.

    Raises:
        NotTaken: it is empty, longer than ``max_bytes`` (known before it is sent, or while it is), or too slow.
        starlette.requests.ClientDisconnect: the browser has left; nothing is kept.
    """
    declared = request.headers.get("content-length", "0")
    if not declared.isdecimal() or len(declared) > 15 or int(declared) > max_bytes:
        raise _too_large(max_bytes)
    body = bytearray()
    chunks = request.stream()
    try:
        with anyio.fail_after(_BASE_S + max_bytes / _SLOWEST_BYTES_PER_S):
            while True:
                with anyio.fail_after(SILENCE_S):
                    chunk = await anext(chunks, None)
                if chunk is None:
                    break
                body += chunk
                if len(body) > max_bytes:
                    raise _too_large(max_bytes)
    except TimeoutError:
        raise NotTaken("the image arrives too slowly; send it again", 408) from None
    if not body:
        raise NotTaken("the request holds no image; choose a file that is not empty", 400)
    return bytes(body)


def _too_large(max_bytes: int) -> NotTaken:
    if max_bytes < 10**6:  # a form, not an image
        return NotTaken(f"the request is longer than the {max_bytes} bytes that it may have; send it again", 413)
    return NotTaken(
        f"the image is larger than the {max_bytes // 10**6} MB that this page takes; give a smaller one, or start the "
        "page with a larger --max-upload",
        413,
    )
