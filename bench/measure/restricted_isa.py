"""Latency in OpenVINO on a lesser CPU than this one: its kernels obey ``ONEDNN_MAX_CPU_ISA``, read once a process.

So the models are timed in a fresh process, in turns. What stays of the larger CPU is its clock and its caches; a ratio
between two models carries over better than a time. ONNX Runtime has no such switch.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Literal, NamedTuple

import msgspec
import numpy as np

from medfm_compress.runtime.errors import InputError, MedfmError
from medfm_compress.runtime.sessions import openvino

Isa = Literal["AVX2", "AVX512_CORE", "DEFAULT"]
"""The first two are without VNNI (``AVX512_CORE`` is AVX-512 F, BW, VL and DQ); ``DEFAULT`` is this CPU as it is."""

_WARM_UP = 3
_TIMEOUT_S = 600


class Model(NamedTuple):
    """An OpenVINO IR (``.xml``, ``.bin``) or one ONNX file, and the precision to run it in."""

    contents: tuple[bytes, ...]
    precision: str


class _Job(msgspec.Struct, frozen=True):
    models: list[tuple[str, str]]
    shape: tuple[int, ...]
    rounds: int
    threads: int


def p50_ms_on(
    isa: Isa, models: Sequence[Model], shape: tuple[int, ...], rounds: int = 20, threads: int = 1
) -> tuple[float, ...]:
    """Median latency in ms of each model with the instructions of ``isa`` alone, one call each a round.

    Args:
        isa: largest instruction set that the kernels may use; a CPU that lacks it is timed as it is.
        models: to be timed against each other.
        shape: of their one input, e.g. ``(1, 3, 224, 224)``.
        rounds: that count, >= 1.
        threads: of the sessions, >= 1.

    Raises:
        InputError: a model cannot run there, e.g. because its precision needs other instructions.
    """
    with tempfile.TemporaryDirectory() as folder:
        paths = [_write(Path(folder) / str(number), model.contents) for number, model in enumerate(models)]
        named = [(path, model.precision) for path, model in zip(paths, models, strict=True)]
        job = msgspec.json.encode(_Job(named, shape, rounds, threads))
        command = [sys.executable, "-m", __name__]
        environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": isa}
        done = subprocess.run(command, input=job, env=environment, capture_output=True, timeout=_TIMEOUT_S, check=False)
    if done.returncode:
        complaint = done.stderr.decode(errors="replace").strip().splitlines() or ["it left no message"]
        raise InputError(f"a model cannot be timed with {isa}: {complaint[-1][:300]}")
    return tuple(json.loads(done.stdout.splitlines()[-1]))


def _write(stem: Path, contents: tuple[bytes, ...]) -> str:
    suffixes = (".onnx",) if len(contents) == 1 else (".xml", ".bin")
    for suffix, content in zip(suffixes, contents, strict=True):
        stem.with_suffix(suffix).write_bytes(content)
    return str(stem.with_suffix(suffixes[0]))


def _time(job: _Job) -> list[float]:
    sessions = [openvino.open_session(path, job.threads, precision) for path, precision in job.models]
    image = np.random.default_rng(0).standard_normal(job.shape, dtype=np.float32)
    samples: list[list[float]] = [[] for _ in sessions]
    for number in range(_WARM_UP + job.rounds):
        for session, values in zip(sessions, samples, strict=True):
            start = time.perf_counter()
            session.run({session.input_names[0]: image})
            if number >= _WARM_UP:
                values.append((time.perf_counter() - start) * 1e3)
    return [median(values) for values in samples]


def main() -> int:
    """Time the job on standard input; the answer is the last line of standard output."""
    try:
        answer = _time(msgspec.json.decode(sys.stdin.buffer.read(), type=_Job))
    except MedfmError as exc:
        sys.stderr.write(f"{exc}\n")
        return exc.exit_code
    sys.stdout.write(json.dumps(answer) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
