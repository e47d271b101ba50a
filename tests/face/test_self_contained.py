"""``export --self-contained`` at the command line: one file or none."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import numpy as np
import onnxruntime
import pytest

from medfm_compress.__main__ import main


@pytest.fixture
def bundle(tiny: ModuleType, tmp_path: Path) -> Path:
    return tiny.bundle(tmp_path / "a.medfm")  # type: ignore[no-any-return]


def call(*arguments: object) -> int:
    """The exit code."""
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    return int(ended.value.code or 0)


def test_a_bundle_becomes_one_file(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "a.onnx"
    assert call("export", bundle, "--self-contained", "--out", out) == 0
    shown = capsys.readouterr().out
    assert "relative logit error" in shown and f"wrote {out}" in shown and "no verdict" not in shown
    session = onnxruntime.InferenceSession(str(out), providers=["CPUExecutionProvider"])
    assert len(session.run(None, {"pixels": np.zeros((50, 40, 3), np.uint8)})) == 3


def test_the_answer_as_json(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("export", bundle, "--self-contained", "--pixels", "dicom", "--out", tmp_path / "a.onnx", "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["variant"] == "onnxruntime-cpu-fp32" and answer["parity"]["cases"] == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--out", "b.medfm"],
            "is a file; give a model folder or an .onnx file, or export a bundle with --self-contained",
        ),
        (["--self-contained", "--out", "b.medfm"], "give the path of a .onnx file"),
        (["--pixels", "uint16", "--out", "b.medfm"], "go with --self-contained"),
        (["--self-contained", "--rule", "sensitivity>=0.95", "--out", "b.onnx"], "leave --study, --rule"),
        (["--self-contained", "--variant", "other", "--out", "b.onnx"], "has no variant 'other'"),
        (["--self-contained", "--out", "taken.onnx"], "replace it with --overwrite"),
    ],
)
def test_what_does_not_fit_is_said_and_nothing_written(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    (tmp_path / "taken.onnx").write_bytes(b"mine")
    before = sorted(path.name for path in tmp_path.iterdir())
    paths = [str(tmp_path / word) if word.endswith((".onnx", ".medfm")) else word for word in arguments]
    assert call("export", bundle, *paths) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    assert (tmp_path / "taken.onnx").read_bytes() == b"mine"


def test_a_damaged_bundle_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.medfm").write_bytes(b"PK no bundle")
    assert call("export", tmp_path / "a.medfm", "--self-contained", "--out", tmp_path / "a.onnx") == 4
    assert call("export", tmp_path / "none.medfm", "--self-contained", "--out", tmp_path / "a.onnx") == 2
    assert "Traceback" not in capsys.readouterr().err and not (tmp_path / "a.onnx").exists()
