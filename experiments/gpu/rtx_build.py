"""Does TensorRT take the graphs? Ahead-of-time builds of TensorRT-RTX, which need no GPU.

    python experiments/gpu/rtx_build.py LIBRARIES GRAPHS OUT.json

The network is strongly typed and the batch fixed at 1. It shows acceptance alone: the engines are for RTX cards, they
are not run, and TensorRT proper has a parser and kernels of its own. LIBRARIES holds ``libtensorrt_rtx.so.X.Y.Z`` and
``libtensorrt_onnxparser_rtx.so.X.Y.Z`` with their soname links; they are under their vendor's licence and are called
through their C++ tables of virtual functions (slots as of 1.7), since the package has no Python bindings. Each file is
built in a process of its own: a library that is called so may take the process down.
"""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

POINTER = ctypes.c_void_p
PARSE_FILE, CREATE_CONFIG, CREATE_NETWORK, BUILD, SIZE = 1, 5, 6, 11, 3  # slots of the parser, the builder, the memory
STRONGLY_TYPED, SECONDS = 1, 300


class Log:
    """An ILogger of the libraries: a table of virtual functions whose entry 4 takes a message."""

    def __init__(self) -> None:
        self.messages: list[str] = []
        kind = ctypes.create_string_buffer(b"ILogger")
        nothing = ctypes.CFUNCTYPE(None, POINTER)(lambda _: None)
        language = ctypes.CFUNCTYPE(ctypes.c_int32, POINTER)(lambda _: 0)
        info = ctypes.CFUNCTYPE(POINTER, POINTER)(lambda _: ctypes.addressof(kind))
        log = ctypes.CFUNCTYPE(None, POINTER, ctypes.c_int32, ctypes.c_char_p)(self._log)
        entries = [ctypes.cast(entry, POINTER) for entry in (language, info, nothing, nothing, log)]
        self._table = (POINTER * 8)(*entries, None, None, None)
        self._object = (POINTER * 2)(ctypes.addressof(self._table), None)
        self._alive = (kind, nothing, language, info, log)

    def _log(self, _: Any, severity: int, message: bytes) -> None:
        if severity <= 1:
            self.messages.append(message.decode(errors="replace"))

    @property
    def address(self) -> int:
        """Of the object."""
        return ctypes.addressof(self._object)


def call(target: int, slot: int, result: Any, *arguments: tuple[Any, Any]) -> Any:
    """Call entry ``slot`` of an object's table with (type, value) arguments."""
    table = ctypes.cast(ctypes.cast(target, ctypes.POINTER(POINTER))[0], ctypes.POINTER(POINTER))
    function = ctypes.CFUNCTYPE(result, POINTER, *(kind for kind, _ in arguments))(table[slot])
    return function(target, *(value for _, value in arguments))


def implementation(target: int) -> int:
    """The second word of an interface object, which points to what implements it."""
    address: int = ctypes.cast(target, ctypes.POINTER(POINTER))[1]
    return address


def build(libraries: Path, graph: Path) -> dict[str, Any]:
    """The size of the engine, or why there is none."""
    runtime, parsers = (
        ctypes.CDLL(str(next(libraries.glob(f"libtensorrt_{name}.so.*.*.*"))), mode=ctypes.RTLD_GLOBAL)
        for name in ("rtx", "onnxparser_rtx")
    )
    log, version = Log(), runtime.getInferLibVersion()
    create, parser_of = runtime.createInferBuilder_INTERNAL, parsers.createNvOnnxParser_INTERNAL
    create.restype, create.argtypes = POINTER, (POINTER, ctypes.c_int32)
    parser_of.restype, parser_of.argtypes = POINTER, (POINTER, POINTER, ctypes.c_int32)
    builder = implementation(create(log.address, version))
    network = call(builder, CREATE_NETWORK, POINTER, (ctypes.c_uint32, STRONGLY_TYPED))
    config = call(builder, CREATE_CONFIG, POINTER)
    parser, path = parser_of(network, log.address, 1), str(graph).encode()
    found: dict[str, Any] = {"tensorrt_rtx": version}
    if not call(parser, PARSE_FILE, ctypes.c_bool, (ctypes.c_char_p, path), (ctypes.c_int, 2)):
        return {**found, "refused": f"not parsed: {log.messages[-1:]}"[:500]}
    start = time.monotonic()
    engine = call(builder, BUILD, POINTER, (POINTER, network), (POINTER, config))
    if not engine:
        return {**found, "refused": f"not built: {log.messages[-1:]}"[:500]}
    size = call(implementation(engine), SIZE, ctypes.c_size_t)
    return {**found, "engine_bytes": size, "build_s": round(time.monotonic() - start, 1)}


def with_batch_one(source: Path, to: Path) -> None:
    """The graph with its batch fixed at 1."""
    import onnx

    model = onnx.load_model(source)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    onnx.save_model(model, to)


def attempt(libraries: Path, graph: Path) -> dict[str, Any]:
    """`build` in a fresh process."""
    with tempfile.TemporaryDirectory() as folder:
        fixed = Path(folder) / "graph.onnx"
        with_batch_one(graph, fixed)
        command = [sys.executable, __file__, str(libraries), str(fixed)]
        environment = {**os.environ, "LD_LIBRARY_PATH": str(libraries)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=SECONDS, check=False)
    told = done.stdout.strip().splitlines()
    if done.returncode or not told:
        return {"refused": f"exit status {done.returncode}"}
    row: dict[str, Any] = json.loads(told[-1])
    return row


def main() -> None:
    """A row for each graph; given a single file, the row of that file on standard output."""
    libraries, graphs = Path(sys.argv[1]).resolve(), Path(sys.argv[2])
    if graphs.is_file():
        sys.stdout.write(json.dumps(build(libraries, graphs)) + "\n")
        return
    rows = []
    for graph in sorted(graphs.glob("*.onnx")):
        rows.append({"graph": graph.name, **attempt(libraries, graph)})
        sys.stdout.write(json.dumps(rows[-1]) + "\n")
        sys.stdout.flush()
        Path(sys.argv[3]).write_text(json.dumps({"rows": rows}, indent=1))


if __name__ == "__main__":
    main()
