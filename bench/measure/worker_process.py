"""A worker process seen from the parent: start, ask, pause, end.

A worker is started with its CPUs and thread counts fixed. It is stopped by signal (``SIGSTOP``) while another has its
turn, so that no engine's idle threads can spin in the background, whatever its settings.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from types import MappingProxyType, TracebackType
from typing import IO

import msgspec

from medfm_compress.bench.measure.machine import allowed_cpus
from medfm_compress.bench.measure.requests import Reply, Request
from medfm_compress.runtime.errors import InputError

_THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)
_CAN_STOP = hasattr(signal, "SIGSTOP")


class Worker:
    """One model's process; a context manager, so that it never outlives its parent's interest."""

    def __init__(
        self, name: str, threads: int, timeout_s: float, environment: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        self.name = name
        self._timeout_s = timeout_s
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the worker
        self._replies: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._stopped = False
        self.started = time.perf_counter()
        with _pinned(threads):
            self._process = subprocess.Popen(
                [sys.executable, *run_module("medfm_compress.bench.measure.worker")],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._stderr,
                env=_environment(threads) | dict(environment),
            )
        threading.Thread(target=self._listen, daemon=True).start()

    def ask(self, request: Request) -> Reply:
        """Send ``request`` and wait for the answer; the worker runs only in between.

        Raises:
            InputError: the worker reported an error, died, or did not answer in time; names the model.
        """
        self._resume()
        pipe = self._stdin()
        with contextlib.suppress(BrokenPipeError):
            pipe.write(msgspec.json.encode(request) + b"\n")
            pipe.flush()
        try:
            line = self._replies.get(timeout=self._timeout_s)
        except queue.Empty:
            raise InputError(
                f"{self.name} did not answer within {self._timeout_s:g} s; use a smaller model or a longer timeout"
            ) from None
        if not line:
            raise InputError(self._obituary())
        reply = msgspec.json.decode(line, type=Reply)
        if reply.error:
            raise InputError(f"{self.name} cannot run: {reply.error}")
        self._pause()
        return reply

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._stderr):
            if pipe:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()

    def _stdin(self) -> IO[bytes]:
        if self._process.stdin is None:
            raise InputError(f"{self.name}: its process has no standard input")
        return self._process.stdin

    def _listen(self) -> None:
        pipe = self._process.stdout
        if pipe is None:
            return
        with pipe:
            for line in pipe:
                self._replies.put(line)
        self._replies.put(b"")

    def _pause(self) -> None:
        if _CAN_STOP:
            self._process.send_signal(signal.SIGSTOP)
            self._stopped = True

    def _resume(self) -> None:
        if self._stopped:
            self._process.send_signal(signal.SIGCONT)
            self._stopped = False

    def _obituary(self) -> str:
        code = self._process.wait()
        self._stderr.seek(0)
        lines = self._stderr.read().decode(errors="replace").split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), "it left no message")
        how = f"was ended by signal {-code}" if code < 0 else f"ended with code {code}"
        hint = " (out of memory?)" if code == -9 else ""
        return f"the process of {self.name} {how}{hint}: {last[:300]}"


def run_module(name: str) -> tuple[str, ...]:
    """Arguments that run a module without importing anything from the folder in which the user happens to stand.

    ``-m`` alone puts that folder first: a ``random.py`` there would be run, and a ``dl`` taken for a library's.
    """
    if hasattr(sys.flags, "safe_path"):  # Python 3.11
        return ("-P", "-m", name)
    return ("-c", f"import sys; del sys.path[0]; import runpy; runpy.run_module({name!r}, None, '__main__', True)")


def _environment(threads: int) -> dict[str, str]:
    # How threads wait is for the engine to say when it is timed, not for the command that started this one.
    inherited = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    return {**inherited, **dict.fromkeys(_THREAD_VARIABLES, str(threads)), "PYTHONUNBUFFERED": "1"}


@contextlib.contextmanager
def _pinned(threads: int) -> Iterator[None]:
    """Bind the calling thread to the first ``threads`` allowed CPUs while a child that inherits them is started.

    The mask belongs to the calling thread alone, so the parent's other threads do not notice. Nothing happens on a
    system without affinities.
    """
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    allowed = allowed_cpus()
    os.sched_setaffinity(0, allowed[:threads])
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)
