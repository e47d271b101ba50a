"""Counters, gauges and histograms in the text format of Prometheus (exposition format 0.0.4), without a dependency.

Labels are words of ours: names of destinations, states, reasons. What a stranger chooses never becomes a label, and a
name has at most `MAX_SERIES` of them, so that nobody outside can make memory grow.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType

PREFIX = "medfm_node_"
MAX_SERIES = 200
BUCKETS_S = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 3600.0)
HELP: Mapping[str, str] = MappingProxyType(
    {
        "received_total": "Images that were acknowledged, by the way they came in.",
        "refused_total": "Associations and objects that were not accepted, by reason.",
        "read_total": "Images that were read, by outcome.",
        "quarantined_total": "Images that went into quarantine when they were read, by reason.",
        "read_seconds": "From the claim of an image to its durable results.",
        "deliveries_sent_total": "Results that a destination took.",
        "deliveries_retried_total": "Attempts that a destination refused for the moment.",
        "deliveries_refused_total": "Results that went into quarantine, by destination and reason.",
        "deliveries_committed_total": "Results whose storage a destination has committed.",
        "destination_pauses_total": "Times that a destination was left alone for a while.",
        "commitments_requested_total": "Requests for storage commitment that were sent.",
        "commitments_refused_total": "Requests for storage commitment that a destination did not take.",
        "commitments_failed_total": "Results that a destination did not commit.",
        "commitment_requests_total": "Requests for storage commitment of senders, by the status they were answered.",
        "delivered_seconds": "From the receipt of an image to the destination's answer to a result of it.",
        "instances": "Images in the spool, by state.",
        "deliveries": "Results in the spool, by destination and state.",
        "quarantine": "Images in quarantine, by reason.",
        "spool_bytes": "Size of all that the spool holds.",
        "oldest_waiting_seconds": "Age of the image that waits longest.",
        "engine_ready": "1 while the engine reads images.",
        "resident_bytes": "Memory of this process.",
        "start_time_seconds": "When this process began, seconds since 1970.",
    }
)
_Labels = tuple[tuple[str, str], ...]


class Metrics:
    """What the node counts; safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counters: dict[str, dict[_Labels, float]] = {}
        self._gauges: dict[str, dict[_Labels, float]] = {}
        self._histograms: dict[str, dict[_Labels, _Histogram]] = {}

    def count(self, name: str, by: float = 1, /, **labels: object) -> None:
        """Add to a counter; its name ends in ``_total`` where it is shown."""
        name = name if name.endswith("_total") else f"{name}_total"
        with self._lock:
            series = self._counters.setdefault(name, {})
            key = _key(series, labels)
            series[key] = series.get(key, 0.0) + by

    def gauge(self, name: str, value: float, /, **labels: object) -> None:
        """Set a gauge."""
        with self._lock:
            series = self._gauges.setdefault(name, {})
            series[_key(series, labels)] = float(value)

    def gauges(self, name: str, values: Mapping[_Labels, float]) -> None:
        """Set all series of a gauge; those that are not named are gone."""
        with self._lock:
            self._gauges[name] = {key: float(values[key]) for key in list(values)[:MAX_SERIES]}

    def observe(self, name: str, seconds: float, /, **labels: object) -> None:
        """Add a duration to a histogram."""
        with self._lock:
            series = self._histograms.setdefault(name, {})
            series.setdefault(_key(series, labels), _Histogram()).add(seconds)

    def value(self, name: str, /, **labels: object) -> float:
        """Of a counter or gauge; 0 where it was never set."""
        key = tuple(sorted((label, str(value)) for label, value in labels.items()))
        with self._lock:
            return self._counters.get(name, {}).get(key, self._gauges.get(name, {}).get(key, 0.0))

    def text(self) -> str:
        """Everything, as Prometheus reads it."""
        with self._lock:
            blocks = [
                *(_block(name, "counter", _lines(name, series)) for name, series in self._counters.items()),
                *(_block(name, "gauge", _lines(name, series)) for name, series in self._gauges.items()),
                *(
                    _block(
                        name, "histogram", (line for key, value in series.items() for line in value.lines(name, key))
                    )
                    for name, series in self._histograms.items()
                ),
            ]
        return "".join(sorted(blocks))


class _Histogram:
    def __init__(self) -> None:
        self.counts, self.sum = [0] * (len(BUCKETS_S) + 1), 0.0

    def add(self, seconds: float) -> None:
        self.counts[bisect_left(BUCKETS_S, seconds)] += 1
        self.sum += seconds

    def lines(self, name: str, key: _Labels) -> Iterator[str]:
        total = 0
        for edge, count in zip((*map(str, BUCKETS_S), "+Inf"), self.counts, strict=True):
            total += count
            yield _line(f"{name}_bucket", (*key, ("le", edge)), total)
        yield _line(f"{name}_sum", key, self.sum)
        yield _line(f"{name}_count", key, total)


def _key(series: Mapping[_Labels, object], labels: Mapping[str, object]) -> _Labels:
    key = tuple(sorted((name, str(value)) for name, value in labels.items()))
    if key in series or len(series) < MAX_SERIES:
        return key
    return tuple((name, "other") for name, _ in key)


def _block(name: str, kind: str, lines: Iterable[str]) -> str:
    words = HELP.get(name, name.replace("_", " "))
    return f"# HELP {PREFIX}{name} {words}\n# TYPE {PREFIX}{name} {kind}\n" + "".join(lines)


def _lines(name: str, series: Mapping[_Labels, float]) -> Iterator[str]:
    return (_line(name, key, value) for key, value in series.items())


def _line(name: str, key: _Labels, value: float) -> str:
    labels = ",".join(f'{label}="{_escaped(text)}"' for label, text in key)
    number = str(int(value)) if value == int(value) else repr(value)
    return f"{PREFIX}{name}{f'{{{labels}}}' if labels else ''} {number}\n"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
