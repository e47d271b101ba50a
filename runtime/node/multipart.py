"""Parts of a ``multipart/related`` body (RFC 2387, RFC 2046 5.1), one after the other, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from email.message import Message

from medfm_compress.runtime.errors import InputError

CHUNK_BYTES = 256 * 1024
MAX_HEADER_BYTES = 8 * 1024
MAX_BOUNDARY = 70  # RFC 2046 5.1.1


class Multipart:
    """A body that is read once."""

    def __init__(self, read: Callable[[int], bytes], content_type: str) -> None:
        """Begin to read.

        Args:
            read: gives up to so many bytes of the body, none at its end.
            content_type: of the request.

        Raises:
            InputError: it is no multipart/related with a boundary.
        """
        header = Message()
        header["Content-Type"] = content_type
        boundary = header.get_boundary("") or ""
        if header.get_content_type() != "multipart/related" or not 0 < len(boundary) <= MAX_BOUNDARY:
            raise InputError("the body has to be multipart/related with a boundary")
        try:
            self._delimiter = b"\r\n--" + boundary.encode("ascii")
        except UnicodeEncodeError:
            raise InputError("the boundary has to be ASCII") from None
        self._read, self._buffer, self._ended = read, b"\r\n", False  # the first delimiter may begin the body

    def parts(self) -> Iterator[tuple[str, Iterator[bytes]]]:
        """Content type and chunks of every part; a part that is not read to its end is passed over.

        Raises:
            InputError: the body ends early, or is no multipart body.
        """
        for _ in self._until_delimiter():
            pass  # preamble
        while True:
            while len(self._buffer) < 2 and self._fill():
                pass
            if self._buffer[:2] == b"--":
                return
            chunks = self._until_delimiter()
            yield self._content_type(), chunks
            for _ in chunks:
                pass

    def _fill(self) -> bool:
        data = self._read(CHUNK_BYTES)
        self._buffer += data
        return bool(data)

    def _content_type(self) -> str:
        # The line of the delimiter ends, then headers, then an empty line.
        while (end := self._buffer.find(b"\r\n\r\n")) < 0:
            if len(self._buffer) > MAX_HEADER_BYTES or not self._fill():
                raise InputError("a part's headers do not end")
        if end > MAX_HEADER_BYTES:
            raise InputError(f"a part's headers have more than {MAX_HEADER_BYTES} bytes")
        lines = self._buffer[:end].decode("latin-1").split("\r\n")[1:]
        self._buffer = self._buffer[end + 4 :]
        header = Message()
        for line in lines:
            name, _, value = line.partition(":")
            if name.strip().lower() == "content-type":
                header["Content-Type"] = value.strip()
                break
        return header.get_content_type()

    def _until_delimiter(self) -> Iterator[bytes]:
        keep = len(self._delimiter) - 1
        while (at := self._buffer.find(self._delimiter)) < 0:
            ready = len(self._buffer) - keep
            if ready > 0:
                chunk, self._buffer = self._buffer[:ready], self._buffer[ready:]
                yield chunk
            if not self._fill():
                raise InputError("the body ends within a part")
        chunk, self._buffer = self._buffer[:at], self._buffer[at + len(self._delimiter) :]
        if chunk:
            yield chunk
