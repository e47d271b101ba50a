"""README's chain of commands, "On your own images", as a script, in folders whose names have spaces."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from medfm_compress.__main__ import main
from medfm_compress.data.synthetic import draw_study
from medfm_compress.runtime.bundle.bundle import Bundle

ROOT = Path(__file__).resolve().parents[2]
# What makes the chain short here: small networks, one epoch, few calls. Everything else is README's own.
QUICK = {
    "finetune": (
        ("coatnet_nano_rw_224", "resnet10t"),
        ("--image-size 128", "--image-size 64 --epochs 1 --batch-size 16"),
    ),
    "distill": (("--out", "--epochs 1 --batch-size 16 --out"),),
    "quantize": (("--out", "--samples 8 --time-budget 0 --out"),),
    "bench": (("--out", "--rounds 10 --turn 2ms --min-calls 2 --max-calls 3 --warm-up 100ms --out"),),
}
# These load PyTorch, which takes longer than their own work: they run in this process, and all others as they stand.
HERE = {"finetune", "distill", "quantize", "bench"}


def chain() -> list[list[str]]:
    """Words of each command of the section's block, made short."""
    section = (ROOT / "README.md").read_text(encoding="utf-8").split("## On your own images")[1]
    block = re.findall(r"```sh\n(.*?)```", section, re.DOTALL)[0]
    lines = [line.split("#")[0].strip() for line in block.splitlines()]
    return [words_of(line) for line in lines if line]


def words_of(line: str) -> list[str]:
    name = line.split()[1]
    for old, new in QUICK.get(name, ()):
        assert old in line, f"README's {name} no longer says {old!r}"
        line = line.replace(old, new)
    return [word.replace("my-study", "my study") for word in shlex.split(line)]


def easy_to_keep(policy: Path) -> None:
    """A margin that few patients can show; the starter's own is for real studies."""
    text = policy.read_text()
    changed = text.replace("margin: 0.02", "margin: 0.9").replace("    teacher_floor: 0.80", "    #teacher_floor: 0.80")
    assert changed.count("margin: 0.9\n") == 1
    limits = {"min_positives": 2, "min_negatives": 2, "min_clusters": 4}
    for name, least in limits.items():
        changed = re.sub(rf"^#?{name}: \d+", f"{name}: {least}", changed, flags=re.M)
    policy.write_text(changed)


def ran_here(words: list[str], capsys: pytest.CaptureFixture[str]) -> subprocess.CompletedProcess[str]:
    """The command in this process."""
    with pytest.raises(SystemExit) as ended:
        main(words)
    said = capsys.readouterr()
    return subprocess.CompletedProcess(words, int(ended.value.code or 0), said.out, said.err)


def test_the_chain_runs_as_it_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "a place"
    study = draw_study(place / "my study", patients=60, seed=0, size_px=64)
    monkeypatch.chdir(place)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    ran = []
    for words in chain():
        assert words[0] == "medfm-compress"
        if words[1] == "run":
            words[-1] = str(Path("my study", study.cases[0].image))
        if words[1] in HERE:
            done = ran_here(words[1:], capsys)
        else:
            command = [sys.executable, "-m", "medfm_compress", *words[1:]]
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{shlex.join(words)}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
        if words[1] == "policy":
            easy_to_keep(place / "policy.yaml")
        if words[1] == "bench":
            # What is printed as the next command works when it is pasted.
            pasted = re.search(r"judge it with: (.*)", done.stdout)
            assert pasted is not None
            assert shlex.split(pasted[1])[1:3] == ["gate", "report/report.json"]
        ran.append(words[1])
    assert ran == ["study", "study", "finetune", "distill", "export", "quantize", "policy", "bench", "gate", "run"]
    assert all(verdict.outcome == "pass" for verdict in Bundle.open(place / "small.medfm").manifest.verdicts)
    assert "opacity" in done.stdout
