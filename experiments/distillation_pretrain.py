"""Does pre-training on images without labels help where labels are few? One JSON file; goes on where it stopped.

    python experiments/distillation_pretrain.py WORK STUDY.csv... [--arm scratch --arm mae --arm simmim] [OPTION]...

Each arm is fine-tuned on the study's labelled training images; all but ``scratch`` start from a network that was
pre-trained on its training and unlabelled images, with the same seed. Fine-tuning is the same in every arm: its epochs,
its rate, its choice of the epoch by the val split. AUROC (mean over findings, 95% interval by patients) is given on the
splits that are asked for; ``choice`` of the lung table is labelled and never trained on, ``test`` is logged.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np

from distillation_judge import Subject, evaluated, macro_areas, of_one
from medfm_compress.bench.gate.policy_file import load_policy
from medfm_compress.bench.types.interval import Interval
from medfm_compress.runtime.atomic_write import write_atomically

POLICY = Path(__file__).resolve().parents[1] / "examples" / "distillation-policy.yaml"
SCRATCH = "scratch"


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What is the same for every run.

    Attributes:
        model: timm name.
        pixels: input.
        modality: augmentation.
        pretrain_epochs: over training and unlabelled images.
        pretrain_rate: peak learning rate there.
        epochs: of fine-tuning.
        rate: peak learning rate there.
        extra: further options of ``pretrain``, e.g. ``--mask-ratio 0.5``.
    """

    model: str
    pixels: int
    modality: str
    pretrain_epochs: int
    pretrain_rate: float
    epochs: int
    rate: float
    extra: tuple[str, ...] = ()

    def pretraining(self, method: str, seed: int) -> list[str]:
        """Options of ``pretrain``."""
        options = [
            "--method",
            method,
            "--epochs",
            str(self.pretrain_epochs),
            "--learning-rate",
            str(self.pretrain_rate),
        ]
        return [*self._shared(seed), *options, *self.extra]

    def finetuning(self, seed: int) -> list[str]:
        """Options of ``finetune``."""
        options = ["--epochs", str(self.epochs), "--learning-rate", str(self.rate), "--patience", "0"]
        return [*self._shared(seed), *options]

    def _shared(self, seed: int) -> list[str]:
        shared = [self.model, "--image-size", str(self.pixels), "--modality", self.modality]
        return [*shared, "--device", "cpu", "--seed", str(seed)]


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """One fine-tuned network.

    Attributes:
        study: name of its table.
        arm: ``scratch`` or how it was pre-trained.
        seed: of both trainings.
        plan: how.
        seconds: of pre-training (0 for scratch, or where it was there before) and of fine-tuning.
        steps: what the model folder says was done.
        areas: split → mean AUROC over findings; None where the split has no labels.
    """

    study: str
    arm: str
    seed: int
    plan: Plan
    seconds: tuple[float, float]
    steps: tuple[str, ...]
    areas: dict[str, Interval | None]


class Mean(msgspec.Struct, frozen=True, kw_only=True):
    """An arm over its seeds: mean AUROC of a split and its standard deviation, one entry a seed in ``each``."""

    study: str
    arm: str
    split: str
    mean: float
    deviation: float
    each: tuple[float, ...]


def run(work: Path, study: Path, arm: str, seed: int, plan: Plan, splits: tuple[str, ...]) -> Result:
    """Pre-train, fine-tune and judge, as far as it is not done yet."""
    if arm == SCRATCH:  # what it does not depend on must not have it repeated
        plan = msgspec.structs.replace(plan, pretrain_epochs=0, pretrain_rate=0.0, extra=())
    folder = work / "runs" / study.stem / arm / f"seed-{seed}"
    done = folder / "result.json"
    if done.is_file():
        found = msgspec.json.decode(done.read_bytes(), type=Result)
        if found.plan == plan and set(found.areas) >= set(splits):
            return found
    backbone, student = folder / "backbone", folder / "student"
    for out in (backbone, student):
        share_cache(work / "cache", out / "training")
    before, start = 0.0, []
    if arm != SCRATCH:
        before = command(
            "pretrain", ["--study", str(study), "--out", str(backbone), *plan.pretraining(arm, seed)], folder
        )
        start = ["--weights", str(backbone)]
    after = command("finetune", ["--study", str(study), "--out", str(student), *start, *plan.finetuning(seed)], folder)
    areas = {split: area_on(work, study, student, split) for split in splits}
    result = Result(
        study=study.stem, arm=arm, seed=seed, plan=plan, seconds=(before, after), steps=steps_of(student), areas=areas
    )
    write_atomically(done, msgspec.json.encode(result))
    for out in (backbone, student):
        (out / "training" / "checkpoint.pt").unlink(missing_ok=True)
    return result


