"""A connection of the page: one that is silent before its request has arrived is closed."""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol

HEADERS_S = 15.0


class BoundedConnection(H11Protocol):
    """uvicorn's, with a time within which the headers of a request have to arrive; without it places run out."""

    _limit: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """The first request has to come."""
        super().connection_made(transport)
        self._wait_for_headers()

    def data_received(self, data: bytes) -> None:
        """More of a request, or the first of the next."""
        super().data_received(data)
        if self._is_answering() or self.transport.is_closing():
            self._relax()
        elif self._limit is None:
            self._wait_for_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing waits any more."""
        self._relax()
        super().connection_lost(exc)

    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _wait_for_headers(self) -> None:
        self._limit = self.loop.call_later(HEADERS_S, self._close_silent)

    def _close_silent(self) -> None:
        self._limit = None
        if not self._is_answering():
            self.transport.close()

    def _relax(self) -> None:
        if self._limit is not None:
            self._limit.cancel()
            self._limit = None
