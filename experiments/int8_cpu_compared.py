"""Who runs in docs/results/int8-cpu.md, and how each is opened: in this process, or as a worker that takes turns."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

PEERS = Path(__file__).resolve().parent / "peers"
SIDE = 224


class ComparedModel(msgspec.Struct, frozen=True, kw_only=True):
    """Who runs, and what.

    Attributes:
        name: e.g. ``ours-openvino``.
        backend: ``onnxruntime``, ``openvino`` or ``torch``.
        precision: as `runtime.sessions` spells it.
        files: what it opens: a model's files, or what `torch_worker` takes.
        python: interpreter of a torch worker.
        reason: why it cannot run; empty where it can.
    """

    name: str
    backend: str
    precision: str = "fp32"
    files: tuple[str, ...] = ()
    python: str = ""
    reason: str = ""


class Opened(Protocol):
    """A compared_model that runs."""

    def time(self, calls: int) -> list[float]:
        """Latencies of so many calls on the batch it was opened for, in ms."""
        ...

    def logits(self, inputs: Path, out: Path) -> NDArray[np.float32]:
        """Logits ``[n, labels]`` of the cases in ``inputs``, one at a time; a worker writes them to ``out``."""
        ...


class InProcess:
    """A session of `runtime`."""

    def __init__(self, compared_model: ComparedModel, threads: int, image: Path) -> None:
        from medfm_compress.runtime.sessions.table import open_session_from_bytes

        files = [Path(file).read_bytes() for file in compared_model.files]
        self._session = open_session_from_bytes(compared_model.backend, files, threads, compared_model.precision)
        self._image = np.load(image)
        self._name = self._session.input_names[0]

    def time(self, calls: int) -> list[float]:
        """See `Opened`."""
        spent = []
        for _ in range(calls):
            start = time.perf_counter()
            self._session.run({self._name: self._image})
            spent.append(1000 * (time.perf_counter() - start))
        return spent

    def logits(self, inputs: Path, out: Path) -> NDArray[np.float32]:
        """See `Opened`."""
        from medfm_compress.compress.quantization.fidelity import case_logits

        logits = case_logits(self._session, np.load(inputs))
        np.save(out, logits)
        return logits


class Worker:
    """A `torch_worker` process."""

    def __init__(self, compared_model: ComparedModel, threads: int, image: Path) -> None:
        self._image = image
        self._complaints = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed with the process
        batch = len(np.load(image))
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        self._process = subprocess.Popen(
            [compared_model.python, str(PEERS / "torch_worker.py"), compared_model.files[0], str(threads), str(batch)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._complaints,
            text=True,
            bufsize=1,
            env=environment,
        )
        self._read()

    def close(self) -> None:
        """End the process."""
        with suppress(BrokenPipeError):
            self._process.communicate(timeout=60)
        self._complaints.close()

    def time(self, calls: int) -> list[float]:
        """See `Opened`."""
        spent: list[float] = self._ask({"calls": calls, "image": str(self._image)})["ms"]
        return spent

    def logits(self, inputs: Path, out: Path) -> NDArray[np.float32]:
        """See `Opened`."""
        self._ask({"inputs": str(inputs), "out": str(out)})
        return np.load(out).astype(np.float32)  # type: ignore[no-any-return]

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None  # noqa: S101 - a pipe was asked for
        self._process.stdin.write(json.dumps(request) + "\n")
        return self._read()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None  # noqa: S101 - a pipe was asked for
        line = self._process.stdout.readline()
        if not line:
            code = self._process.wait()
            self._complaints.seek(0)
            error = self._complaints.read().strip().splitlines()
            raise RuntimeError(error[-1] if error else f"the worker ended with {code}")
        answer: dict[str, Any] = json.loads(line)
        return answer


@contextmanager
def opened(
    compared: list[ComparedModel], threads: int, image: Path
) -> Iterator[tuple[dict[str, Opened], dict[str, str]]]:
    """Open all that can be; name → what runs, and name → why not."""
    running: dict[str, Opened] = {}
    failed = {compared_model.name: compared_model.reason for compared_model in compared if compared_model.reason}
    with ExitStack() as stack:
        for compared_model in compared:
            if compared_model.reason:
                continue
            try:
                if compared_model.backend == "torch":
                    worker = Worker(compared_model, threads, image)
                    stack.callback(worker.close)
                    running[compared_model.name] = worker
                else:
                    running[compared_model.name] = InProcess(compared_model, threads, image)
                running[compared_model.name].time(1)
            except Exception as exc:  # noqa: BLE001 - whatever a peer's model does is a result, not our failure
                running.pop(compared_model.name, None)
                failed[compared_model.name] = " ".join(str(exc).split())[:200] or type(exc).__name__
        yield running, failed


def pin(threads: int) -> None:
    """Bind this process, and the workers that it starts, to the last ``threads`` CPUs that it may use."""
    cpus = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, set(cpus[-threads:]))


FLOATS = (
    ("pytorch-fp32", "torch", "fp32"),
    ("onnxruntime-fp32", "onnxruntime", "fp32"),
    ("openvino-fp32", "openvino", "fp32"),
    ("openvino-bf16", "openvino", "bf16"),
)
"""What nobody quantized."""

PEER_FORMS = {
    "ort-static": ("onnxruntime", ".onnx"),
    "ort-dynamic": ("onnxruntime", ".onnx"),
    "nncf-onnxruntime": ("onnxruntime", ".onnx"),
    "optimum-static": ("onnxruntime", ".onnx"),
    "modelopt": ("onnxruntime", ".onnx"),
    "nncf-openvino": ("openvino", ".xml"),
    "torchao": ("torch", ".pt2"),
}
"""Peer → where its artefact runs, and in what form it is."""
OURS = ("ours-onnxruntime", "ours-openvino")


def compared_models(
    work: Path, model: Path, pythons: dict[str, str], batch: int, form: str = "plain"
) -> list[ComparedModel]:
    """Everybody, on the graphs of one form (``plain`` or ``stress``) and batch."""
    graph = work / f"{form}-b{batch}.onnx"
    result = [
        ComparedModel(
            name=name,
            backend=backend,
            precision=precision,
            files=(str(model),) if backend == "torch" else (str(graph),),
            python=pythons["torch"] if backend == "torch" else "",
        )
        for name, backend, precision in FLOATS
        if form == "plain" or backend == "onnxruntime"
    ]
    result += [_ours(work, name, batch, form) for name in OURS]
    return result + [_peer(work, name, pythons, batch, form) for name in PEER_FORMS]


def _ours(work: Path, name: str, batch: int, form: str) -> ComparedModel:
    backend = name.partition("-")[2]
    about = work / "ours" / f"{form}-{backend}.json"
    if not about.is_file():
        return ComparedModel(name=name, backend=backend, reason="was not made")
    made = json.loads(about.read_text())
    files = tuple(str(about.parent / file) for file in made["files"][str(batch)])
    return ComparedModel(name=name, backend=backend, precision=made["precision"], files=files)


def _peer(work: Path, name: str, pythons: dict[str, str], batch: int, form: str) -> ComparedModel:
    backend, suffix = PEER_FORMS[name]
    path = work / "peers" / f"{name}-{form}-b{batch}{suffix}"
    python = pythons.get(name, "")
    about = path.with_suffix(".json")
    if backend == "torch" and form != "plain":
        return ComparedModel(name=name, backend=backend, reason="takes a module, and the stress is one of the graph")
    reason = json.loads(about.read_text())["reason"] if about.is_file() else f"was not made for batch {batch}"
    files = (str(path), str(path.with_suffix(".bin"))) if suffix == ".xml" else (str(path),)
    return ComparedModel(name=name, backend=backend, precision="int8", files=files, python=python, reason=reason)
