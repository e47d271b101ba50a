"""Bad input at the command line: one sentence, the right exit code, no traceback, nothing partial."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medfm_compress.__main__ import main
from medfm_compress.compress.networks.build import build_model
from medfm_compress.compress.networks.model import save_model
from medfm_compress.runtime.task import Task


def refuse(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """Run a command that must not succeed; its exit code and the error it prints."""
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    error = capsys.readouterr().err
    assert "Traceback" not in error
    assert len([line for line in error.splitlines() if line.startswith("error:")]) == 1, error
    return int(caught.value.code or 0), error


@pytest.fixture
def study(tmp_path: Path) -> Path:
    folder = tmp_path / "study"
    folder.mkdir()
    rows = ["image,split,label,patient"]
    generator = np.random.default_rng(0)
    for number in range(12):
        Image.fromarray(generator.integers(0, 255, (48, 48), dtype=np.uint8)).save(folder / f"{number}.png")
        rows.append(f"{number}.png,{('train', 'train', 'val', 'test')[number % 4]},{'ab'[number // 4 % 2]},p{number}")
    (folder / "cases.csv").write_text("\n".join(rows) + "\n")
    return folder


@pytest.fixture
def model(tmp_path: Path) -> Path:
    task = Task(kind="binary", labels=("a", "b"))
    return save_model(build_model("resnet10t", task, size_px=48, colour="grey"), tmp_path / "model")


def edit(study: Path, old: str, new: str) -> None:
    table = study / "cases.csv"
    text = table.read_text()
    assert old in text
    table.write_text(text.replace(old, new))


def finetune(study: Path, *more: str) -> tuple[str, ...]:
    return ("finetune", "resnet10t", "--study", str(study), "--image-size", "48", "--epochs", "1", *more)


def test_a_missing_column(study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit(study, "image,split", "file,split")
    code, error = refuse(capsys, *finetune(study, "--out", str(tmp_path / "m")))
    assert code == 2
    assert "image" in error
    assert not (tmp_path / "m").exists()


def test_a_class_in_test_that_train_lacks(study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit(study, "3.png,test,a", "3.png,test,c")
    code, error = refuse(capsys, *finetune(study, "--out", str(tmp_path / "m")))
    assert code == 2
    assert "'c'" in error
    assert "train" in error


def test_an_image_that_is_not_an_image(study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (study / "1.png").write_bytes(b"not an image at all")
    code, error = refuse(capsys, *finetune(study, "--out", str(tmp_path / "m")))
    assert code == 2
    assert "1.png" in error
    assert not (tmp_path / "m" / "model.json").exists()


def test_image_size_zero(study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("finetune", "resnet10t", "--study", str(study), "--image-size", "0", "--out", str(tmp_path / "m"))
    code, error = refuse(capsys, *arguments)
    assert code == 2
    assert "32 to 1024" in error


@pytest.mark.parametrize("name", ["scan.nii", "scan.nii.gz"])
def test_a_volume(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / name).write_bytes(b"\x5c\x01\x00\x00" + b"\0" * 344)
    code, error = refuse(capsys, *finetune(tmp_path / name, "--out", str(tmp_path / "m")))
    assert code == 2
    assert "3-D" in error


def test_a_corrupt_safetensors(study: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (model / "model.safetensors").write_bytes(b"\x00" * 64)
    out = tmp_path / "b.medfm"
    code, error = refuse(capsys, "export", str(model), "--study", str(study), "--out", str(out))
    assert code == 2
    assert "safetensors" in error
    assert not out.exists()


def test_an_unknown_option_and_an_unknown_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert refuse(capsys, "doctor", "--nonsense")[0] == 2
    assert refuse(capsys, "frobnicate")[0] == 2


def test_an_interrupt_during_export_leaves_nothing(study: Path, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "b.medfm"
    command = [sys.executable, "-m", "medfm_compress", "export", str(model), "--study", str(study), "--out", str(out)]
    # A test run started in the background ignores interrupts, and its children would inherit that.
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    signal.signal(signal.SIGINT, previous)
    assert process.stderr is not None
    for line in process.stderr:
        if "parity" in line:
            break
    time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    _, error = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "Traceback" not in error
    assert [path.name for path in tmp_path.iterdir() if "medfm" in path.name] == []


def test_a_full_disk_during_export_leaves_nothing(
    study: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    out = tmp_path / "b.medfm"
    code, error = refuse(capsys, "export", str(model), "--study", str(study), "--out", str(out))
    assert code == 2
    assert "No space left on device" in error
    assert [path.name for path in tmp_path.iterdir() if "medfm" in path.name] == []


@pytest.mark.parametrize("key", ["x\n", "\x1b[31m", "\u2028", "\u202e", "\ud800"], ids=ascii)
def test_what_a_file_says_stays_on_one_line_and_moves_no_cursor(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, key: str
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(json.dumps({"name": "a", "policy": "p.yaml", "distill": {"student": "s"}, key: 1}))
    code, error = refuse(capsys, "compress", str(recipe), "--study", str(tmp_path), "--out", str(tmp_path / "out"))
    assert code == 2 and error.removesuffix("\n").isprintable()
