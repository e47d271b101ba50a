"""`Node`: the parts of a node, put together: spool, reader, deliveries, ways in, health; started and stopped in order.

    start    spool ─▶ engine ─▶ deliveries ─▶ reader ─▶ health ─▶ ways in ─▶ READY
    stop     ways in ─▶ reader ─▶ deliveries ─▶ health ─▶ spool, within ``operate.stop_s``

A part that ends, or does not get on, ends the process with exit code 70: what was acknowledged is in the spool, and
whoever supervises the node starts it again. A node that goes on without one of its parts would look well and not be.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

from medfm_compress.runtime.errors import EXIT_INTERNAL, EXIT_INTERRUPTED, EXIT_OK, InputError, in_one_line
from medfm_compress.runtime.node import systemd
from medfm_compress.runtime.node.audit import Audit
from medfm_compress.runtime.node.commitment import CommitmentReports
from medfm_compress.runtime.node.commitment_answers import CommitmentAnswers
from medfm_compress.runtime.node.config import NodeConfig
from medfm_compress.runtime.node.deliver import Deliverer
from medfm_compress.runtime.node.fhir_post import FhirPoster
from medfm_compress.runtime.node.health import Health
from medfm_compress.runtime.node.identifiers import Marks
from medfm_compress.runtime.node.keeper import Keeper
from medfm_compress.runtime.node.log import set_up_log
from medfm_compress.runtime.node.metrics import Metrics
from medfm_compress.runtime.node.observer import NodeObserver
from medfm_compress.runtime.node.progress import Progress
from medfm_compress.runtime.node.read_instances import Reader
from medfm_compress.runtime.node.receive import Receiver
from medfm_compress.runtime.node.spool.spool import Spool

SPOOL = "spool"
_TICK_S = 1.0

_log = logging.getLogger("medfm_compress.runtime.node")


class Node:
    """A whole node; `start`, then `wait`, then `stop`."""

    def __init__(self, config: NodeConfig) -> None:
        """Open spool and engine; nothing is received yet.

        Raises:
            InputError: the folder is in use, or cannot be used; the engine cannot be opened.
            BundleRefused, TrustRefused, Refused: the engine may not run.
        """
        self.config = config
        folder = Path(config.folder)
        self.metrics, self.progress = Metrics(), Progress()
        self._stop = threading.Event()
        self._receives = threading.Event()
        self._signal = 0
        self._health: Health | None = None
        self._page: Any = None
        self._ways_in: list[Any] = []
        with ExitStack() as undo:
            self.spool = Spool(folder / SPOOL, config.spool)
            undo.callback(self.spool.close)
            self.audit = Audit(folder, Marks.of_folder(folder))
            undo.callback(self.audit.close)
            self._set_destinations()
            observer = NodeObserver(self.metrics, self.audit, self.spool)
            self.reader = Reader(config, self.spool, audit=self.audit, metrics=self.metrics, progress=self.progress)
            title = config.receive.ae_title
            self._deliverers = [Deliverer(pacs, title, self.spool, observer) for pacs in config.pacs]
            self._posters = [FhirPoster(fhir, self.spool, observer) for fhir in config.fhir]
            self._reports = CommitmentReports([deliverer.commitment for deliverer in self._deliverers])
            self._answers = CommitmentAnswers(config.receive, self.spool, observer)
            self._keeper = Keeper(self.spool, self.audit, self.metrics, self.progress)
            self._to_close = undo.pop_all()

    @property
    def health_port(self) -> int:
        """Where health and metrics are; 0 where nowhere."""
        return self._health.port if self._health is not None else 0

    def start(self) -> None:
        """Begin to read and deliver, and then to receive.

        Raises:
            InputError: a port is taken, or a certificate cannot be used; nothing was received.
        """
        config = self.config
        for deliverer in self._deliverers:
            deliverer.start()
        for poster in self._posters:
            poster.start()
        self._answers.start()
        self.reader.start()
        self._keeper.start()
        self._health = self._make_health()
        self._page = self._make_page()
        for way in self._make_ways_in():
            way.start()
            self._ways_in.append(way)
        self._receives.set()
        for name, part in self._parts():
            self.progress.watch(name, partial(_is_alive, part))
        head = self.audit.head
        self.audit.record("started", durable=True, version=_version(), destinations=_names(config))
        _log.info("the node receives as %s at %s:%d", config.receive.ae_title, config.receive.host, config.receive.port)
        _log.info("audit trail goes on from number %d, digest %s", head.number, head.digest)
        systemd.notify(systemd.READY, "STATUS=receiving")

    def wait(self) -> int:
        """Until `end` is called or a part ends; the exit code."""
        feed_s = systemd.watchdog_s()
        tick = min(_TICK_S, feed_s / 3) if feed_s else _TICK_S
        while not self._stop.wait(tick):
            dead, stuck = self.progress.dead(), self.progress.stuck()
            if dead or stuck:
                return self._fail(dead, stuck)
            systemd.notify(systemd.WATCHDOG)
        return EXIT_INTERRUPTED if self._signal == signal.SIGINT else EXIT_OK

    def end(self, number: int = signal.SIGTERM, _frame: FrameType | None = None) -> None:
        """Make `wait` return; a signal handler as well."""
        self._signal = number
        self._stop.set()

    def stop(self) -> None:
        """Stop in order, within ``operate.stop_s``; what is not finished is done again after the next start."""
        systemd.notify(systemd.STOPPING)
        until = time.monotonic() + self.config.operate.stop_s
        _stop_all([(way, 0.5) for way in (*self._ways_in, *((self._page,) if self._page is not None else ()))], until)
        _stop_all([(self.reader, 0.75)], until)
        _stop_all([(part, 1.0) for part in (*self._deliverers, *self._posters, self._answers)], until)
        self._keeper.stop(5.0)
        if self._health is not None:
            self._health.stop()
        with suppress(OSError):
            self.audit.record("stopped", durable=True)
        _log.info("audit trail ends with number %d, digest %s", *self.audit.head)
        self._to_close.close()
        _log.info("the node has stopped")

    def faults(self) -> list[str]:
        """Why the node is not well."""
        dead = [f"{name} has ended" for name in self.progress.dead()]
        stuck = [f"{name} does not get on" for name in self.progress.stuck()]
        return [*dead, *stuck, *filter(None, self._part_faults())]

    def _part_faults(self) -> list[str]:
        return [self.reader.fault, self.reader.spool_fault, self._keeper.fault]

    def remarks(self) -> list[str]:
        """Which destinations are left alone at present, and why; their results wait."""
        names = [*(pacs.name for pacs in self.config.pacs), *(fhir.name for fhir in self.config.fhir)]
        problems = [part.problem for part in (*self._deliverers, *self._posters)]
        return [f"{name} is left alone: {why}" for name, why in zip(names, problems, strict=True) if why]

    def unready(self) -> list[str]:
        """Why no image is accepted."""
        if self._stop.is_set():
            return ["the node is stopping"]
        if not self._receives.is_set():
            return ["the node is starting"]
        try:
            has_room = self.spool.has_room()
        except OSError as exc:
            return [f"the spool cannot be used: {in_one_line(exc)}"]
        return [] if has_room else ["the spool is full, senders are answered with out of resources"]

    def _set_destinations(self) -> None:
        """Results of an earlier configuration for a destination that is gone are seen, not forgotten."""
        aside, taken_up = self.spool.set_destinations(_names(self.config))
        if aside:
            _log.error("%d results are for destinations that the configuration does not name: in quarantine", aside)
        if taken_up:
            _log.info("%d results are for destinations that the configuration names again: they are sent", taken_up)
        if aside or taken_up:
            self.audit.record("destinations-changed", set_aside=aside, taken_up=taken_up)

    def _parts(self) -> list[tuple[str, Any]]:
        """Every part that has a thread of its own, except those that beat."""
        return [
            *(
                (f"deliveries to {pacs.name}", part)
                for pacs, part in zip(self.config.pacs, self._deliverers, strict=True)
            ),
            *((f"deliveries to {fhir.name}", part) for fhir, part in zip(self.config.fhir, self._posters, strict=True)),
            ("storage commitment", self._answers),
            *((type(way).__name__, way) for way in self._ways_in),
            *((("health", self._health),) if self._health is not None else ()),
            *((("page", self._page),) if self._page is not None else ()),
        ]

    def _make_health(self) -> Health | None:
        port = self.config.operate.port
        if not port:
            return None
        health = Health(port, faults=self.faults, unready=self.unready, metrics=self.metrics.text, remarks=self.remarks)
        health.start()
        return health

    def _make_page(self) -> Any:
        """The page for people, which answers; None where there is none."""
        if self.config.page is None:
            return None
        from medfm_compress.runtime.node.open_page import open_page

        return open_page(self.config, self.reader, self.spool, self.audit, self.faults)

    def _make_ways_in(self) -> list[Any]:
        config = self.config
        ways: list[Any] = []
        if config.watch is not None:
            from medfm_compress.runtime.node.watch_folder import WatchFolder

            ways.append(WatchFolder(config.watch, self.spool, self.audit, self.metrics))
        if config.stow is not None:
            from medfm_compress.runtime.node.stow import Stow

            ways.append(Stow(config, self.spool, self.audit, self.metrics))
        ways.append(
            Receiver(config, self.spool, self.audit, self.metrics, commitment=self._answers, reports=self._reports)
        )  # the last: who reaches it finds the others there
        return ways

    def _fail(self, dead: list[str], stuck: list[str]) -> int:
        """Say what ended; where a part is stuck nothing waits for it any more."""
        for name in (*dead, *stuck):
            _log.critical(
                "%s %s; the node ends, and has to be started again", name, "has ended" if name in dead else "is stuck"
            )
        with suppress(OSError):
            self.audit.record("failed", durable=True, parts=[*dead, *stuck])
        if stuck:
            os._exit(EXIT_INTERNAL)
        return EXIT_INTERNAL


def run(config: NodeConfig) -> int:
    """Run a node until a signal ends it; the exit code.

    Raises:
        MedfmError: it cannot be started; see `Node`.
    """
    folder = Path(config.folder)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as exc:
        raise InputError(f"folder: cannot make {folder}: {in_one_line(exc)}; give another") from None
    set_up_log(config.operate.log, config.operate.log_level, Marks.of_folder(folder))
    node = Node(config)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, node.end)
    try:
        node.start()
        return node.wait()
    finally:
        node.stop()


def _stop_all(parts: list[tuple[Any, float]], until: float) -> None:
    """Stop parts side by side, each within its share of the time that is left."""
    threads = []
    for part, share in parts:
        left = max(0.5, share * (until - time.monotonic()))
        threads.append(threading.Thread(target=part.stop, args=(left,), daemon=True))
        threads[-1].start()
    for thread in threads:
        thread.join(max(1.0, until - time.monotonic() + 1.0))


def _is_alive(part: Any) -> bool:
    alive = part.is_alive
    return bool(alive() if callable(alive) else alive)


def _names(config: NodeConfig) -> list[str]:
    return [*(pacs.name for pacs in config.pacs), *(fhir.name for fhir in config.fhir)]


def _version() -> str:
    from importlib.metadata import version

    return version("medfm-compress")
