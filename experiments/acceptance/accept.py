"""Does TensorRT take a graph? An ahead-of-time build of TensorRT-RTX, on a machine without a GPU.

Acceptance, not numerics or speed: the engine is for RTX cards and is not run. The libraries come from the package
``onnxruntime-ep-nv-tensorrt-rtx-cu13``, which only tests and experiments need: ``medfm-compress[acceptance]``. It is
under its vendor's licence, goes into no bundle and is never imported: importing it writes links into site-packages.

    outcome = accept(Path("model.onnx"))
    if isinstance(outcome, Refused):
        print(outcome.sentence, outcome.node, outcome.module)
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from medfm_compress.export.source_modules import module_of

if TYPE_CHECKING:
    import onnx_ir as ir

PACKAGE = "onnxruntime-ep-nv-tensorrt-rtx-cu13"
FOLDER = "TENSORRT_RTX"  # environment variable: a folder that has the libraries, instead of the package
SECONDS = 300
BATCHES = (1, 4, 16)
_BUILD = Path(__file__).with_name("tensorrt_rtx.py")


class Accepted(NamedTuple):
    """An engine was built: its size, and the seconds of parsing and building."""

    engine_bytes: int
    seconds: float


class Refused(NamedTuple):
    """No engine was built.

    Attributes:
        sentence: TensorRT's own.
        node: name of the ONNX node, empty where TensorRT names none.
        operator: its type.
        module: path of the layer of the source module that the node came from, e.g. ``blocks.0.attn.qkv``.
    """

    sentence: str
    node: str = ""
    operator: str = ""
    module: str = ""


class NotInstalled(Exception):
    """Why there is no TensorRT-RTX here."""


def libraries() -> list[Path]:
    """The shared libraries of the package, found without importing it.

    Raises:
        NotInstalled: the package is not installed, or the folder that `FOLDER` names holds no library.
    """
    if os.environ.get(FOLDER):
        found = sorted(Path(os.environ[FOLDER]).resolve().glob("lib*.so*"))
    else:
        try:
            files = importlib.metadata.files(PACKAGE) or []
        except importlib.metadata.PackageNotFoundError:
            raise NotInstalled(f"{PACKAGE} is not installed: pip install 'medfm-compress[acceptance]'") from None
        found = [Path(str(file.locate())) for file in files if re.match(r"lib.*\.so", file.name)]
    if not any(path.name.startswith("libtensorrt_rtx.so") for path in found):
        raise NotInstalled(f"no libtensorrt_rtx.so in {os.environ.get(FOLDER) or PACKAGE}")
    return found


def accept(model: Path, batches: tuple[int, int, int] = BATCHES, seconds: float = SECONDS) -> Accepted | Refused:
    """Build ``model`` in a fresh process, since a library that is called by ctypes may take the process down.

    Args:
        model: an ONNX file. A free batch gets a profile; other sizes are as they stand.
        batches: smallest, best and largest batch of that profile.
        seconds: after which it counts as refused.

    Raises:
        NotInstalled: there is no TensorRT-RTX here.
    """
    with tempfile.TemporaryDirectory() as folder:
        link(libraries(), Path(folder))
        environment = {**os.environ, "LD_LIBRARY_PATH": folder}
        command = [sys.executable, str(_BUILD), folder, str(model), *map(str, batches)]
        try:
            done = subprocess.run(
                command, env=environment, capture_output=True, text=True, errors="replace", timeout=seconds, check=False
            )
        except subprocess.TimeoutExpired:
            return Refused(f"no engine within {seconds:g} s")
    if done.returncode:
        return Refused(_ending(done))
    row = json.loads(done.stdout.strip().splitlines()[-1])
    if "engine_bytes" in row:
        return Accepted(row["engine_bytes"], row["seconds"])
    return _refused(row, model)


def link(files: list[Path], folder: Path) -> None:
    """Links to ``files`` in ``folder``, under their own names and as sonames: ``libx.so.1`` for ``libx.so.1.7.1``."""
    for path in files:
        (folder / path.name).symlink_to(path)
        soname = re.sub(r"(\.so\.\d+)\..*", r"\1", path.name)
        if soname != path.name:
            (folder / soname).symlink_to(path)


def _ending(done: subprocess.CompletedProcess[str]) -> str:
    if done.returncode < 0:
        return f"TensorRT ended with {signal.Signals(-done.returncode).name}"
    return f"TensorRT ended with {(done.stderr.strip().splitlines() or ['no word'])[-1]}"


def _refused(row: dict[str, Any], model: Path) -> Refused:
    import onnx
    import onnx_ir as ir

    graph = ir.from_proto(onnx.load_model(model)).graph
    node = _node(graph, row)
    if node is None:
        return Refused(row["sentence"], row.get("node", ""), row.get("operator", ""))
    return Refused(row["sentence"], node.name or "", node.op_type, module_of(node))


def _node(graph: ir.Graph, row: dict[str, Any]) -> ir.Node | None:
    """The parser gives its node's number; the builder names layers, called after nodes, or constants in brackets."""
    if "number" in row:
        return graph[row["number"]] if 0 <= row["number"] < len(graph) else None
    text = " ".join(row["errors"])
    named = [node for node in graph if node.name and re.search(rf"(?<![\w./]){re.escape(node.name)}(?![\w/])", text)]
    if named:
        return min(named, key=lambda node: text.index(node.name or ""))
    bracketed = [graph.initializers.get(name) for name in re.findall(r"\(([^()\s]+)\)", text)]
    return next((value.consumers()[0] for value in bracketed if value is not None and value.consumers()), None)
