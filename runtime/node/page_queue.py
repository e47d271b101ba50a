"""The node as its page shows it: what waits, what was found with the urgent first, what was set aside, and replay."""

from __future__ import annotations

from collections.abc import Callable, Collection

from medfm_compress.runtime.node.audit import Audit
from medfm_compress.runtime.node.last_results import LastResult, LastResults
from medfm_compress.runtime.node.overview import entry_name, numbers_of
from medfm_compress.runtime.node.spool.spool import Spool
from medfm_compress.runtime.page.queue import QueueView, ReadImage, SetAside, WaitingImage
from medfm_compress.runtime.remarks import flag_in_words

MOST = 200


class PageQueue:
    """A `Queue` of the running node."""

    def __init__(
        self,
        spool: Spool,
        results: LastResults,
        audit: Audit,
        *,
        urgent: Collection[str],
        faults: Callable[[], list[str]],
    ) -> None:
        """Look at a node.

        Args:
            spool: of the node.
            results: of its reader.
            audit: takes down who replays.
            urgent: findings that go to the top; empty: every one that is called.
            faults: why the node is not well.
        """
        self._spool, self._results, self._audit = spool, results, audit
        self._urgent, self._faults = frozenset(urgent), faults

    def view(self) -> QueueView:
        """What there is now."""
        counts, results, quarantine = self._spool.counts(), self._results.all(), self._spool.quarantined()
        states = self._spool.delivery_states([result.number for result in results])
        read = [self._describe(result, states.get(result.number, "delivered")) for result in results]
        return QueueView(
            faults=tuple(self._faults()),
            waiting=tuple(
                WaitingImage(
                    number=image.id,
                    sender=image.arrival.sender,
                    priority=image.arrival.priority,
                    received_at=image.received_at,
                    is_being_read=image.state == "reading",
                )
                for image in self._spool.in_order(MOST)
            ),
            waiting_total=counts.instances.get("waiting", 0) + counts.instances.get("reading", 0),
            results=tuple(sorted(read, key=lambda image: not image.is_urgent)),
            quarantine=tuple(
                SetAside(
                    name=entry_name(entry),
                    what=f"result to {entry.destination}" if entry.destination else "image",
                    received_at=entry.received_at,
                    code=entry.reason_code,
                    reason=entry.reason,
                )
                for entry in quarantine[:MOST]
            ),
            quarantine_total=len(quarantine),
        )

    def replay(self, names: tuple[str, ...]) -> int:
        """Try again what is called so; how many."""
        images, deliveries = numbers_of(names)
        done = self._spool.replay(images) if images else 0
        done += self._spool.replay_deliveries(deliveries) if deliveries else 0
        self._audit.record("replayed", way="page", entries=list(names))
        return done

    def _describe(self, result: LastResult, delivery: str) -> ReadImage:
        prediction = result.prediction
        called = [name for name, is_called in prediction.findings.items() if is_called]
        if prediction.label is not None:  # of a multiclass task one class is always the most probable
            called = [name for name in called if name in self._urgent]
        called.sort(key=prediction.probabilities.__getitem__, reverse=True)
        return ReadImage(
            number=result.number,
            sender=result.sender,
            received_at=result.received_at,
            read_at=result.read_at,
            is_urgent=bool(self._urgent.intersection(called) if self._urgent else called),
            called=tuple(called) or ((prediction.label,) if prediction.label is not None else ()),
            probabilities=prediction.probabilities,
            not_reliable=prediction.not_reliable,
            flags=tuple(map(flag_in_words, prediction.flags)),
            delivery=delivery,
        )
