"""Build an engine with TensorRT-RTX on a CPU, in this process: its libraries, called by ctypes.

    python tensorrt_rtx.py LIBRARIES MODEL.onnx SMALLEST BEST LARGEST

prints one line of JSON: the engine's size and the seconds, or the node that is refused and TensorRT's own sentence. The
network is strongly typed; an input whose batch is free gets one optimisation profile for the three batch sizes.

The package has no Python bindings and no headers, so virtual functions are called by their place in the object's table
(Itanium C++ ABI, as of 1.7.1; the order is that of TensorRT's public headers, less what TensorRT-RTX removed). Another
version may take the process down: `accept` calls this file in a process of its own.
"""

from __future__ import annotations

import ctypes
import json
import re
import sys
import time
from pathlib import Path
from typing import Any

POINTER = ctypes.c_void_p
STRONGLY_TYPED = 1  # the only flag there is
WARNING = 2

# Places in the tables of virtual functions. Implementations start with two destructors.
BUILDER_CONFIG, BUILDER_NETWORK, BUILDER_PROFILE, BUILDER_BUILD = 5, 6, 7, 11
CONFIG_ADD_PROFILE = 23
PROFILE_SET_DIMENSIONS = 2
MEMORY_SIZE = 3
PARSER_PARSE_FILE, PARSER_COUNT_ERRORS, PARSER_ERROR = 1, 3, 4
ERROR_DESCRIPTION, ERROR_NODE, ERROR_NODE_NAME, ERROR_OPERATOR = 1, 5, 6, 7


class Dims(ctypes.Structure):
    """nvinfer1::Dims64."""

    _fields_ = (("count", ctypes.c_int32), ("sizes", ctypes.c_int64 * 8))


class Log:
    """An ILogger of the libraries: a table of virtual functions whose entry 4 takes a message."""

    def __init__(self) -> None:
        self.errors: list[str] = []
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
        if severity < WARNING:
            self.errors.append(message.decode(errors="replace"))

    @property
    def address(self) -> int:
        """Of the object."""
        return ctypes.addressof(self._object)


def call(target: int, place: int, result: Any, *arguments: tuple[Any, Any]) -> Any:
    """Call entry ``place`` of an object's table with (type, value) arguments."""
    table = ctypes.cast(ctypes.cast(target, ctypes.POINTER(POINTER))[0], ctypes.POINTER(POINTER))
    function = ctypes.CFUNCTYPE(result, POINTER, *(kind for kind, _ in arguments))(table[place])
    return function(target, *(value for _, value in arguments))


def implementation(target: int) -> int:
    """The second word of an interface object, which points to what implements it."""
    address: int = ctypes.cast(target, ctypes.POINTER(POINTER))[1]
    return address


class Libraries:
    """The two libraries of a folder, opened."""

    def __init__(self, folder: Path) -> None:
        self._runtime, self._parsers = (
            ctypes.CDLL(str(next(folder.glob(f"libtensorrt_{name}.so.*.*.*"))), mode=ctypes.RTLD_GLOBAL)
            for name in ("rtx", "onnxparser_rtx")
        )
        self.version: int = self._runtime.getInferLibVersion()

    def builder(self, log: Log) -> int:
        """A builder."""
        create = self._runtime.createInferBuilder_INTERNAL
        create.restype, create.argtypes = POINTER, (POINTER, ctypes.c_int32)
        return implementation(create(log.address, self.version))

    def parser(self, network: int, log: Log) -> int:
        """A parser that fills ``network``."""
        create = self._parsers.createNvOnnxParser_INTERNAL
        create.restype, create.argtypes = POINTER, (POINTER, POINTER, ctypes.c_int32)
        address: int = create(network, log.address, 1)
        return address


