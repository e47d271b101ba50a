"""`finetune` and `distill` on the GPU: do they run, in which precision, how fast, and do they end where a CPU ends?

    python experiments/gpu/train_cuda.py WORK OUT.json [--devices cuda,cpu] [--image-size 224] [--patients 300]

The study is the synthetic one that the project draws itself. Losses of the first epoch are compared between devices at
one precision (they differ by rounding, and training is not reproducible to the bit across devices).
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import msgspec
import torch

from medfm_compress import steps
from medfm_compress.compress.distillation.options import Distillation
from medfm_compress.compress.teachers.source import TeacherSource
from medfm_compress.compress.training.config import TrainingConfig
from medfm_compress.data.synthetic import draw_study
from medfm_compress.step_settings import DistillStep, FinetuneStep

RUNS = (
    ("cuda", "fp32", False),
    ("cuda", "bf16", False),
    ("cuda", "bf16", True),
    ("cpu", "fp32", False),
)
EPOCHS = 3


class Lines(list[str]):
    """Progress that is kept and shown, with the time at which each line came."""

    def __init__(self) -> None:
        super().__init__()
        self.times_s: list[float] = []

    def __call__(self, line: str) -> None:
        """Take one line."""
        self.append(line)
        self.times_s.append(time.monotonic())
        sys.stdout.write(f"  {line}\n")
        sys.stdout.flush()


def run(work: Path, study: Path, device: str, precision: str, compiled: bool, size_px: int) -> dict[str, Any]:
    """A teacher and a student; what they took and how good they were on validation cases."""
    name = f"{device}-{precision}" + ("-compiled" if compiled else "")
    how = {"epochs": EPOCHS, "precision": precision, "device": device, "compile": compiled}
    training = msgspec.convert({**how, "learning_rate": 5e-4, "ema": 0.9}, TrainingConfig)
    row: dict[str, Any] = {"device": device, "precision": precision, "compiled": compiled}
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    lines = Lines()
    start = time.monotonic()
    teacher = FinetuneStep(model="resnet26t", image_size=size_px, training=training)
    steps.finetune(study, teacher, lines, work / name / "teacher")
    row["finetune_s"], row["finetune"] = round(time.monotonic() - start, 1), _epochs(lines)
    row["finetune_epoch_s"] = _epoch_seconds(lines)
    start, lines = time.monotonic(), Lines()
    student = DistillStep(student="resnet10t", training=training, distillation=Distillation(views=2))
    steps.distill(study, (TeacherSource(source=str(work / name / "teacher")),), student, lines, work / name / "student")
    row["distill_s"], row["distill"] = round(time.monotonic() - start, 1), _epochs(lines)
    row["distill_epoch_s"] = _epoch_seconds(lines)
    row["engine"] = [line for line in lines if "teacher" in line][:3]
    if device == "cuda":
        row["peak_gpu_bytes"] = torch.cuda.max_memory_allocated()
    return row


def _epochs(lines: list[str]) -> list[str]:
    return [" ".join(line.split()) for line in lines if line.startswith("epoch")]


def _epoch_seconds(lines: Lines) -> list[float]:
    """Seconds of every epoch but the first, which warms up; scoring on validation cases is in them."""
    ends = [at for line, at in zip(lines, lines.times_s, strict=True) if line.startswith("epoch")]
    return [round(later - earlier, 2) for earlier, later in itertools.pairwise(ends)]


def training_cases(study: Path) -> int:
    """Rows of the table whose split is train: images an epoch."""
    with (study / "cases.csv").open(newline="", encoding="utf-8") as file:
        return sum(row["split"] == "train" for row in csv.DictReader(file))


def main() -> None:
    """Every run; one that fails is a row with its traceback."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--devices", default="cuda,cpu")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--patients", type=int, default=300)
    request = parser.parse_args()
    study = request.work / "study"
    if not (study / "cases.csv").is_file():
        draw_study(study, patients=request.patients, seed=0, size_px=256)
    rows = []
    for device, precision, compiled in RUNS:
        if device not in request.devices.split(","):
            continue
        sys.stdout.write(f"{device} {precision}{' compiled' if compiled else ''}\n")
        try:
            rows.append(run(request.work, study, device, precision, compiled, request.image_size))
        except Exception:  # noqa: BLE001 - one run's failure is a result, the others go on
            rows.append(
                {
                    "device": device,
                    "precision": precision,
                    "compiled": compiled,
                    "failure": traceback.format_exc()[-1500:],
                }
            )
            sys.stdout.write(rows[-1]["failure"] + "\n")
        about = {"torch": torch.__version__, "image_size_px": request.image_size}
        about["images_an_epoch"] = training_cases(study)
        request.out.write_text(json.dumps({**about, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
