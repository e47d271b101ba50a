"""Who runs in docs/results/int8-cpu.md, and how each is opened: a worker process that takes turns with the others."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from int8_cpu_network import load_network

PEERS_FOLDER = Path(__file__).resolve().parent / "peers"
TORCH = "torch"
EAGER = "pytorch-fp32"


class ComparedModel(msgspec.Struct, frozen=True, kw_only=True):
    """Who runs, and what.

    Attributes:
        name: e.g. ``ours-openvino``.
        backend: ``onnxruntime``, ``openvino``, or the peer's own runtime.
        precision: as `runtime.sessions` spells it.
        files: what it opens: a model's files, or what `peers/network_worker.py` takes.
        python: interpreter of its worker; empty for this one.
        reason: why it cannot run; empty where it can.
    """

    name: str
    backend: str
    precision: str = "fp32"
    files: tuple[str, ...] = ()
    python: str = ""
    reason: str = ""


class Peer(NamedTuple):
    """Another tool's INT8.

    Attributes:
        script: in `peers`.
        environment: that `peers/setup.sh` makes for it.
        backend: where its artefact runs.
        suffix: of its artefact.
        options: further words for the script.
        module: it takes the PyTorch module, not the graph.
        single: batch 1 only.
        few: it gets 16 calibration cases, because it wants every activation in memory, or minutes.
        precision: of the session; ``default`` is what OpenVINO takes by itself on this CPU.
        artefact: name of the peer that makes its file, where another one does.
    """

    script: str
    environment: str
    backend: str
    suffix: str = ".onnx"
    options: tuple[str, ...] = ()
    module: bool = False
    single: bool = False
    few: bool = False
    precision: str = "int8"
    artefact: str = ""


FLOATS = (
    (EAGER, TORCH, "fp32"),
    ("pytorch-bf16", TORCH, "bf16"),
    ("onnxruntime-fp32", "onnxruntime", "fp32"),
    ("openvino-fp32", "openvino", "fp32"),
    ("openvino-bf16", "openvino", "bf16"),
)
"""What nobody quantized."""

PEERS = {
    "ort-static": Peer("ort_static.py", "onnxruntime", "onnxruntime", single=True),
    "ort-dynamic": Peer("ort_dynamic.py", "onnxruntime", "onnxruntime"),
    "nncf-onnxruntime": Peer("nncf_default.py", "nncf", "onnxruntime"),
    "nncf-minmax-onnxruntime": Peer("nncf_default.py", "nncf", "onnxruntime", options=("minmax",)),
    "optimum-static": Peer("optimum_static.py", "optimum", "onnxruntime"),
    "modelopt": Peer("modelopt_onnx.py", "modelopt", "onnxruntime", single=True, few=True),
    "olive": Peer("olive_search.py", "olive", "onnxruntime", single=True),
    "nncf-openvino": Peer("nncf_default.py", "nncf", "openvino", ".xml", precision="default"),
    "nncf-openvino-fp32": Peer("nncf_default.py", "nncf", "openvino", ".xml", artefact="nncf-openvino"),
    "nncf-minmax-openvino": Peer("nncf_default.py", "nncf", "openvino", ".xml", ("minmax",), precision="default"),
    "nncf-minmax-openvino-fp32": Peer("nncf_default.py", "nncf", "openvino", ".xml", artefact="nncf-minmax-openvino"),
    "torchao": Peer("torchao_pt2e.py", "torchao", TORCH, ".pt2", module=True, single=True, few=True),
    "executorch": Peer("executorch_xnnpack.py", "executorch", "executorch", ".pte", module=True, single=True, few=True),
    "litert": Peer("litert_int8.py", "litert", "litert", ".tflite", module=True, single=True, few=True),
}

LIMITS = {"": "plain", "-0.08": "error-0.08"}
"""Ending of our names → beginning of the files that the search made with that limit of error (`int8_cpu_ours.stem`)."""
TWO_THREADS = "-t2"
"""Ending of our names, and of the search's files, where it was on two threads: these run in the cells of two alone."""
OURS = tuple(
    f"ours-{backend}{limit}{threads}"
    for threads in ("", TWO_THREADS)
    for limit in LIMITS
    for backend in ("onnxruntime", "openvino")
)


