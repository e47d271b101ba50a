"""The wheel, and environments that hold nothing but the wheel and what it asks for; each made once a session."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NOT_SOURCE = shutil.ignore_patterns(
    ".git", ".venv*", "venv*", "build", "dist", "runs", "*.egg-info", "__pycache__", ".*_cache"
)
OFFLINE = ("No matching distribution", "Connection", "Temporary failure", "timed out", "Network is unreachable")


@dataclass(frozen=True)
class Environment:
    """A virtual environment; ``run`` starts its Python in an empty folder, away from the source tree."""

    python: Path
    folder: Path

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        clean = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
        return subprocess.run(
            [str(self.python), *arguments], cwd=self.folder, env=clean, capture_output=True, text=True, check=False
        )

    def check(self, program: str) -> str:
        done = self.run("-c", program)
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return ROOT


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of the working tree to break, without what git, builds and caches leave in it."""
    return _copy(tmp_path / "tree")


def _copy(target: Path) -> Path:
    return Path(shutil.copytree(ROOT, target, symlinks=True, ignore=NOT_SOURCE))


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built wheel."""
    tree = _copy(tmp_path_factory.mktemp("source") / "tree")
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(out), str(tree)]
    if _has_setuptools():
        command.insert(4, "--no-build-isolation")
    _pip(command)
    return next(out.glob("*.whl"))


@pytest.fixture(scope="session", params=["this", "3.10"])
def bare(request: pytest.FixtureRequest, wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """The wheel with its own dependencies only, as on a device; on this Python and on the oldest supported."""
    base = Path(sys.executable) if request.param == "this" else _find_python(request.param)
    folder = tmp_path_factory.mktemp(f"bare-{request.param}")
    subprocess.run([str(base), "-m", "venv", "--without-pip", str(folder / "venv")], check=True)
    python = folder / "venv" / ("Scripts" if os.name == "nt" else "bin") / "python"
    # Byte code is left to the imports: most of what is installed is never imported here.
    _pip([sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-compile", str(wheel)])
    (folder / "empty").mkdir()
    return Environment(python, folder / "empty")


def _pip(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return
    if any(sign in done.stderr for sign in OFFLINE) and not os.environ.get("MEDFM_REQUIRE_BARE"):
        pytest.skip("pip reaches no package index")
    pytest.fail(done.stderr, pytrace=False)


def _has_setuptools() -> bool:
    try:
        return int(importlib.metadata.version("setuptools").split(".")[0]) >= 77
    except importlib.metadata.PackageNotFoundError:
        return False


def _find_python(version: str) -> Path:
    """An interpreter of this version that really starts (a pyenv shim may not)."""
    shims = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    actual = shutil.which(f"python{version}")
    candidates = [*([Path(actual)] if actual else []), *sorted(shims.glob(f"{version}.*/bin/python{version}"))]
    for candidate in candidates:
        done = subprocess.run([str(candidate), "-c", "import venv, ensurepip"], capture_output=True, check=False)
        if done.returncode == 0:
            return candidate
    pytest.skip(f"Python {version} is not installed")
