"""What is to be seen of a node from another process, running or not; and its replay."""

from __future__ import annotations

import http.client
import time
from collections.abc import Sequence
from contextlib import closing
from datetime import datetime, timezone
from pathlib import Path

import msgspec

from medfm_compress.runtime.errors import InputError, in_one_line
from medfm_compress.runtime.node.config import NodeConfig
from medfm_compress.runtime.node.health import HOST
from medfm_compress.runtime.node.spool.overview import SpoolView
from medfm_compress.runtime.node.spool.records import Quarantined

SPOOL = "spool"
_TIMEOUT_S = 3.0
_DELIVERY, _RESULT_TO = "d", "result to "


class Overview(msgspec.Struct, frozen=True, kw_only=True):
    """What `overview` saw.

    Attributes:
        health: ``ok``, ``unavailable``, or ``not running``.
        reasons: why it is not well.
        remarks: what else is to be known, e.g. a destination that cannot be reached.
        instances: state → images.
        deliveries: destination → state → results.
        quarantine: reason → images.
        bytes: of all files.
        oldest_waiting_s: age of the image that waits longest to be read.
        oldest_undelivered_s: age of the image whose result is owed longest.
    """

    health: str
    reasons: tuple[str, ...]
    remarks: tuple[str, ...]
    instances: dict[str, int]
    deliveries: dict[str, dict[str, int]]
    quarantine: dict[str, int]
    bytes: int
    oldest_waiting_s: float | None
    oldest_undelivered_s: float | None


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One thing in quarantine.

    Attributes:
        name: a number for an image, ``d`` and a number for a result on its way; what `replay` takes.
        what: ``image``, or ``result to DESTINATION``.
        sender: of the image.
        since: when the image was received, UTC.
        code: a word for metrics.
        reason: a sentence.
        sop_instance_uid: of the image.
        file: that holds the image, or the result.
    """

    name: str
    what: str
    sender: str
    since: str
    code: str
    reason: str
    sop_instance_uid: str
    file: str


def overview(config: NodeConfig) -> Overview:
    """Look at the node of ``config``; raises InputError where it never ran."""
    with closing(_view(config)) as view:
        counts = view.counts()
    health, reasons, remarks = _health(config.operate.port)
    return Overview(
        health=health,
        reasons=reasons,
        remarks=remarks,
        instances={str(state): count for state, count in counts.instances.items()},
        deliveries={
            name: {str(state): count for state, count in states.items()} for name, states in counts.deliveries.items()
        },
        quarantine=dict(counts.quarantine),
        bytes=counts.bytes,
        oldest_waiting_s=_age_s(counts.oldest_waiting_at),
        oldest_undelivered_s=_age_s(counts.oldest_undelivered_at),
    )


def quarantined(config: NodeConfig) -> list[Entry]:
    """All that is set aside."""
    with closing(_view(config)) as view:
        entries = view.quarantined()
    return [
        Entry(
            name=entry_name(entry),
            what=_RESULT_TO + entry.destination if entry.destination else "image",
            since=datetime.fromtimestamp(entry.received_at, timezone.utc).strftime("%Y-%m-%d %H:%M:%S"),
            code=entry.reason_code,
            reason=entry.reason,
            sender=entry.sender,
            sop_instance_uid=entry.sop_instance_uid,
            file=str(Path(config.folder) / SPOOL / entry.file),
        )
        for entry in entries
    ]


def replay(config: NodeConfig, names: Sequence[str], *, accept_patient: bool = False) -> list[str]:
    """Take what is called ``names``, or ``all`` that can be, out of quarantine, to be tried again; what was.

    Args:
        config: of the node.
        names: see `Entry.name`.
        accept_patient: the images' studies are of these images' patients from now on.

    Raises:
        InputError: a name that is none, is not in quarantine, or is a result for a destination that the configuration
            does not name; nothing of its kind has changed then.
    """
    everything = list(names) == ["all"]
    if accept_patient and (everything or any(name.startswith(_DELIVERY) for name in names)):
        raise InputError("whose images are accepted is to be looked at one by one; give ids of images, not all")
    entries = quarantined(config)
    nowhere = {entry.name for entry in entries if not _leads_somewhere(entry, config)}
    chosen = list(dict.fromkeys(names))
    if everything:
        chosen = [entry.name for entry in entries if entry.name not in nowhere]
    for name in nowhere.intersection(chosen):
        raise InputError(f"{name} is a result for a destination that the configuration does not name; name it there")
    images, deliveries = numbers_of(chosen)
    with closing(_view(config)) as view:
        if accept_patient:
            view.accept_patient(images)
        elif images:
            view.replay(images)
        if deliveries:
            view.replay_deliveries(deliveries)
    return chosen


def discard(config: NodeConfig, names: Sequence[str]) -> list[str]:
    """Give up what is called ``names`` in quarantine, for good; what was.

    Raises:
        InputError: a name that is none, or is not in quarantine; nothing of its kind has changed then.
    """
    chosen = list(dict.fromkeys(names))
    with closing(_view(config)) as view:
        view.discard(*numbers_of(chosen))
    return chosen


def entry_name(entry: Quarantined) -> str:
    """What `replay` takes."""
    return f"{_DELIVERY}{entry.id}" if entry.destination else str(entry.id)


def numbers_of(names: Sequence[str]) -> tuple[list[int], list[int]]:
    """Numbers of images and of deliveries, by their names; raises InputError for one that is none."""
    images: list[int] = []
    deliveries: list[int] = []
    for name in names:
        number = name.removeprefix(_DELIVERY)
        if not (number.isascii() and number.isdecimal()) or len(number) > 18:
            raise InputError(f"{in_one_line(name)!r} is no id; give those that 'serve quarantine' lists")
        (images if number == name else deliveries).append(int(number))
    return images, deliveries


def _leads_somewhere(entry: Entry, config: NodeConfig) -> bool:
    """Whether it is an image, or a result for a destination that there is."""
    names = [*(pacs.name for pacs in config.pacs), *(fhir.name for fhir in config.fhir)]
    places = {_RESULT_TO + name for name in names}
    return not entry.what.startswith(_RESULT_TO) or entry.what in places


def _view(config: NodeConfig) -> SpoolView:
    return SpoolView(Path(config.folder) / SPOOL)


def _age_s(at: float | None) -> float | None:
    return None if at is None else max(0.0, time.time() - at)


def _health(port: int) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
    """The state of a node that runs, why it is not well, and what else it says."""
    if not port:
        return "not known, operate.port is 0", (), ()
    connection = http.client.HTTPConnection(HOST, port, timeout=_TIMEOUT_S)
    try:
        connection.request("GET", "/health")
        answer = msgspec.json.decode(connection.getresponse().read(1 << 16), type=dict[str, object])
        lists = [answer.get(key) for key in ("reasons", "remarks")]
        reasons, remarks = (tuple(map(str, lines)) if isinstance(lines, list) else () for lines in lists)
        return str(answer.get("status")), reasons, remarks
    except (OSError, http.client.HTTPException, msgspec.MsgspecError):
        return "not running", (), ()
    finally:
        connection.close()
