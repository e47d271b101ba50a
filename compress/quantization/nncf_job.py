"""Have NNCF quantize one graph, in a process of its own.

NNCF imports PyTorch where it finds it, reports home through OpenVINO's telemetry, prints progress bars, replaces
Python's class of loggers, and cannot be told to stop. In a process of its own PyTorch and the telemetry are hidden,
what it prints is nobody's, its memory is returned, and it ends with the search's deadline.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from medfm_compress.bench.measure.worker_process import run_module
from medfm_compress.compress.quantization.methods import Method
from medfm_compress.compress.quantization.nncf_settings import NncfSettings
from medfm_compress.compress.quantization.stored_weights import REDUCED_LIMIT, largest_weight
from medfm_compress.runtime.bundle.manifest import Backend
from medfm_compress.runtime.errors import ModelError, in_one_line
from medfm_compress.runtime.scratch_folder import scratch_folder
from medfm_compress.runtime.task import Task

JOB, GRAPH, INPUTS, REPLY = "job.json", "graph.onnx", "inputs.npy", "reply.json"
"""Files of a job's folder; the result's are named 0 and 1, in order."""
_WORKER = "medfm_compress.compress.quantization.nncf_worker"
_PASSIVE = {"OMP_WAIT_POLICY": "PASSIVE", "TOKENIZERS_PARALLELISM": "false"}
_LONGEST_S = 3600.0


class NncfJob(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the process is to do; see `Method` for the fields that have its names.

    Attributes:
        backend: whose model NNCF gets, and whose files come out.
        settings: see `NncfSettings`.
        task: what logits mean, for accuracy control.
    """

    backend: Backend
    settings: NncfSettings
    weight_bits: int
    excluded: tuple[str, ...]
    reduced: bool
    task: Task | None

    @classmethod
    def of(cls, method: Method, backend: Backend, task: Task | None) -> NncfJob:
        """The job that makes ``method``."""
        return cls(
            backend=backend,
            settings=method.nncf or NncfSettings(),
            weight_bits=method.weight_bits,
            excluded=method.excluded,
            reduced=method.reduced,
            task=task,
        )


class NncfReply(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What became of it: ``error`` is one sentence, empty where there are ``files``."""

    error: str = ""
    files: int = 0


def quantize_with_nncf(onnx: bytes, inputs: NDArray[np.float32], job: NncfJob, deadline: float) -> tuple[bytes, ...]:
    """The contents of the candidate's files: ``.onnx``, or an IR's ``.xml`` and ``.bin``.

    Args:
        onnx: the float graph.
        inputs: ``[n, C, H, W]``, normalised; all of them calibrate.
        job: what to do.
        deadline: `time.monotonic` at which the process is ended.

    Raises:
        ModelError: NNCF raised, died, or was not done in time; or weights of 7 bits were asked for and are none.
    """
    with scratch_folder("medfm-nncf-") as folder:
        (folder / JOB).write_bytes(msgspec.json.encode(job))
        (folder / GRAPH).write_bytes(onnx)
        np.save(folder / INPUTS, inputs, allow_pickle=False)
        _run(folder, min(deadline - time.monotonic(), _LONGEST_S))
        reply = msgspec.json.decode((folder / REPLY).read_bytes(), type=NncfReply)
        if reply.error:
            raise ModelError(f"NNCF does not quantize it: {reply.error}")
        contents = tuple((folder / str(number)).read_bytes() for number in range(reply.files))
    if job.reduced:
        _check_reduced(contents)
    return contents


def _run(folder: Path, timeout_s: float) -> None:
    command = [sys.executable, *run_module(_WORKER), str(folder)]
    environment = {**os.environ, **_PASSIVE}
    with tempfile.TemporaryFile() as words:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=words, stderr=words, env=environment)
        try:
            process.wait(max(timeout_s, 0.0))
        except subprocess.TimeoutExpired:
            raise ModelError("NNCF was ended, since the time budget was used up") from None
        finally:  # an interrupt, too
            process.kill()
            process.wait()
        if not (folder / REPLY).exists():
            words.seek(0)
            lines = [line for line in words.read().decode(errors="replace").splitlines() if line.strip()]
            how = f"signal {-process.returncode}" if process.returncode < 0 else f"code {process.returncode}"
            raise ModelError(f"NNCF's process ended with {how}: {in_one_line(lines[-1] if lines else 'no message')}")


def _check_reduced(contents: tuple[bytes, ...]) -> None:
    largest = largest_weight(contents)
    if not largest <= REDUCED_LIMIT:
        what = f"reach ±{largest:g}" if np.isfinite(largest) else "are not all stored as integers"
        raise ModelError(f"the weights that NNCF wrote {what}; without VNNI they must stay within ±{REDUCED_LIMIT}")
