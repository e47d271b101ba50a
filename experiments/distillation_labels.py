"""Train a student on labels alone, with the very preprocessing and the very start that ``distill`` gives it.

python experiments/distillation_labels.py STUDY --teacher FOLDER --student NAME --out FOLDER [OPTION]...

``medfm-compress finetune`` takes the crop that the student's architecture was published with, ``distill`` the
teacher's. Here both see the same pixels, so that the arms differ in nothing but what is learned from. The teacher is
not asked.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import msgspec


def main() -> None:
    """Write the model folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("study", type=Path)
    for name in ("teacher", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--student", required=True)
    for name in ("image-size", "epochs", "batch-size", "patience", "seed"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--learning-rate", type=float, required=True)
    parser.add_argument("--modality", required=True)
    parser.add_argument("--device", default="cpu")
    train(parser.parse_args())


def train(arguments: argparse.Namespace) -> None:
    """Train as asked."""
    import torch

    from medfm_compress.compress.networks.model import load_model
    from medfm_compress.compress.students.build_student import build_student
    from medfm_compress.compress.training.config import TrainingConfig
    from medfm_compress.compress.training.dataset import task_of
    from medfm_compress.compress.training.finetune import finetune
    from medfm_compress.data.open import open_study

    teacher = load_model(arguments.teacher)
    study = open_study(arguments.study, dicom_rules=teacher.spec.dicom)
    spec = msgspec.structs.replace(teacher.spec, height_px=arguments.image_size, width_px=arguments.image_size)
    config = TrainingConfig(
        epochs=arguments.epochs,
        batch_size=arguments.batch_size,
        learning_rate=arguments.learning_rate,
        patience=arguments.patience,
        device=arguments.device,
        modality=arguments.modality,
        seed=arguments.seed,
    )
    torch.manual_seed(arguments.seed)
    student = build_student(arguments.student, task_of(study), spec, None, None)
    finetune(study, student, config, arguments.out, print_line)


def print_line(line: str) -> None:
    """One line of progress."""
    sys.stderr.write(line + "\n")


if __name__ == "__main__":
    main()
