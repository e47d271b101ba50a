"""The first use of an engine is made by one thread at a time."""

from __future__ import annotations

import importlib
import threading
import time
from collections.abc import Callable

import numpy as np
import pytest
import tiny_bundle

from medfm_compress.runtime.sessions.first_use import ALONE, FirstUse, importing
from medfm_compress.runtime.sessions.table import open_session_from_bytes


def at_once(call: Callable[[], None], threads: int) -> None:
    workers = [threading.Thread(target=call) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(timeout=60)
        assert not worker.is_alive()


def test_the_first_call_is_made_alone_and_the_later_ones_together() -> None:
    inside, most, together = [0], [0], threading.Barrier(2, timeout=30)
    use = FirstUse()

    def first() -> None:
        inside[0] += 1
        most[0] = max(most[0], inside[0])
        time.sleep(0.05)
        inside[0] -= 1

    at_once(lambda: use(first), 4)
    # Whoever came second waited for the first to return, and the rest for it, or went on their own afterwards.
    assert most[0] <= 3
    alone = FirstUse()
    order: list[str] = []

    def recorded() -> None:
        order.append("in")
        time.sleep(0.05)
        order.append("out")

    at_once(lambda: alone(recorded), 2)
    assert order == ["in", "out", "in", "out"]
    # Used by now: two calls that wait for each other both come through.
    at_once(lambda: alone(lambda: together.wait() and None), 2)


def test_a_failed_first_call_does_not_count() -> None:
    use = FirstUse()

    def fail() -> None:
        raise ValueError

    with pytest.raises(ValueError):
        use(fail)
    assert not use._done
    assert use(lambda: 1) == 1
    assert use._done


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_a_session_waits_for_the_lock_before_its_first_run_and_never_after(backend: str) -> None:
    session = open_session_from_bytes(backend, [tiny_bundle.network()], 1, "fp32")
    inputs = {session.input_names[0]: np.zeros(tiny_bundle.SPEC.shape, np.float32)}
    done = threading.Event()

    def run() -> None:
        session.run(inputs)
        done.set()

    with ALONE:
        worker = threading.Thread(target=run)
        worker.start()
        assert not done.wait(0.2)
    worker.join(timeout=30)
    assert done.is_set()
    done.clear()
    with ALONE:
        at_once(run, 2)
        assert done.is_set()


def test_an_interrupt_that_a_binding_hides_in_an_import_error_is_an_interrupt() -> None:
    def load() -> None:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt as exc:
            raise ImportError("initialization failed") from exc

    with pytest.raises(KeyboardInterrupt), importing():
        load()


def test_an_engine_that_is_not_installed_stays_an_import_error() -> None:
    with pytest.raises(ImportError, match="no_such_engine"), importing():
        importlib.import_module("no_such_engine")
