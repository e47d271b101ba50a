"""An association that the node asks for, every step of it bounded in time and size.

pynetdicom waits for the peer in places that have no time limit (one that stops reading, or sends a PDU byte by byte). A
guard a link breaks the connection once a step has taken too long, which ends every such wait. Its thread that serves
requests of the peer takes a response away from the sender now and then (once in some thousand objects, where the
answer comes within a millisecond), or ends while a sender waits for it: here it never runs. Reports of storage
commitment do not need it; that the peer ends the association is looked for before every use.
"""

from __future__ import annotations

import contextlib
import math
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from medfm_compress.runtime.errors import MedfmError, MissingDependency, in_one_line
from medfm_compress.runtime.node.config import TlsConfig
from medfm_compress.runtime.node.statuses import Status, rejected_context
from medfm_compress.runtime.node.tls import client_context

if TYPE_CHECKING:
    from pydicom import Dataset

COMMITMENT_CLASS = "1.2.840.10008.1.20.1"  # Storage Commitment Push Model, PS3.4 annex J
COMMITMENT_INSTANCE = "1.2.840.10008.1.20.1.1"  # its well-known SOP instance, PS3.4 J.3.5

_MAX_PDU = 128 * 1024  # that we ask for; responses are short
_LONGEST_PDU = 4 * 1024 * 1024  # that we read
_SHORTEST_PEER_PDU = 128  # below it no message can be cut into fragments sensibly
_SLOWEST = 64 * 1024  # bytes a second, below which a transfer counts as stalled
_TICK_S = 0.25
_STEPS = 3.0  # connection, TLS and answer, each of timeout_s


class Unreachable(MedfmError):
    """A destination that cannot be used now; says nothing about an object."""


class Peer(NamedTuple):
    """Who is called, by whom; ``timeout_s`` of every step."""

    ae_title: str
    host: str
    port: int
    calling_ae_title: str
    tls: TlsConfig | None
    timeout_s: float


class Proposal(NamedTuple):
    """A presentation context: one SOP class, in any of some transfer syntaxes."""

    sop_class_uid: str
    transfer_syntaxes: tuple[str, ...]


class Link:
    """An association; made by `open_link`.

    Attributes:
        rejections: of every proposal that was not accepted as it was made.
    """

    def __init__(self, association: Any, guard: _Guard, proposals: Sequence[Proposal], timeout_s: float) -> None:
        self._association, self._guard, self._timeout_s = association, guard, timeout_s
        self._message_id = 0
        self._accepted: set[tuple[str, str]] = set()
        self.rejections: dict[Proposal, Status] = {}
        results = {context.context_id: context for context in association.rejected_contexts}
        accepted = {context.context_id: context for context in association.accepted_contexts}
        for number, proposal in enumerate(proposals):
            context = accepted.get(2 * number + 1)
            if context is None:
                rejected = results.get(2 * number + 1)
                self.rejections[proposal] = rejected_context(None if rejected is None else rejected.result)
            elif str(context.transfer_syntax[0]) not in proposal.transfer_syntaxes:
                self.rejections[proposal] = Status("permanent", "accepted in a transfer syntax that was not proposed")
            else:
                self._accepted.add((proposal.sop_class_uid, str(context.transfer_syntax[0])))

    @property
    def is_open(self) -> bool:
        """Whether something can be sent."""
        return not self._guard.has_severed and _is_established(self._association)

    def accepts(self, sop_class_uid: str, transfer_syntax_uid: str) -> bool:
        """Whether objects of this class may be sent in this transfer syntax."""
        return (sop_class_uid, transfer_syntax_uid) in self._accepted

    def store(self, content: Path | Dataset, size: int) -> int | None:
        """Send the DICOM file, or the data set in a transfer syntax that is accepted; its status, None: no answer."""
        patience_s = self._timeout_s + size / _SLOWEST
        self._association.dimse_timeout = patience_s
        return self._status(patience_s, lambda number: self._association.send_c_store(content, number))

    def request_commitment(self, information: Dataset) -> int | None:
        """Ask for storage commitment (N-ACTION, action type 1); the status, None: no answer."""
        return self._status(
            self._timeout_s,
            lambda number: self._association.send_n_action(
                information, 1, COMMITMENT_CLASS, COMMITMENT_INSTANCE, number
            )[0],
        )

    def report_commitment(self, information: Dataset, event_type: int) -> int | None:
        """Report storage commitment (N-EVENT-REPORT); the status, None: no answer."""
        return self._status(
            self._timeout_s,
            lambda number: self._association.send_n_event_report(
                information, event_type, COMMITMENT_CLASS, COMMITMENT_INSTANCE, number
            )[0],
        )

    def close(self) -> None:
        """Release the association, or break it where the peer does not answer."""
        try:
            with self._guard.within(2 * self._timeout_s):
                if self.is_open:
                    self._association.release()
        finally:
            self.sever()

    def sever(self) -> None:
        """Break the connection at once; what waits for it in another thread ends."""
        self._guard.sever()

    def _status(self, patience_s: float, send: Callable[[int], Dataset]) -> int | None:
        self._message_id = self._message_id % 65535 + 1
        try:
            with self._guard.within(patience_s + self._timeout_s):
                status = send(self._message_id).get("Status")
        except RuntimeError:  # the association ended before it was sent
            return None
        return None if status is None else int(status)


