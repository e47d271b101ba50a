"""Pipes that wait for a writer and devices that never end, where a command reads a file: an answer at once."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from medfm_compress.bench.report import load_report
from medfm_compress.cli.main import run
from medfm_compress.compress.teachers.source import TeacherSource
from medfm_compress.runtime.errors import InputError, ModelError

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no pipes with names")
POLICY = "non_inferiority: [{metric: auroc, margin: 0.02}]\n"


@pytest.fixture(params=["pipe", "/dev/zero", "folder", "none"])
def odd(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    if request.param == "pipe":
        os.mkfifo(tmp_path / "pipe")
    if request.param == "folder":
        (tmp_path / "folder").mkdir()
    return tmp_path / request.param  # an absolute path stands for itself


def test_commands(odd: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text(POLICY)
    words = {
        "report": ["gate", odd, "--policy", policy],
        "policy": ["gate", policy, "--policy", odd],
        "recipe": ["compress", odd],
    }
    for what, command in words.items():
        assert run([str(word) for word in command]) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: cannot read") and f"{what} {odd}" in error and error.count("\n") == 1


def test_readers(odd: Path) -> None:
    with pytest.raises(ModelError, match=f"cannot read --teacher-spec {odd}: "):
        TeacherSource(source="x", spec=str(odd)).given_spec()
    with pytest.raises(InputError, match=f"cannot read report {odd}: .*; run medfm-compress bench"):
        load_report(odd)