def build(folder: Path, model: Path, batches: tuple[int, int, int]) -> dict[str, Any]:
    """``engine_bytes`` and ``seconds``, or ``sentence`` with ``node`` and ``operator`` where they are known.

    Args:
        folder: the libraries, with their soname links, on ``LD_LIBRARY_PATH``.
        model: an ONNX file.
        batches: smallest, best and largest, for a batch that is free.
    """
    libraries, log = Libraries(folder), Log()
    builder = libraries.builder(log)
    network = call(builder, BUILDER_NETWORK, POINTER, (ctypes.c_uint32, STRONGLY_TYPED))
    config = call(builder, BUILDER_CONFIG, POINTER)
    parser, path = libraries.parser(network, log), str(model).encode()
    start = time.monotonic()
    if not call(parser, PARSER_PARSE_FILE, ctypes.c_bool, (ctypes.c_char_p, path), (ctypes.c_int, WARNING)):
        return {"stage": "parser", **_parser_error(parser), "errors": log.errors}
    _add_profile(builder, config, free_inputs(model), batches)
    engine = call(builder, BUILDER_BUILD, POINTER, (POINTER, network), (POINTER, config))
    if not engine:
        return {"stage": "builder", "sentence": _sentence(log.errors), "errors": log.errors}
    size = call(implementation(engine), MEMORY_SIZE, ctypes.c_size_t)
    seconds = round(time.monotonic() - start, 2)
    return {"engine_bytes": size, "seconds": seconds, "version": libraries.version}


def free_inputs(model: Path) -> dict[str, tuple[int, ...]]:
    """The inputs whose first size is free, with the sizes after it."""
    import onnx

    graph = onnx.load_model(model).graph
    constants = {tensor.name for tensor in graph.initializer}
    sizes = {
        value.name: tuple(size.dim_value for size in value.type.tensor_type.shape.dim)
        for value in graph.input
        if value.name not in constants
    }
    return {name: shape[1:] for name, shape in sizes.items() if shape and shape[0] < 1}


def _add_profile(builder: int, config: int, inputs: dict[str, tuple[int, ...]], batches: tuple[int, int, int]) -> None:
    if not inputs:
        return
    profile = call(builder, BUILDER_PROFILE, POINTER)
    for name, shape in inputs.items():
        for selector, batch in enumerate((batches[0], batches[1], batches[2])):
            dims = Dims(1 + len(shape), (ctypes.c_int64 * 8)(batch, *shape))
            arguments = (ctypes.c_char_p, name.encode()), (ctypes.c_int, selector), (POINTER, ctypes.addressof(dims))
            call(implementation(profile), PROFILE_SET_DIMENSIONS, ctypes.c_bool, *arguments)
    call(implementation(config), CONFIG_ADD_PROFILE, ctypes.c_int32, (POINTER, profile))


def _parser_error(parser: int) -> dict[str, Any]:
    if not call(parser, PARSER_COUNT_ERRORS, ctypes.c_int):
        return {"sentence": "the parser gives no reason"}
    error = call(parser, PARSER_ERROR, POINTER, (ctypes.c_int, 0))
    words = {"sentence": ERROR_DESCRIPTION, "node": ERROR_NODE_NAME, "operator": ERROR_OPERATOR}
    texts = {key: (call(error, place, ctypes.c_char_p) or b"").decode() for key, place in words.items()}
    return {
        **texts,
        "sentence": _sentence(texts["sentence"].splitlines()),
        "number": call(error, ERROR_NODE, ctypes.c_int),
    }


def _sentence(errors: list[str]) -> str:
    """The last error that is not about the missing driver, without the places in TensorRT's own source."""
    own = [error for error in errors if "cudaError" not in error] or ["TensorRT gives no reason"]
    return re.sub(r"\s*In \S+ at [^\s)]+", "", own[-1])


def main() -> None:
    """Print the result."""
    folder, model, *batches = sys.argv[1:]
    smallest, best, largest = map(int, batches)
    sys.stdout.write("\n" + json.dumps(build(Path(folder), Path(model), (smallest, best, largest))) + "\n")


if __name__ == "__main__":
    main()