def open_link(
    peer: Peer,
    proposals: Sequence[Proposal],
    *,
    as_provider: bool = False,
    handlers: Sequence[tuple[Any, Callable[..., Any]]] = (),
) -> Link:
    """Associate with ``peer``; ``as_provider`` proposes the SCP role for us (PS3.7 D.3.3.4).

    Where all proposals were rejected, the link is not open and tells why.

    Raises:
        Unreachable: it cannot be reached, refuses the association, or shows another certificate.
        MissingDependency: pynetdicom is not installed.
    """
    entity = _entity(peer)
    roles = _provider_roles(proposals) if as_provider else []
    contexts = _contexts(proposals)
    problem = "no address"
    for address, tls_args in _addresses(peer):
        try:
            association = entity.associate(
                address, peer.port, contexts, peer.ae_title, _MAX_PDU, roles, None, tls_args, list(handlers)
            )
        except Exception as exc:  # noqa: BLE001 -- pynetdicom does not expect every answer
            if entity.guard is not None:
                entity.guard.sever()
            raise Unreachable(f"its answer cannot be understood ({type(exc).__name__})") from None
        guard = association.guard
        guard.relax()
        if association.is_established or _rejected_all(association):
            link = Link(association, guard, proposals, peer.timeout_s)
            _check_pdu(link, association)
            return link
        problem = _problem(association)
        guard.sever()
        if association.is_rejected:
            break
    raise Unreachable(problem)


def pynetdicom() -> Any:
    """The package.

    Raises:
        MissingDependency: it is not installed.
    """
    try:
        import pynetdicom as package
    except ImportError:
        raise MissingDependency(
            "the DICOM node needs pynetdicom, which is not installed; run pip install 'medfm-compress[node]'"
        ) from None
    return package


class _Guard(threading.Thread):
    """Breaks the connection of an association whose step takes too long."""

    def __init__(self, association: Any, first_s: float) -> None:
        super().__init__(name="association-guard", daemon=True)
        self._association = association
        self._severed = threading.Event()
        self._deadline = time.monotonic() + first_s
        self.start()

    @property
    def has_severed(self) -> bool:
        return self._severed.is_set()

    @contextlib.contextmanager
    def within(self, seconds: float) -> Iterator[None]:
        """Break the connection unless the block ends in time."""
        self._deadline = time.monotonic() + seconds
        try:
            yield
        finally:
            self.relax()

    def relax(self) -> None:
        self._deadline = math.inf

    def sever(self) -> None:
        self._severed.set()
        association = self._association
        with contextlib.suppress(OSError, AttributeError):  # never connected, or closed already
            association.dul.socket.socket.shutdown(socket.SHUT_RDWR)
        association.is_established = False
        association._kill = association.dul._kill_thread = True
        _wake(association)

    def run(self) -> None:
        while not self._severed.wait(_TICK_S):
            if time.monotonic() > self._deadline:
                self.sever()
        self._association.dul.join(4 * _TICK_S)
        with contextlib.suppress(OSError, AttributeError):
            self._association.dul.socket.socket.close()


def _wake(association: Any) -> None:
    """End the wait of a sender for its response, and for an answer about the association."""
    from pynetdicom.pdu_primitives import A_P_ABORT

    abort = A_P_ABORT()
    abort.provider_reason = 0x00
    association.dul.to_user_queue.put(abort)
    association.dimse.msg_queue.put((None, None))


def _is_established(association: Any) -> bool:
    """Whether it still stands; answers the peer where that asks for its end."""
    if not association.is_established:
        return False
    if not association.dul.is_alive() or association.acse.is_aborted():
        association.is_established = False
    elif association.acse.is_release_requested():
        association.acse.send_release(is_response=True)
        association.is_released, association.is_established = True, False
    return bool(association.is_established)