def share_cache(cache: Path, training: Path) -> None:
    """Prepared images are kept once for all runs; they are named by all that they depend on."""
    for folder in (cache, training):
        folder.mkdir(parents=True, exist_ok=True)
    if not (training / "cache").exists():
        (training / "cache").symlink_to(cache.resolve())


def command(name: str, options: list[str], folder: Path) -> float:
    """Run one command of ``medfm-compress`` in a fresh process; its seconds. It resumes what was begun."""
    folder.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    start = time.monotonic()
    with (folder / "log.txt").open("ab") as log:
        done = subprocess.run(
            [sys.executable, "-m", "medfm_compress", name, *options],
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
            check=False,
        )
    if done.returncode:
        last = (folder / "log.txt").read_text(errors="replace").strip().splitlines()[-1]
        raise SystemExit(f"{name} ended with {done.returncode}: {last}")
    return time.monotonic() - start


def area_on(work: Path, study: Path, student: Path, split: str) -> Interval | None:
    """Mean AUROC over findings; None where the split has no labels."""
    subject = Subject(folder=str(student), study=str(study), split=split, name="student")
    evaluation = evaluated(subject, work / "cache", work / "evaluations", load_policy(POLICY).sha256)
    return None if evaluation is None else of_one(macro_areas((evaluation,)), 0)


def steps_of(student: Path) -> tuple[str, ...]:
    """What a model folder says was done."""
    from medfm_compress.compress.networks.model import load_model_card

    return load_model_card(student).provenance.steps


def means(results: list[Result]) -> Iterator[Mean]:
    """Every study, arm and split over its seeds."""
    found = [
        (single.study, single.arm, split, area) for single in results for split, area in single.areas.items() if area
    ]
    for key in dict.fromkeys(row[:3] for row in found):
        each = tuple(area.estimate for *of, area in found if tuple(of) == key)
        study, arm, split = key
        deviation = float(np.std(each, ddof=1)) if len(each) > 1 else 0.0
        mean = float(np.mean(each))
        yield Mean(study=study, arm=arm, split=split, mean=mean, deviation=deviation, each=each)


def main() -> None:
    """Work through the runs, seed by seed, and write ``WORK/pretrain.json`` after each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path)
    parser.add_argument("studies", type=Path, nargs="+")
    parser.add_argument("--arm", action="append", help="scratch, mae or simmim; by default all three")
    parser.add_argument("--split", action="append", help="by default val and choice; test is logged")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--model", default="test_vit")
    parser.add_argument("--pixels", type=int, default=96)
    parser.add_argument("--modality", default="histology")
    parser.add_argument("--pretrain-epochs", type=int, default=40)
    parser.add_argument("--pretrain-rate", type=float, default=1e-3)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--extra", default="", help="further options of pretrain, in one string")
    arguments = parser.parse_args()
    plan = Plan(
        model=arguments.model,
        pixels=arguments.pixels,
        modality=arguments.modality,
        pretrain_epochs=arguments.pretrain_epochs,
        pretrain_rate=arguments.pretrain_rate,
        epochs=arguments.epochs,
        rate=arguments.rate,
        extra=tuple(arguments.extra.split()),
    )
    splits = tuple(arguments.split or ("val", "choice"))
    arms = arguments.arm or [SCRATCH, "mae", "simmim"]
    results: list[Result] = []
    for seed in range(arguments.seeds):
        for study in arguments.studies:
            for arm in arms:
                results.append(run(arguments.work, study, arm, seed, plan, splits))
                table = {"results": results, "means": list(means(results))}
                write_atomically(arguments.work / "pretrain.json", msgspec.json.format(msgspec.json.encode(table)))
                text = ", ".join(f"{split} {area.estimate:.4f}" for split, area in results[-1].areas.items() if area)
                spent = results[-1].seconds
                sys.stdout.write(f"{study.stem} {arm} seed {seed}: {text} ({spent[0]:.0f} + {spent[1]:.0f} s)\n")
                sys.stdout.flush()


if __name__ == "__main__":
    main()
