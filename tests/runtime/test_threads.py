"""A map over threads: in order, lazily, and ended by an interrupt or an error."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from medfm_compress.runtime.threads import map_in_threads


def test_results_come_in_order_from_several_threads() -> None:
    seen: set[int] = set()
    both = threading.Barrier(2, timeout=30)

    def square(number: int) -> int:
        seen.add(threading.get_ident())
        if number < 2:
            both.wait()
        return number * number

    assert list(map_in_threads(square, range(200), 2)) == [number * number for number in range(200)]
    assert len(seen) == 2
    assert list(map_in_threads(square, [], 2)) == []


@pytest.mark.parametrize("together", [3, 8, 500])
def test_one_thread_takes_several_items_where_that_is_asked_for(together: int) -> None:
    threads: dict[int, int] = {}

    def note(number: int) -> int:
        threads[number] = threading.get_ident()
        return -number

    assert list(map_in_threads(note, iter(range(200)), 2, together)) == [-number for number in range(200)]
    for first in range(0, 200, together):
        assert len({threads[number] for number in range(first, min(first + together, 200))}) == 1


def test_few_items_are_shared_among_the_threads() -> None:
    both = threading.Barrier(2, timeout=30)

    def meet(number: int) -> int:
        if number in (0, 2):
            both.wait()  # for ever, if one thread had both
        return number

    assert list(map_in_threads(meet, [0, 1, 2, 3], 2, 16)) == [0, 1, 2, 3]


def test_a_group_that_has_begun_ends_with_the_item_at_hand() -> None:
    begun, go_on = threading.Event(), threading.Event()
    done: list[int] = []

    def work(number: int) -> int:
        if number == 8:
            begun.set()
            go_on.wait(30)
        done.append(number)
        return number

    results = map_in_threads(work, iter(range(1_000)), 1, 8)
    next(results)
    assert begun.wait(30)
    results.close()
    go_on.set()
    for thread in threading.enumerate():
        if thread.name.startswith("ThreadPoolExecutor"):
            thread.join(30)
    assert done == list(range(9))


def test_few_groups_are_ahead_of_who_takes_the_results() -> None:
    taken: list[int] = []

    def items():
        for number in range(1_000):
            taken.append(number)
            yield number

    results = map_in_threads(lambda number: number, items(), 2, 8)
    assert next(results) == 0
    assert len(taken) <= 4 * 8


def test_items_are_taken_as_they_are_needed_and_nothing_begins_after_an_error() -> None:
    taken: list[int] = []

    def items():
        for number in range(10_000):
            taken.append(number)
            yield number

    def fail_at_three(number: int) -> int:
        if number == 3:
            raise ValueError("three")
        return number

    results = map_in_threads(fail_at_three, items(), 2)
    assert next(results) == 0
    assert len(taken) < 20
    with pytest.raises(ValueError, match="three"):
        list(results)
    assert len(taken) < 30


# A process that was started in the background may have inherited that interrupts are ignored.
POOL = """
import signal
import time
import numpy as np
from types import SimpleNamespace
from medfm_compress.compress.quantization.fidelity import case_logits

def run(inputs):
    time.sleep(0.05)
    return {"y": np.zeros((1, 2), np.float32)}

session = SimpleNamespace(run=run, input_names=("x",), output_names=("y",), info=SimpleNamespace(threads=1))
signal.signal(signal.SIGINT, signal.default_int_handler)
print("ready", flush=True)
case_logits(session, np.zeros((100_000, 1, 1, 1), np.float32))
"""


@pytest.mark.skipif(os.name != "posix", reason="sends SIGINT")
def test_a_pool_ends_soon_after_it_is_interrupted() -> None:
    command = [sys.executable, "-c", POOL]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            time.sleep(0.5)
            process.send_signal(signal.SIGINT)
            # 100,000 cases would take an hour.
            assert process.wait(timeout=60) != 0
        finally:
            process.kill()