class Worker:
    """A `peers/network_worker.py` process that has a network open and is warm."""

    def __init__(self, compared_model: ComparedModel, threads: int, image: Path, scratch: Path) -> None:
        self._image = image
        self._complaints = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed with the process
        model = compared_model.files[0]
        if compared_model.backend in ("onnxruntime", "openvino"):
            session = {"backend": compared_model.backend, "files": compared_model.files}
            model = str(scratch / f"{compared_model.name}.json")
            Path(model).write_text(json.dumps(session | {"precision": compared_model.precision}))
        words = [compared_model.python or sys.executable, str(PEERS_FOLDER / "network_worker.py")]
        words += [model, str(threads), str(image)]
        if compared_model.backend == TORCH and compared_model.precision == "bf16":
            words.append("bf16")
        self._process = subprocess.Popen(
            words,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._complaints,
            text=True,
            bufsize=1,
            env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        )
        self._read()

    def close(self) -> None:
        """End the process."""
        with suppress(BrokenPipeError):
            self._process.communicate(timeout=60)
        self._complaints.close()

    def time(self, calls: int) -> tuple[list[float], list[float]]:
        """Latencies of so many calls on the batch it was opened for, and the processor time of each, in ms."""
        reply = self._ask({"calls": calls, "image": str(self._image)})
        return reply["ms"], reply["cpu_ms"]

    def logits(self, inputs: Path, out: Path) -> NDArray[np.float32]:
        """Logits ``[n, values]`` of the cases in ``inputs``, one at a time; the worker writes them to ``out``."""
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
) -> Iterator[tuple[dict[str, Worker], dict[str, str]]]:
    """Open all that can be; name → what runs, and name → why not."""
    running: dict[str, Worker] = {}
    failed = {compared_model.name: compared_model.reason for compared_model in compared if compared_model.reason}
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="int8-cpu-")))
        for compared_model in compared:
            if compared_model.reason:
                continue
            try:
                worker = Worker(compared_model, threads, image, scratch)
            except Exception as exc:  # noqa: BLE001 - whatever a peer's model does is a result, not our failure
                failed[compared_model.name] = " ".join(str(exc).split())[:200] or type(exc).__name__
                continue
            stack.callback(worker.close)
            running[compared_model.name] = worker
        yield running, failed


def pin(threads: int) -> None:
    """Bind this process, and the workers that it starts, to the last ``threads`` CPUs that it may use."""
    cpus = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, set(cpus[-threads:]))


def compared_models(work: Path, pythons: dict[str, str], batch: int) -> list[ComparedModel]:
    """Everybody, on the graphs of one batch."""
    result = [_float(work, *entry, batch) for entry in FLOATS]
    result += [_ours(work, name, batch) for name in OURS]
    return result + [_peer(work, name, pythons, batch) for name in PEERS]


def _float(work: Path, name: str, backend: str, precision: str, batch: int) -> ComparedModel:
    if backend != TORCH:
        return ComparedModel(
            name=name, backend=backend, precision=precision, files=(str(work / f"plain-b{batch}.onnx"),)
        )
    module = load_network(work).module
    reason = "" if module else "there is no PyTorch module of it"
    return ComparedModel(name=name, backend=backend, precision=precision, files=(module,), reason=reason)


def _ours(work: Path, name: str, batch: int) -> ComparedModel:
    threads = TWO_THREADS if name.endswith(TWO_THREADS) else ""
    _, backend, *limit = name.removesuffix(threads).split("-")
    about = work / "ours" / f"{LIMITS[f'-{limit[0]}' if limit else '']}-{backend}{threads}.json"
    if not about.is_file():
        return ComparedModel(name=name, backend=backend, reason="was not made")
    made = json.loads(about.read_text())
    if str(batch) not in made["files"]:
        return ComparedModel(name=name, backend=backend, reason=f"was not made for batch {batch}")
    files = tuple(str(about.parent / file) for file in made["files"][str(batch)])
    return ComparedModel(name=name, backend=backend, precision=made["precision"], files=files)


def _peer(work: Path, name: str, pythons: dict[str, str], batch: int) -> ComparedModel:
    peer = PEERS[name]
    path = work / "peers" / f"{peer.artefact or name}-b{batch}{peer.suffix}"
    about = path.with_suffix(".json")
    reason = json.loads(about.read_text())["reason"] if about.is_file() else f"was not made for batch {batch}"
    files = (str(path), str(path.with_suffix(".bin"))) if peer.suffix == ".xml" else (str(path),)
    own = peer.backend not in ("onnxruntime", "openvino")
    precision = default_precision() if peer.precision == "default" else peer.precision
    python = pythons.get(name, "") if own else ""
    return ComparedModel(
        name=name, backend=peer.backend, precision=precision, files=files, python=python, reason=reason
    )


def default_precision() -> str:
    """In which OpenVINO runs a quantized graph by itself: what stays in float is in bf16 where the CPU has it."""
    from medfm_compress.runtime.cpu import missing_flags, read_cpu
    from medfm_compress.runtime.sessions.instruction_sets import BF16

    return "int8" if missing_flags(BF16, read_cpu()) else "int8-bf16"
