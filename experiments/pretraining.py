"""What pre-training of the teacher is worth: to the teacher itself, and to a small student that is distilled from it.

    python experiments/pretraining.py OUT --studies FOLDER --weights FILE [--size PX] [--seeds N] [--minutes N]

``FOLDER`` holds the tables of `distillation_studies.py`; ``FILE`` is ImageNet weights of timm's tf_efficientnet_lite0.
On each of `STUDIES` and with every seed the same teacher is trained from random weights and from ``FILE``, for the same
number of epochs; from each of the two the same small student is distilled, which always begins at random weights, and
one more student learns from the labels alone. A student's seed is its teacher's, so that the two students of a seed
differ by their teacher alone.

``OUT/results.json`` receives a row a training, with its AUROC on val and test, and ``OUT/ID.npy`` the test scores, as
they end; what has ended is skipped, and an interrupted training goes on at its last epoch. After ``--minutes`` no
further training is begun. ``pretraining_table.py OUT`` makes the tables of docs/results/pretraining.md of them.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
import torch

from medfm_compress.compress.distillation.distill import distill
from medfm_compress.compress.distillation.options import Distillation
from medfm_compress.compress.networks.build import build_model
from medfm_compress.compress.networks.model import CARD, Model, load_model
from medfm_compress.compress.teachers.module_teacher import ModuleTeacher
from medfm_compress.compress.training.config import Modality, TrainingConfig
from medfm_compress.compress.training.dataset import load_dataset, task_of
from medfm_compress.compress.training.finetune import finetune
from medfm_compress.compress.training.validation_score import logits_of, mean_auroc
from medfm_compress.data.colour_kind import colour_of
from medfm_compress.data.open import open_study
from medfm_compress.data.study import Study
from medfm_compress.runtime.atomic_write import write_atomically
from medfm_compress.runtime.progress import Tick
from medfm_compress.runtime.strict_json import decode, encode

TEACHER, STUDENT = "tf_efficientnet_lite0", "resnet10t"
Start = Literal["random", "imagenet", "labels"]


class Course(msgspec.Struct, frozen=True, kw_only=True):
    """How long a study's networks learn.

    Attributes:
        modality: of the augmentation.
        teacher_epochs: the same for both starts.
        student_epochs: the same for all students.
    """

    modality: Modality
    teacher_epochs: int
    student_epochs: int


STUDIES = {
    "skin": Course(modality="dermoscopy", teacher_epochs=5, student_epochs=6),
    "chest-tenth": Course(modality="radiograph", teacher_epochs=8, student_epochs=10),
}


class Training(msgspec.Struct, frozen=True, kw_only=True, order=True):
    """One training.

    Attributes:
        seed: of the order, the views and the first weights.
        study: name of its table.
        network: ``teacher`` or ``student``.
        start: of the teacher: its first weights; of a student: its teacher's, or ``labels`` for none.
    """

    seed: int
    study: str
    network: Literal["teacher", "student"]
    start: Start

    @property
    def id(self) -> str:
        """Of its files."""
        return f"{self.study}-{self.network}-{self.start}-{self.seed}"


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What a training gave.

    Attributes:
        training: which.
        val: AUROC of the kept epoch on the validation split.
        test: likewise on the test split.
        seconds: of the last call, which is all of it unless it was interrupted.
    """

    training: Training
    val: float
    test: float
    seconds: float


def plan(seeds: int) -> Iterator[Training]:
    """Every training, a teacher before its student, seeds outermost so that whole comparisons end first."""
    for seed in range(seeds):
        for study in STUDIES:
            for start in ("imagenet", "random"):
                yield Training(seed=seed, study=study, network="teacher", start=start)
                yield Training(seed=seed, study=study, network="student", start=start)
    for seed in range(seeds):
        for study in STUDIES:
            yield Training(seed=seed, study=study, network="student", start="labels")


def run(training: Training, options: argparse.Namespace) -> Result:
    """Train, score on val and test, keep the scores of the test cases."""
    began = time.monotonic()
    folder = options.out / training.id
    study = open_study(options.studies / f"{training.study}.csv")
    (folder / "training").mkdir(parents=True, exist_ok=True)
    cache = options.out / "cache" / training.study
    cache.mkdir(parents=True, exist_ok=True)
    if not (folder / "training" / "cache").is_symlink():
        (folder / "training" / "cache").symlink_to(cache.resolve())
    model = trained(training, study, folder, options)
    areas = []
    for split in ("val", "test"):
        cases = load_dataset(study, split, model.spec, cache, say)
        logits = logits_of(model.module, cases.images, model.spec)
        areas.append(mean_auroc(logits, cases.targets, model.task))
    np.save(options.out / f"{training.id}.npy", logits.softmax(1)[:, 1].numpy())
    shutil.rmtree(folder / "training")
    seconds = round(time.monotonic() - began, 1)
    return Result(training=training, val=round(areas[0], 4), test=round(areas[1], 4), seconds=seconds)


def trained(training: Training, study: Study, folder: Path, options: argparse.Namespace) -> Model:
    """The model of a training, which is read where it is there already."""
    if (folder / CARD).is_file():
        return load_model(folder)
    course = STUDIES[training.study]
    weights = options.weights if training.network == "teacher" and training.start == "imagenet" else None
    name = TEACHER if training.network == "teacher" else STUDENT
    torch.manual_seed(training.seed)
    model = build_model(name, task_of(study), size_px=options.size, colour=colour_of(study), weights=weights)
    config = TrainingConfig(
        epochs=course.teacher_epochs if training.network == "teacher" else course.student_epochs,
        learning_rate=1e-3 if training.network == "teacher" else 2e-3,
        patience=0,
        seed=training.seed,
        device="cpu",
        precision="fp32" if training.network == "teacher" else "auto",  # bf16 is slower for depthwise convolutions here
        modality=course.modality,
    ).starting(pretrained=weights is not None)
    if training.network == "teacher" or training.start == "labels":
        return finetune(study, model, config, folder, say)
    teacher = load_model(options.out / msgspec.structs.replace(training, network="teacher").id)
    learned = Distillation(views=3, unlabelled=False, teacher_precision="fp32")
    return distill((study,), ModuleTeacher(teacher), model, config, folder, say, learned)


def say(line: str) -> None:
    """A line of progress, but for those that count parts."""
    if isinstance(line, Tick):
        return
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> None:
    """Train what is missing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--studies", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=float("inf"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "results.json"
    done = decode(path.read_bytes(), list[Result], source=str(path)) if path.is_file() else []
    missing = [training for training in plan(options.seeds) if training not in {row.training for row in done}]
    if not missing:
        say("nothing left to train")
    began = time.monotonic()
    for training in missing:
        if time.monotonic() - began > 60 * options.minutes:
            break
        say(f"{training.id}: {len(missing)} trainings to go")
        done.append(run(training, options))
        write_atomically(path, encode(done))
        say(f"{done[-1]}")


if __name__ == "__main__":
    main()
