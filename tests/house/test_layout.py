"""The house stands: links for the type checker, arrows between the rooms, no network at import."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOMS = ("compress", "export", "bench", "data", "runtime")


def test_type_checker_sees_everything(root: Path) -> None:
    face = {path.name for path in (root / "medfm_compress").iterdir() if path.name != "__pycache__"}
    links = {path.name: path for path in (root / ".typing" / "medfm_compress").iterdir()}
    assert set(links) == {*face, *ROOMS}
    for name, link in links.items():
        expected = root / name if name in ROOMS else root / "medfm_compress" / name
        assert link.is_symlink() and link.resolve() == expected.resolve()


def test_nothing_that_a_command_wrote_is_kept_in_the_root(root: Path) -> None:
    if not (shutil.which("git") and (root / ".git").exists()):
        pytest.skip("no checkout of git")
    listed = subprocess.run(["git", "ls-files"], cwd=root, capture_output=True, text=True, check=True).stdout
    files = {name for name in listed.splitlines() if "/" not in name}
    assert files == {
        ".gitignore",
        ".pre-commit-config.yaml",
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "LICENSE",
        "README.md",
        "action.yml",
        "pyproject.toml",
    }


def lint_imports(tree: Path) -> subprocess.CompletedProcess[str]:
    tools = Path(sys.executable).parent
    if not (shutil.which("bash") and (tools / "lint-imports").exists()):
        pytest.skip("import-linter or bash is not installed")
    environment = {**os.environ, "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}", "NO_COLOR": "1", "COLUMNS": "200"}
    command = ["bash", "scripts/lint-imports"]
    return subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, check=False)


def test_imports_run_one_way(root: Path) -> None:
    done = lint_imports(root)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "broken" in done.stdout and "0 broken" in done.stdout


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("runtime/engine.py", "import torch"),
        ("runtime/bundle/bundle.py", "import yaml"),
        ("data/open.py", "from medfm_compress.bench import types"),
        ("export/build.py", "from medfm_compress.compress import model"),
    ],
)
def test_an_arrow_the_wrong_way_is_found(tree: Path, module: str, line: str) -> None:
    path = tree / module
    path.write_text(f"{path.read_text()}\n{line}\n")
    done = lint_imports(tree)
    assert done.returncode != 0
    assert "BROKEN" in done.stdout


def test_no_module_uses_the_network_at_import() -> None:
    """Every module of the toolchain, in one fresh process; `test_bare` does the same for a device."""
    pytest.importorskip("torch")
    program = """
import importlib, pkgutil, sys
def watch(event, arguments):
    if event in {"socket.connect", "socket.getaddrinfo", "socket.gethostbyname"}:
        sys.exit(f"network at import: {event} {arguments}")
sys.addaudithook(watch)
import medfm_compress
for module in pkgutil.walk_packages(medfm_compress.__path__, "medfm_compress."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
for room in ("compress", "export", "bench", "data", "runtime"):
    package = importlib.import_module(f"medfm_compress.{room}")
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        importlib.import_module(module.name)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
