"""The cached teacher: what it costs and saves, and what a ``kill -9`` in the middle of asking it loses.

python experiments/distillation_cache.py TEACHER STUDY.csv STUDENT OUT.json [MODALITY]

Three runs of ``distill``: one whole; one that is killed once half of the shards are written and then goes on; one whose
student is another seed's and finds the answers of the first. Shards written before the kill must not change, and the
interrupted run must end with the same weights as the whole one.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import msgspec

from medfm_compress.bench.measure.machine import describe_machine
from medfm_compress.compress.networks.model import load_model
from medfm_compress.compress.teachers.output_cache import OutputCache
from medfm_compress.runtime.atomic_write import write_atomically

VIEWS, EPOCHS, PIXELS = 4, 4, 64
_EPOCH = re.compile(r"^epoch +\d+/.*?  (\d+) s", re.MULTILINE)


def start(command: list[str], out: Path, *more: str) -> subprocess.Popen[str]:
    """``distill`` in a process of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*command, "--out", str(out), *more], env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def finish(process: subprocess.Popen[str], began: float) -> tuple[str, float]:
    """What it said, and its seconds; ends this script where it failed."""
    message = process.communicate()[1]
    if process.returncode:
        sys.exit(f"distill ended with {process.returncode}: {message}")
    return message, time.monotonic() - began


def kill_half_way(process: subprocess.Popen[str], outputs: Path, shards: int) -> dict[str, int]:
    """Kill it when half of ``shards`` are there; name → time of writing of those."""
    while len(list(outputs.glob("logits-*.npy"))) < shards // 2:
        if process.poll() is not None:
            sys.exit("distill ended before it could be killed")
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    return {path.name: path.stat().st_mtime_ns for path in sorted(outputs.glob("logits-*.npy"))}


def main(teacher: str, study: str, student: str, out: str, modality: str = "histology") -> None:
    """Measure, print and write."""
    command = [sys.executable, "-m", "medfm_compress", "distill", teacher, "--study", study, "--student", student]
    command += ["--views", str(VIEWS), "--epochs", str(EPOCHS), "--image-size", str(PIXELS), "--device", "cpu"]
    command += ["--patience", "0", "--modality", modality, "--teacher-precision", "fp32"]
    with tempfile.TemporaryDirectory() as scratch:
        whole, killed, again = (Path(scratch) / name for name in ("whole", "killed", "again"))
        began = time.monotonic()
        message, whole_s = finish(start(command, whole), began)
        store = OutputCache.open(whole / "training" / "teacher-outputs")
        shards = store.header.shards * VIEWS
        kept = kill_half_way(start(command, killed), killed / "training" / "teacher-outputs", shards)
        began = time.monotonic()
        resumed, resumed_s = finish(start(command, killed), began)
        untouched = all((killed / "training" / "teacher-outputs" / n).stat().st_mtime_ns == t for n, t in kept.items())
        again.joinpath("training").mkdir(parents=True)
        again.joinpath("training", "teacher-outputs").symlink_to(whole / "training" / "teacher-outputs")
        again.joinpath("training", "cache").symlink_to(whole / "training" / "cache")
        began = time.monotonic()
        other, again_s = finish(start(command, again, "--seed", "1"), began)
        size = sum(path.stat().st_size for path in (whole / "training" / "teacher-outputs").glob("*.npy"))
        same = load_model(whole).weights_sha256() == load_model(killed).weights_sha256()
    result = {
        "machine": msgspec.to_builtins(describe_machine()),
        "cases": store.header.cases,
        "views": VIEWS,
        "epochs": EPOCHS,
        "teacher_calls": store.header.cases * VIEWS,
        "teacher_calls_without": store.header.cases * EPOCHS,
        "bytes_a_case": store.bytes_per_case,
        "bytes_on_disk": size,
        "whole_s": whole_s,
        "with_another_seed_s": again_s,
        "after_the_kill_s": resumed_s,
        "epoch_s": [float(value) for value in _EPOCH.findall(message)],
        "shards": shards,
        "shards_at_the_kill": len(kept),
        "shards_unchanged": untouched,
        "same_weights_as_the_whole_run": same,
        "asked_again": "shards of answers" in other,
        "said_after_the_kill": [line for line in resumed.splitlines() if line.startswith("teacher:")],
    }
    content = msgspec.json.format(msgspec.json.encode(result))
    write_atomically(Path(out), content)
    sys.stdout.write(content.decode() + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