def _entity(peer: Peer) -> Any:
    """An application entity whose associations have a guard, and whose sockets have limits."""
    pynetdicom()
    from pynetdicom import _config
    from pynetdicom.ae import ApplicationEntity
    from pynetdicom.association import Association
    from pynetdicom.transport import AssociationSocket

    class LimitedSocket(AssociationSocket):  # type: ignore[misc]  # pynetdicom is untyped for us
        error: BaseException | None = None

        def connect(self, primitive: Any) -> None:
            super().connect(primitive)
            if self.socket is not None:
                self.socket.settimeout(peer.timeout_s)
                self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

        def recv(self, nr_bytes: int) -> bytearray:
            if nr_bytes > _LONGEST_PDU:
                raise OSError(f"a PDU of {nr_bytes} bytes")
            _acknowledge_at_once(self.socket)
            return bytearray(super().recv(nr_bytes))

        def _shutdown_socket(self) -> None:
            self.error = sys.exc_info()[1] or self.error  # that is being handled, where there was no connection
            if self.socket is not None:
                with contextlib.suppress(OSError):  # never connected
                    self.socket.shutdown(socket.SHUT_RDWR)
                with contextlib.suppress(OSError):
                    self.socket.close()

    class SenderOnly(Association):  # type: ignore[misc]
        _is_paused = property(lambda self: True, lambda self, value: None)

        def start(self) -> None:
            """No thread that serves requests."""

    class GuardedEntity(ApplicationEntity):  # type: ignore[misc]
        guard: _Guard | None = None

        def _create_socket(self, assoc: Any, address: Any, tls_args: Any) -> AssociationSocket:
            limited = LimitedSocket(assoc, address=address)
            limited.tls_args = tls_args
            assoc.__class__ = SenderOnly
            assoc.limited = limited
            assoc.guard = self.guard = _Guard(assoc, _STEPS * peer.timeout_s)
            return limited

    _config.STORE_SEND_CHUNKED_DATASET = True  # a file as it lies there, never decoded
    _config.LOG_HANDLER_LEVEL = "none"  # which describes every message, data sets as well
    entity = GuardedEntity(ae_title=peer.calling_ae_title)
    entity.acse_timeout = entity.dimse_timeout = entity.connection_timeout = peer.timeout_s
    entity.network_timeout = None  # an idle link is closed by its user
    return entity


def _acknowledge_at_once(connection: socket.socket | None) -> None:
    """Do not let a peer wait that sends the header of a PDU and its content apart (40 ms a message with dcmtk's)."""
    if connection is not None and hasattr(socket, "TCP_QUICKACK"):  # Linux; it lasts until the next segment or so
        with contextlib.suppress(OSError):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)


def _addresses(peer: Peer) -> Iterator[tuple[Any, Any]]:
    """Addresses of the peer as pynetdicom wants them, and what TLS needs."""
    try:
        found = socket.getaddrinfo(peer.host, peer.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as exc:
        raise Unreachable(f"the name of its host cannot be resolved: {in_one_line(exc)}") from None
    for family, _, _, _, address in found[:3]:
        tls_args = None if peer.tls is None else (_tls(peer.tls), peer.host)
        yield (address[0] if family == socket.AF_INET else (address[0], *address[2:])), tls_args


def _tls(config: TlsConfig) -> Any:
    try:
        return client_context(config)
    except (MedfmError, OSError, ValueError) as exc:
        raise Unreachable(f"TLS cannot be used: {in_one_line(exc)}") from None


def _contexts(proposals: Sequence[Proposal]) -> list[Any]:
    from pynetdicom import build_context

    return [build_context(uid, list(syntaxes)) for uid, syntaxes in proposals]


def _provider_roles(proposals: Sequence[Proposal]) -> list[Any]:
    from pynetdicom import build_role

    return [build_role(uid, scp_role=True) for uid, _ in proposals]


def _rejected_all(association: Any) -> bool:
    """Whether the peer accepted the association, but no presentation context."""
    answer = association.acceptor.primitive
    return answer is not None and answer.result == 0 and not association.accepted_contexts


def _check_pdu(link: Link, association: Any) -> None:
    longest = association.acceptor.maximum_length or 0
    if 0 < longest < _SHORTEST_PEER_PDU:
        link.sever()
        raise Unreachable(f"it accepts PDUs of {longest} bytes at most, too short for any message")


def _problem(association: Any) -> str:
    if association.is_rejected:
        answer = association.acceptor.primitive
        return f"it rejects the association: {in_one_line(answer.reason_str)}"
    if isinstance(association.limited.error, OSError):  # ssl.SSLError, too
        return f"no connection: {in_one_line(association.limited.error)}"
    return "it does not answer the request for an association"
