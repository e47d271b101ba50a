"""One model in a process of its own: opens a session and times it when told to.

Requests and replies are JSON lines on standard input and output. Whatever a library prints goes to standard error, so
that it can never be mistaken for a reply. Run by `measure` as ``python -m medfm_compress.bench.measure.worker``.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Iterator
from typing import IO

import msgspec

from medfm_compress.bench.measure.onnx_io import inspect_onnx
from medfm_compress.bench.measure.opened_model import OpenedModel
from medfm_compress.bench.measure.requests import Inspect, Open, Reply, Request

_PR_SET_PDEATHSIG = 1


def _private_stdout() -> IO[bytes]:
    """The real standard output for replies alone; descriptor 1 becomes standard error for everyone else."""
    replies = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    return replies


def die_with_parent() -> None:
    """A worker that is stopped between its turns could not see its parent die; the kernel ends it (Linux only)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def serve(lines: Iterator[bytes], replies: IO[bytes]) -> None:
    """Answer requests until ``lines`` end; an error is answered and ends it."""
    model: OpenedModel | None = None
    for line in lines:
        try:
            request = msgspec.json.decode(line, type=Request)
            if isinstance(request, Inspect):
                reply = Reply(graph=inspect_onnx(request.model, request.shape, request.widths))
            elif isinstance(request, Open):
                model = OpenedModel(request)
                reply = model.opened()
            elif model is None:
                reply = Reply(error="no session is open")
            else:
                reply = model.answer(request)
        except Exception as exc:  # noqa: BLE001 - whatever an engine raises is for the parent to report
            reply = Reply(error=" ".join(str(exc).split()) or type(exc).__name__)
        replies.write(msgspec.json.encode(reply) + b"\n")
        if reply.error:
            return


def main() -> None:
    """Serve the parent process."""
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt is the parent's to handle
    serve(iter(sys.stdin.buffer.readline, b""), _private_stdout())


if __name__ == "__main__":
    main()
