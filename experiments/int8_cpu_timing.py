"""One cell of docs/results/int8-cpu.md: everybody timed in turns, each in processes of its own, on so many CPUs.

python int8_cpu_timing.py CELL.json OUT.json

After a warm-up, round r asks each model in turn (A B C, A B C, …), so that whatever drifts on the machine meets all
of them alike; the ratios are taken over rounds (`bench.speedup`). A turn is one call for a slow network and several for
a fast one, behind one that is not recorded, because the turn before has emptied the caches. A turn in which the
machine was not at its full speed is taken again (`FullSpeed`). Some engines are faster in one process than in the next,
so all processes are started anew after each share of the rounds.
"""

from __future__ import annotations

import sys
from functools import partial
from itertools import islice
from pathlib import Path
from statistics import median

import msgspec

from int8_cpu_compared import ComparedModel, Worker, opened, pin
from int8_cpu_quiet import FullSpeed, Quiet, watched_machine
from medfm_compress.bench.measure.stopwatch import drawn_order

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
        processes: of each model, one after another.
    """

    compared: list[ComparedModel]
    threads: int
    image: str
    budget_s: float = 20.0
    turn_ms: float = 40.0
    processes: int = 2


class Timed(msgspec.Struct, frozen=True, kw_only=True):
    """Raw samples: compared_model → latencies in ms, ``calls`` of them a round; and why others could not run.

    ``cpu_ms`` are medians of the processor time of a call in each of its processes.
    """

    samples: dict[str, list[float]]
    cpu_ms: dict[str, list[float]]
    calls: dict[str, int]
    failed: dict[str, str]
    quiet: Quiet


def time_cell(cell: Cell) -> Timed:
    """Open, warm up, and time in turns, as often as there are to be processes."""
    pin(cell.threads)
    samples: dict[str, list[float]] = {}
    cpu_ms: dict[str, list[float]] = {}
    calls: dict[str, int] = {}
    failed: dict[str, str] = {}
    with watched_machine() as quiet:
        full_speed = FullSpeed(quiet)
        for _ in range(cell.processes):
            able = [entry for entry in cell.compared if entry.name not in failed]
            with opened(able, cell.threads, Path(cell.image)) as (running, reasons):
                failed |= reasons
                expected = {name: median(entry.time(_WARM_UP)[0][1:]) for name, entry in running.items()}
                calls = calls or {name: _calls(cell, ms) for name, ms in expected.items()}
                spent: dict[str, list[float]] = {name: [] for name in running}
                names = list(running)
                for order in islice(drawn_order(len(names)), rounds_of(cell, expected, calls)):
                    for name, entry in ((names[number], running[names[number]]) for number in order):
                        wall, cpu = full_speed.turn(partial(take_turn, entry, calls[name]))
                        samples.setdefault(name, []).extend(wall)
                        spent[name] += cpu
                for name, values in spent.items():
                    cpu_ms.setdefault(name, []).append(round(median(values), 3))
    for name in failed:  # one that did not open again has fewer rounds than the others
        samples.pop(name, None)
    failed |= {entry.name: entry.reason for entry in cell.compared if entry.reason}
    return Timed(samples=samples, cpu_ms=cpu_ms, calls=calls, failed=failed, quiet=quiet)


def _calls(cell: Cell, ms: float) -> int:
    return min(max(int(cell.turn_ms / ms), 1), _MOST_CALLS)


def rounds_of(cell: Cell, expected: dict[str, float], calls: dict[str, int]) -> int:
    """Rounds of one set of processes, given each model's latency in ms and its calls a turn."""
    if not expected:
        return 0
    turn_s = sum(ms * (calls[name] + 1) for name, ms in expected.items()) / 1000
    least = LEAST_ROUNDS if turn_s < SLOW_ROUND_S else LEAST_SLOW_ROUNDS
    whole = min(max(int(cell.budget_s / turn_s), least), MOST_ROUNDS)
    return -(-whole // cell.processes)


def take_turn(worker: Worker, calls: int) -> tuple[list[float], list[float]]:
    """The recorded latencies and processor times of one turn, in ms, to the microsecond."""
    worker.time(1)
    wall, cpu = worker.time(calls)
    return [round(ms, 3) for ms in wall], [round(ms, 3) for ms in cpu]


if __name__ == "__main__":
    requested = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Cell)
    Path(sys.argv[2]).write_bytes(msgspec.json.encode(time_cell(requested)))
