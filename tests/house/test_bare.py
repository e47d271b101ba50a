"""What a device has: the wheel, its own dependencies, and nothing to train with."""

from __future__ import annotations

import json
from typing import Any

import pytest

TRAINING = [
    "torch",
    "torchvision",
    "timm",
    "nncf",
    "torch_pruning",
    "openvino",
    "typer",
    "scipy",
    "sklearn",
    "onnx",
    "pynetdicom",
    "starlette",
    "uvicorn",
    "highdicom",
]
NEEDS_AN_EXTRA = [  # made of what the libraries of an extra have; their one importer asks for these first
    "medfm_compress.runtime.node.listener",
    *(f"medfm_compress.runtime.page.{name}" for name in ("app", "connection", "guard", "upload")),
]
START_S = 0.35

# Python reports every connection and every name look-up to audit hooks (PEP 578).
NO_NETWORK = """
import sys
def watch(event, arguments):
    if event in {"socket.connect", "socket.getaddrinfo", "socket.gethostbyname"}:
        sys.exit(f"network at import: {event} {arguments}")
sys.addaudithook(watch)
"""

WALK = (
    NO_NETWORK
    + """
import importlib, json, pkgutil
walked = []
for room in ROOMS:
    package = importlib.import_module(f"medfm_compress.{room}")
    walked += [package.__name__, *(m.name for m in pkgutil.walk_packages(package.__path__, package.__name__ + "."))]
for name in walked:
    if name not in NEEDS_AN_EXTRA:
        importlib.import_module(name)
print(json.dumps({"walked": walked, "loaded": sorted({name.split(".")[0] for name in sys.modules})}))
"""
)


def walk(bare: Any, *rooms: str) -> dict[str, list[str]]:
    return json.loads(bare.check(f"ROOMS = {rooms!r}\nNEEDS_AN_EXTRA = {NEEDS_AN_EXTRA!r}\n{WALK}"))


def test_nothing_to_train_with_is_installed(bare: Any) -> None:
    absent = [name for name in TRAINING if name != "typer"]
    actual = bare.check(f"import importlib.util as u; print([n for n in {absent!r} if u.find_spec(n)])")
    assert actual.strip() == "[]"


@pytest.mark.parametrize("room", ["runtime", "data", "bench"])
def test_bare_rooms_import_without_training_libraries(bare: Any, room: str) -> None:
    lines = walk(bare, room)
    assert len(lines["walked"]) > 3
    assert not set(lines["loaded"]) & set(TRAINING)
    if room == "runtime":
        assert not {"yaml", "jinja2"} & set(lines["loaded"])


def test_runtime_imports_fast(bare: Any) -> None:
    """Best of several fresh processes, without the interpreter's own start: the rest is the machine's other work."""
    program = "import time; t = time.perf_counter(); import medfm_compress.runtime; print(time.perf_counter() - t)"
    bare.check(program)  # the first writes the byte code
    best = float("inf")
    for _ in range(15):
        best = min(best, float(bare.check(program)))
        if best < START_S:
            break
    assert best < START_S


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["--version"], ["run", "--help"], ["gate", "--help"], ["doctor"], ["policy", "init", "policy.yaml"]],
)
def test_command_line_works(bare: Any, arguments: list[str]) -> None:
    done = bare.run("-m", "medfm_compress", *arguments)
    assert done.returncode == 0, done.stderr
    assert done.stdout and "Traceback" not in done.stderr


def test_a_node_names_what_to_install(bare: Any) -> None:
    done = bare.run("-m", "medfm_compress", "serve", "conformance")
    assert done.returncode == 2
    assert "pip install 'medfm-compress[node]'" in done.stderr and "Traceback" not in done.stderr


def test_toolchain_command_names_what_to_install(bare: Any) -> None:
    done = bare.run("-m", "medfm_compress", "prune", "model", "--study", "study", "--out", "out", "--max-macs", "0.5")
    assert done.returncode == 2
    assert "medfm-compress[toolchain]" in done.stderr and "Traceback" not in done.stderr
