"""Exit codes are the command's own, whoever reads what it prints: nobody, a reader who leaves, or a full device."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from medfm_compress.cli.main import run
from medfm_compress.runtime import doctor

PROGRAM = (sys.executable, "-m", "medfm_compress")
ALONE = (sys.executable, "-I", "-m", "medfm_compress")  # as scripts/ci/gate.sh starts it
SCRIPT = (sys.executable, "-c", "from medfm_compress.__main__ import main; main()")  # what an installer makes
BUFFERED = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
CHANGES = {0: {"noise": 0.1}, 1: {"shift": 1.5}, 3: {"noise": 1.2}}


def ended(words: tuple[object, ...], redirected: str, program: tuple[str, ...] = PROGRAM) -> tuple[int, str]:
    """Exit code and standard error of a command that a shell starts with redirected streams."""
    command = ["bash", "-c", f'"$@" {redirected}', "bash", *program, *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, env=BUFFERED)
    return done.returncode, done.stderr


def ended_unread(words: tuple[object, ...], stderr_too: bool, program: tuple[str, ...] = PROGRAM) -> int:
    """Exit code of a command whose readers have left before it prints anything."""
    read, write = os.pipe()
    os.close(read)
    error = write if stderr_too else subprocess.DEVNULL
    try:
        command = [*program, *map(str, words)]
        done = subprocess.run(command, stdout=write, stderr=error, check=False, timeout=120, env=BUFFERED)
        return done.returncode
    finally:
        os.close(write)


@pytest.fixture
def folder(tiny: ModuleType, reports: ModuleType, tmp_path: Path) -> Path:
    tiny.bundle(tmp_path / "b.medfm", (tiny.ORT,), outcome=None)
    (tmp_path / "policy.yaml").write_text(reports.POLICY)
    return tmp_path


@pytest.mark.parametrize("code", CHANGES)
def test_a_verdict_stays_what_it_is(tiny: ModuleType, reports: ModuleType, folder: Path, code: int) -> None:
    reports.write_report(tiny, folder, **CHANGES[code])
    gate = ("gate", folder / "report.json", "--policy", folder / "policy.yaml")
    assert ended_unread(gate, False) == ended_unread((*gate, "--json"), True) == code
    for closed in (">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-", "| true; exit ${PIPESTATUS[0]}"):
        assert ended(gate, closed)[0] == code, closed


@pytest.mark.parametrize("program", [ALONE, SCRIPT])
def test_a_table_unread_is_no_fault(
    tiny: ModuleType, reports: ModuleType, folder: Path, program: tuple[str, ...]
) -> None:
    """However the command is started, and with standard error closed too."""
    reports.write_report(tiny, folder, **CHANGES[0])
    gate = ("gate", folder / "report.json", "--policy", folder / "policy.yaml")
    for words in (gate, (*gate, "--json")):
        assert ended_unread(words, False, program) == ended_unread(words, True, program) == 0
        for redirected in ("", "2>&-"):
            code, error = ended(words, f"{redirected} | head -1; exit ${{PIPESTATUS[0]}}", program)
            assert (code, error) == (0, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_full_device_is_no_verdict(tiny: ModuleType, reports: ModuleType, folder: Path) -> None:
    for changes in CHANGES.values():
        reports.write_report(tiny, folder, **changes)
        code, error = ended(("gate", folder / "report.json", "--policy", folder / "policy.yaml"), "> /dev/full")
        assert (code, error.count("\n")) == (2, 1)
        assert error.startswith("error: cannot write to standard output: No space left on device; make room")
    assert ended(("inspect", folder / "b.medfm"), "2> /dev/full")[0] == 0
    assert ended(("inspect", folder / "none.medfm"), "2> /dev/full")[0] == 2
    assert ended(("--help",), "> /dev/full")[0] == ended(("--version",), "> /dev/full")[0] == 2


@pytest.mark.parametrize(("words", "code"), [(("--help",), 0), (("study",), 0), (("--version",), 0), (("run",), 2)])
def test_help_and_refusals_unread(words: tuple[str, ...], code: int) -> None:
    assert ended_unread(words, False) == ended_unread(words, True) == ended(words, ">&-")[0] == code


def test_a_run_goes_on_to_its_own_exit_code(folder: Path) -> None:
    """More than a pipe holds, of which the reader takes one line."""
    images = folder / "images"
    images.mkdir()
    for number in range(1500):
        (images / f"{'n' * 100}{number}.txt").write_text("no image")
    words = ("run", folder / "b.medfm", images, "--unverified", "--quiet")
    assert ended(words, "| head -1; exit ${PIPESTATUS[0]}")[0] == 2


@pytest.mark.parametrize("fault", [BrokenPipeError(32, "Broken pipe"), SystemExit(1)])
def test_another_pipe_that_breaks_or_an_exit_is_a_fault_of_ours(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], fault: BaseException
) -> None:
    def lose() -> None:
        raise fault

    monkeypatch.setattr(doctor, "examine", lose)
    assert run(["doctor"]) == 70
    assert capsys.readouterr().err.startswith("error: internal error (RuntimeError: a ")
