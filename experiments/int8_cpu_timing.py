"""One cell of docs/results/int8-cpu.md: everybody timed in turns, in this fresh process, on so many CPUs.

python int8_cpu_timing.py CELL.json OUT.json

After a warm-up, round r asks each model in turn (A B C, A B C, …), so that whatever drifts on the machine meets all
of them alike; the ratios are taken over rounds (`bench.speedup`). A turn is one call for a slow network and several for
a fast one; the first of several is not recorded, because the one before has emptied the caches.
"""

from __future__ import annotations

import sys
from pathlib import Path
from statistics import median

import msgspec

from int8_cpu_compared import ComparedModel, Opened, opened, pin

LEAST_ROUNDS = 10
LEAST_SLOW_ROUNDS = 6
SLOW_ROUND_S = 8.0
MOST_ROUNDS = 40
_WARM_UP = 3
_MOST_CALLS = 5


class Cell(msgspec.Struct, frozen=True, kw_only=True):
    """What to time.

    Attributes:
        compared: in the order of their turns.
        threads: of each engine, and CPUs of this process.
        image: ``.npy`` of ``[batch, C, H, W]``.
        budget_s: of all turns together, roughly; at least 10 rounds are run all the same, 6 of a very slow network.
        turn_ms: of one turn.
    """

    compared: list[ComparedModel]
    threads: int
    image: str
    budget_s: float = 20.0
    turn_ms: float = 40.0


class Timed(msgspec.Struct, frozen=True, kw_only=True):
    """Raw samples: compared_model → latencies in ms, ``calls`` of them a round; and why others could not run."""

    samples: dict[str, list[float]]
    calls: dict[str, int]
    failed: dict[str, str]


def time_cell(cell: Cell) -> Timed:
    """Open, warm up, and time in turns."""
    pin(cell.threads)
    with opened(cell.compared, cell.threads, Path(cell.image)) as (running, failed):
        expected = {name: median(entry.time(_WARM_UP)[1:]) for name, entry in running.items()}
        calls = {name: min(max(int(cell.turn_ms / ms), 1), _MOST_CALLS) for name, ms in expected.items()}
        turn_s = sum(expected[name] * (calls[name] + (calls[name] > 1)) for name in running) / 1000
        least = LEAST_ROUNDS if turn_s < SLOW_ROUND_S else LEAST_SLOW_ROUNDS
        rounds = min(max(int(cell.budget_s / turn_s), least), MOST_ROUNDS) if running else 0
        samples: dict[str, list[float]] = {name: [] for name in running}
        for _ in range(rounds):
            for name, entry in running.items():
                samples[name] += take_turn(entry, calls[name])
    return Timed(samples=samples, calls=calls, failed=failed)


def take_turn(compared_model: Opened, calls: int) -> list[float]:
    """The recorded latencies of one turn, in ms, to the microsecond."""
    if calls > 1:
        compared_model.time(1)
    return [round(ms, 3) for ms in compared_model.time(calls)]


if __name__ == "__main__":
    requested = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Cell)
    Path(sys.argv[2]).write_bytes(msgspec.json.encode(time_cell(requested)))
