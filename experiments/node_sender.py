"""A C-STORE sender on a plain socket, which ends at once when its peer does, and the images that it sends."""

from __future__ import annotations

import socket
import struct
from types import TracebackType

CR_IMAGE, EXPLICIT, IMPLICIT = "1.2.840.10008.5.1.4.1.1.1", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2"
_PDU_BYTES = 64 * 1024
_TIMEOUT_S = 20.0


class Gone(Exception):
    """The peer has ended the connection, or does not answer as DICOM says."""


class Sender:
    """One association with one presentation context (PS3.8 9.3)."""

    def __init__(self, port: int, calling: str = "MODALITY", called: str = "MEDFM") -> None:
        """Ask for an association.

        Raises:
            Gone: it was not accepted.
        """
        self._number = 0
        try:
            self._socket = socket.create_connection(("127.0.0.1", port), _TIMEOUT_S)
        except OSError as exc:
            raise Gone from exc
        try:
            self._socket.sendall(_association_request(calling, called))
            if self._read_pdu()[0] != 2:
                raise Gone("the association was rejected")
        except (OSError, Gone) as exc:
            self._socket.close()
            raise Gone from exc

    def store(self, uid: str, data_set: bytes) -> int:
        """Send one object; the status of the answer.

        Raises:
            Gone: there was none.
        """
        self._number = self._number % 60_000 + 1
        fragments = [(3, _store_request(uid, self._number))]
        step = _PDU_BYTES - 12
        for start in range(0, len(data_set), step):
            fragments.append((0 if start + step < len(data_set) else 2, data_set[start : start + step]))
        try:
            for control, fragment in fragments:
                self._socket.sendall(_pdu(4, struct.pack(">IBB", len(fragment) + 2, 1, control) + fragment))
            kind, content = self._read_pdu()
        except OSError as exc:
            raise Gone from exc
        if kind != 4:
            raise Gone
        return _status(content[6:])

    def close(self) -> None:
        """Close the connection without a word."""
        self._socket.close()

    def __enter__(self) -> Sender:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _read_pdu(self) -> tuple[int, bytes]:
        kind, length = struct.unpack(">BxI", self._read(6))
        return int(kind), self._read(length)

    def _read(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            piece = self._socket.recv(size - len(data))
            if not piece:
                raise Gone
            data += piece
        return data


def cr_image(uid: str, size: int, filling: bytes) -> bytes:
    """Data set of a CR image of ``size`` × ``size`` pixels of 16 bits, as far as a receiver looks; explicit VR."""
    pixels = filling * (2 * size * size)
    return b"".join(
        (
            _explicit(0x0008, 0x0016, b"UI", CR_IMAGE.encode()),
            _explicit(0x0008, 0x0018, b"UI", uid.encode()),
            _explicit(0x0028, 0x0010, b"US", struct.pack("<H", size)),
            _explicit(0x0028, 0x0011, b"US", struct.pack("<H", size)),
            struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OW", 0, len(pixels)),
            pixels,
        )
    )


def _explicit(group: int, element: int, vr: bytes, value: bytes) -> bytes:
    value += b"\0" * (len(value) % 2)
    return struct.pack("<HH2sH", group, element, vr, len(value)) + value


def _implicit(element: int, value: bytes) -> bytes:
    value += b"\0" * (len(value) % 2)
    return struct.pack("<HHI", 0, element, len(value)) + value


def _store_request(uid: str, number: int) -> bytes:
    """C-STORE-RQ (PS3.7 table 9.3-1)."""
    fields = b"".join(
        (
            _implicit(0x0002, CR_IMAGE.encode()),
            _implicit(0x0100, struct.pack("<H", 0x0001)),
            _implicit(0x0110, struct.pack("<H", number)),
            _implicit(0x0700, struct.pack("<H", 0)),
            _implicit(0x0800, struct.pack("<H", 0x0001)),
            _implicit(0x1000, uid.encode()),
        )
    )
    return _implicit(0x0000, struct.pack("<I", len(fields))) + fields


def _status(command_set: bytes) -> int:
    """Status (0000,0900) of a response."""
    at = 0
    while at + 8 <= len(command_set):
        _, element, length = struct.unpack_from("<HHI", command_set, at)
        if element == 0x0900:
            return int(struct.unpack_from("<H", command_set, at + 8)[0])
        at += 8 + length
    raise Gone("a response without a status")


def _pdu(kind: int, content: bytes) -> bytes:
    return struct.pack(">BxI", kind, len(content)) + content


def _item(kind: int, content: bytes) -> bytes:
    return struct.pack(">BxH", kind, len(content)) + content


def _association_request(calling: str, called: str) -> bytes:
    """A-ASSOCIATE-RQ (PS3.8 table 9-11)."""
    context = struct.pack(">BxBx", 1, 0) + _item(0x30, CR_IMAGE.encode()) + _item(0x40, EXPLICIT.encode())
    user = _item(0x51, struct.pack(">I", _PDU_BYTES)) + _item(0x52, b"2.25.1")
    return _pdu(
        1,
        struct.pack(">HH16s16s32x", 1, 0, called.ljust(16).encode(), calling.ljust(16).encode())
        + _item(0x10, b"1.2.840.10008.3.1.1.1")
        + _item(0x20, context)
        + _item(0x50, user),
    )
