"""Fine-tuning from pre-trained weights: the backbone's share of the learning rate, and how long the rate rises.

    python experiments/pretrained_start.py OUT --studies FOLDER --weights FILE [--size PX] [--seeds N]

``FOLDER`` holds the tables of `distillation_studies.py`; ``FILE`` is ImageNet weights of timm's tf_efficientnet_lite0.
Every arm of `ARMS` is trained from the same start with `finetune` on each of `STUDIES`, everything else at its
default. ``OUT/results.json`` receives the validation AUROC of every epoch and the test AUROC of the kept one, arm by
arm as they end; arms that have ended are skipped.
"""

from __future__ import annotations

import argparse
import itertools
import shutil
import sys
from pathlib import Path

import msgspec
import torch

from medfm_compress.compress.networks.build import build_model
from medfm_compress.compress.training.config import TrainingConfig
from medfm_compress.compress.training.dataset import load_dataset, task_of
from medfm_compress.compress.training.finetune import finetune
from medfm_compress.compress.training.validation_score import auroc_scorer
from medfm_compress.data.colour_kind import colour_of
from medfm_compress.data.open import open_study
from medfm_compress.runtime.atomic_write import write_atomically
from medfm_compress.runtime.progress import no_progress
from medfm_compress.runtime.strict_json import decode, encode

ARCHITECTURE = "tf_efficientnet_lite0"
EPOCHS = 6
STUDIES = {"skin": "dermoscopy", "chest-tenth": "radiograph", "lung": "histology"}
ARMS = {
    "1": (1.0, 0.08),
    "0.3": (0.3, 0.08),
    "0.1": (0.1, 0.08),
    "0.1, rising for 30%": (0.1, 0.3),
    "0.03": (0.03, 0.08),
}


class Arm(msgspec.Struct, frozen=True, kw_only=True):
    """One training.

    Attributes:
        study: name of its table.
        arm: key of `ARMS`.
        seed: of order and views.
        val: validation AUROC after every epoch.
        test: AUROC of the epoch that was kept.
        seconds: of all epochs.
    """

    study: str
    arm: str
    seed: int
    val: tuple[float, ...]
    test: float
    seconds: float


def train_arm(study_name: str, arm: str, seed: int, options: argparse.Namespace) -> Arm:
    """Train one arm in a folder of its own."""
    rate, warmup = ARMS[arm]
    study = open_study(options.studies / f"{study_name}.csv")
    config = TrainingConfig(
        epochs=EPOCHS,
        backbone_rate=rate,
        warmup=warmup,
        patience=0,
        seed=seed,
        device="cpu",
        modality=STUDIES[study_name],  # type: ignore[arg-type]
    )
    torch.manual_seed(seed)
    model = build_model(
        ARCHITECTURE, task_of(study), size_px=options.size, colour=colour_of(study), weights=options.weights
    )
    out = options.out / f"{study_name}-{rate}-{warmup}-{seed}"
    trained = finetune(study, model, config, out, no_progress)
    test = load_dataset(study, "test", trained.spec, options.out / "cache", no_progress)
    history = torch.load(out / "training" / "checkpoint.pt", weights_only=True)["history"]
    score = auroc_scorer(test, trained.spec, trained.task, config)(trained.module)
    shutil.rmtree(out)
    return Arm(
        study=study_name,
        arm=arm,
        seed=seed,
        val=tuple(round(row["score"], 4) for row in history),
        test=round(score, 4),
        seconds=round(sum(row["seconds"] for row in history), 1),
    )


def main() -> None:
    """Train what is missing, arms in turns."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--studies", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--seeds", type=int, default=2)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "results.json"
    done = list(decode(path.read_bytes(), list[Arm], source=str(path))) if path.is_file() else []
    for seed, study, arm in itertools.product(range(options.seeds), STUDIES, ARMS):
        if not any((each.study, each.arm, each.seed) == (study, arm, seed) for each in done):
            done.append(train_arm(study, arm, seed, options))
            write_atomically(path, encode(done))
            sys.stdout.write(f"{done[-1]}\n")


if __name__ == "__main__":
    main()
