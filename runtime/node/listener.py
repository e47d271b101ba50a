"""pynetdicom's acceptor, with bounds: what a peer can make it hold, wait for or do.

    connections       by address before anything is read; a bounded number, of which the longest silent goes first;
                      TLS in a thread of its own, in bounded time
    PDU               no longer than `MAX_PDU_BYTES`, whole within ``idle_s``; the connection is closed otherwise
    association       by AE title and address, with those presentation contexts that this caller has use for
    command set       no longer than `MAX_COMMAND_BYTES`; one request at a time (a few, where the peer does not wait)
    data set          of C-STORE straight to the spool's incoming file, bounded; of anything else `MAX_DATA_SET_BYTES`

For pynetdicom 3.0; its own way to receive in chunks writes to the system's temporary folder, without bounds.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable
from io import BytesIO
from typing import Any, Protocol

from pynetdicom import evt
from pynetdicom.acse import ACSE
from pynetdicom.ae import ApplicationEntity
from pynetdicom.association import Association
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.dimse_messages import C_STORE_RQ
from pynetdicom.pdu_primitives import P_DATA
from pynetdicom.presentation import PresentationContext
from pynetdicom.transport import AssociationSocket, RequestHandler, ThreadedAssociationServer

from medfm_compress.runtime.node.storing import Storing, TooLarge

PDU_BYTES = 128 * 1024  # that we ask peers for
MAX_PDU_BYTES = 1024**2
MAX_COMMAND_BYTES = 64 * 1024
MAX_DATA_SET_BYTES = 4 * 1024**2
_MAX_PIPELINED = 4
_HANDSHAKE_S = 10.0
_LIMIT_EXCEEDED = (2, 3, 2)  # PS3.8 table 9-21: transient, provider (presentation), local limit exceeded
_PDU_TYPES = range(1, 8)
_log = logging.getLogger(__name__)


class Host(Protocol):
    """What decides about peers and takes their objects."""

    def may_connect(self, address: str) -> bool:
        """Whether anybody may call from there."""

    def contexts_for(self, calling: str, called: str, address: str) -> list[PresentationContext] | tuple[int, int, int]:
        """Presentation contexts for this caller, or result, source and diagnostic of a rejection (PS3.8 9.3.4)."""

    def begin_store(self, association: Association, command_set: Any, transfer_syntax_uid: str) -> Storing:
        """Where the data set of a C-STORE goes."""

    def dropped(self, reason: str) -> None:
        """A peer went over a bound, and its association ends."""


class Server(ThreadedAssociationServer):
    """Listens; see the bounds above."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, host: Host, ae: ApplicationEntity, address: tuple[str, int], tls: ssl.SSLContext | None) -> None:
        self.host, self.tls, self.idle_s = host, tls, float(ae.network_timeout or 60)
        self.family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self._max_associations = ae.maximum_associations
        self._max_connections = 2 * ae.maximum_associations + 16
        ae.maximum_associations = 10**6  # pynetdicom's own count holds connections that never say a word
        self._handshakes, self._lock = 0, threading.Lock()
        super().__init__(ae, address, ae.ae_title, [], request_handler=_Handler)
        ae._servers.append(self)

    def _bind_defaults(self) -> None:
        """Answers only: pynetdicom's default notifications write data sets to its log."""
        for event in evt._INTERVENTION_EVENTS:
            self.bind(event, evt.get_default_handler(event))

    def get_request(self) -> tuple[socket.socket, Any]:
        """The next connection; TLS begins later, in a thread of its own."""
        listening: Any = self.socket
        connection, address = listening.accept()
        connection.settimeout(self.idle_s)
        return connection, address

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Whether to talk to that peer at all."""
        if not self.host.may_connect(str(client_address[0])):
            self.host.dropped("address")
            return False
        associations: list[Any] = self.active_associations
        if len(associations) + self._handshakes >= self._max_connections:
            self.host.dropped("connections")
            silent = [association for association in associations if association.requestor.primitive is None]
            if not silent:
                return False
            min(silent, key=lambda association: association.began).cut()
        return True

    def admit(self, association: _Association) -> bool:
        """Whether there is a place for one more association."""
        with self._lock:
            others: list[Any] = self.active_associations
            if sum(other.is_admitted for other in others) >= self._max_associations:
                return False
            association.is_admitted = True
            return True

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Shake hands, where TLS is asked for, and begin an association."""
        if self.tls is not None:
            with self._lock:
                self._handshakes += 1
            try:
                request.settimeout(min(_HANDSHAKE_S, self.idle_s))
                request = self.tls.wrap_socket(request, server_side=True)
            except OSError:  # SSLError is one
                self.host.dropped("tls")
                self.shutdown_request(request)
                return
            finally:
                with self._lock:
                    self._handshakes -= 1
        super().finish_request(request, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """An error of one peer's thread."""
        self.host.dropped("error")


class _Handler(RequestHandler):
    server: Server

    def handle(self) -> None:
        association = _Association(self.server, self.request, self)
        association.start()


class _Association(Association):
    """An acceptor's association; nothing half received outlives it."""

    def __init__(self, server: Server, connection: socket.socket, handler: RequestHandler) -> None:
        super().__init__(server.ae, "acceptor")
        self._server, self.daemon, self.dul.daemon = server, True, True
        self.name: str = f"AcceptorThread@{id(self):x}"  # by which pynetdicom knows it
        self.began, self.is_admitted = time.monotonic(), False
        self.dimse: _Dimse = _Dimse(self, server.host)
        self.acse: _Acse = _Acse(self, server.host)
        self.acceptor.maximum_length = server.ae.maximum_pdu_size
        self.acceptor.ae_title = server.ae_title
        self.acceptor.address_info = handler.local
        self.acceptor.implementation_class_uid = server.ae.implementation_class_uid
        self.acceptor.implementation_version_name = server.ae.implementation_version_name
        self.requestor.address_info = handler.remote
        for event, handlers in server._handlers.items():
            if event.is_intervention and handlers:
                self.bind(event, *handlers)
        self.set_socket(_Socket(self, connection, server.host, server.idle_s))

    def cut(self) -> None:
        """End a connection on which no association was asked for."""
        self.dul.socket.end()

    def run_reactor(self) -> None:
        try:
            super().run_reactor()
        finally:
            self.dimse.close()


class _Socket(AssociationSocket):
    """Reads no more, and waits no longer, than a peer in good faith needs."""

    def __init__(self, association: Association, connection: socket.socket, host: Host, idle_s: float) -> None:
        super().__init__(association, client_socket=connection)
        self._host, self._idle_s, self._until = host, idle_s, 0.0

    def recv(self, nr_bytes: int) -> bytearray:
        if self.socket is None:
            raise OSError("closed")
        if nr_bytes == 6:
            self._until = time.monotonic() + self._idle_s
        if nr_bytes > MAX_PDU_BYTES:
            self._refuse("pdu-too-long")
        data = bytearray(nr_bytes)
        view, count = memoryview(data), 0
        try:
            while count < nr_bytes:
                self.socket.settimeout(max(0.01, self._until - time.monotonic()))
                received = self.socket.recv_into(view[count:])
                if not received:
                    self.end()
                    return data[:count]
                count += received
                if time.monotonic() > self._until:
                    raise TimeoutError
        except TimeoutError:
            self._refuse("too-slow")
        except OSError:
            self.end()
            raise
        finally:
            view.release()
            with contextlib.suppress(OSError, AttributeError):
                self.socket.settimeout(self._idle_s)  # of what is sent
        if nr_bytes == 6 and data[0] not in _PDU_TYPES:
            self._refuse("no-dicom")
        return data

    def _shutdown_socket(self) -> None:
        """Also where the peer has gone, which makes shutdown fail."""
        connection = self.socket
        if connection is not None:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()

    def _refuse(self, reason: str) -> None:
        self._host.dropped(reason)
        self.end()
        raise OSError(reason)

    def end(self) -> None:
        """Close the connection; an association that was never asked for is not waited for any longer."""
        self._shutdown_socket()
        if self.assoc.requestor.primitive is None:
            self.assoc.dul.to_user_queue.put(None)


class _Acse(ACSE):
    """Lets in who may come."""

    def __init__(self, association: Association, host: Host) -> None:
        super().__init__(association)
        self._host = host

    def _negotiate_as_acceptor(self) -> None:
        request: Any = self.requestor.primitive
        address = self.requestor.address_info.address if self.requestor.address_info else ""
        verdict = self._host.contexts_for(
            str(request.calling_ae_title).strip(), str(request.called_ae_title).strip(), address
        )
        if not isinstance(verdict, tuple) and not self.assoc._server.admit(self.assoc):
            self._host.dropped("associations")
            verdict = _LIMIT_EXCEEDED
        if isinstance(verdict, tuple):
            self.requestor.ae_title = request.calling_ae_title
            self.send_reject(*verdict)
            self.assoc.kill()
            return
        self.acceptor.supported_contexts = verdict
        super()._negotiate_as_acceptor()


class _OutOfBounds(Exception):
    """A peer makes more of a message than there may be; in a word."""


class _Dimse(DIMSEServiceProvider):
    """Puts together requests, and sends data sets of C-STORE to where they are kept."""

    def __init__(self, association: Association, host: Host) -> None:
        super().__init__(association)
        self._host, self._closed = host, False
        self._storing: list[Storing] = []

    def close(self) -> None:
        """Drop what was not answered."""
        self._closed = True
        for storing in list(self._storing):
            storing.close()
        self._storing.clear()

    def receive_primitive(self, primitive: P_DATA) -> None:
        for context_id, value in primitive.presentation_data_value_list:
            if self._closed:
                return
            try:
                self._check_bounds(value)
                part = P_DATA()
                part.presentation_data_value_list = [[context_id, value]]  # a tuple is refused
                super().receive_primitive(part)
                self._divert()
            except TooLarge:
                self._abort("object-too-large")
            except _OutOfBounds as exc:
                self._abort(str(exc))
            except Exception:  # noqa: BLE001 - a command set that pydicom cannot read, a context not accepted
                self._abort("not-understood")

    def _divert(self) -> None:
        """Once the request for a C-STORE is there, its data set goes to a file."""
        if not isinstance(self.message, C_STORE_RQ):
            return
        message: Any = self.message
        if message._data_set_file is None:
            context = self.assoc._accepted_cx[message.context_id]
            if context.abstract_syntax != message.command_set.AffectedSOPClassUID:
                raise ValueError("SOP class of another presentation context")
            storing = self._host.begin_store(self.assoc, message.command_set, str(context.transfer_syntax[0]))
            self._storing.append(storing)
            message._data_set_file = _ChunkFile(storing, lambda: self._storing.remove(storing))

    def _check_bounds(self, value: bytes) -> None:
        message: Any = self.message
        if message is None:
            if self.msg_queue.qsize() >= _MAX_PIPELINED:
                raise _OutOfBounds("does-not-wait")
            return
        if value[0] & 1:
            size, limit = message.encoded_command_set.tell(), MAX_COMMAND_BYTES
        elif message._data_set_file is None and isinstance(message.data_set, BytesIO):
            size, limit = message.data_set.tell(), MAX_DATA_SET_BYTES
        else:
            return
        if size + len(value) > limit:
            raise _OutOfBounds("message-too-long")

    def _abort(self, reason: str) -> None:
        self.close()
        self._host.dropped(reason)
        self.dul.event_queue.put("Evt19")  # as for an invalid PDU: the provider aborts (PS3.8 9.2.2, AA-8)


class _ChunkFile:
    """What pynetdicom takes for its temporary file."""

    name = ""  # it removes that file after the answer; there is none of that name

    def __init__(self, storing: Storing, on_close: Callable[[], None]) -> None:
        self.storing, self._on_close = storing, on_close
        self.file = self

    def write(self, data: bytes) -> None:
        self.storing.write(data)

    def flush(self) -> None:
        """Everything is written at once."""

    def close(self) -> None:
        """Pynetdicom's last word: the request was answered."""
        self.storing.close()
        with contextlib.suppress(ValueError):
            self._on_close()
