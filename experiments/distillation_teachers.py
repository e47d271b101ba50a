"""Train the teachers of docs/results/distillation.md, or package the one that is published; what is there is kept.

python experiments/distillation_teachers.py OUT --studies FOLDER --data FOLDER [--only NAME]...

``--studies`` holds the tables of `distillation_studies`, ``--data`` the public sets and, under ``models``, the CoAtNet
that teaches the chest X-rays: float16 weights beside a JSON that says how its images were prepared.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from distillation_plan import TEACHERS, TeacherPlan

CHEST = "chest"
COATNET = "coatnet-nano-chest-xray-128.safetensors"
COATNET_MODEL, COATNET_PIXELS, COATNET_RESIZED = "coatnet_nano_rw_224", 128, 144
COATNET_MEAN, COATNET_STD = 0.482, 0.236


def package_coatnet(weights: Path, study: Path, out: Path) -> None:
    """The published CoAtNet as a model folder, with the preprocessing that it was trained with."""
    from medfm_compress.compress.networks.build import build_model
    from medfm_compress.compress.networks.model import save_model
    from medfm_compress.compress.training.dataset import task_of
    from medfm_compress.data.open import open_study
    from medfm_compress.runtime.image_spec import ImageSpec

    spec = ImageSpec(
        height_px=COATNET_PIXELS,
        width_px=COATNET_PIXELS,
        colour="grey",
        mean=(COATNET_MEAN,),
        std=(COATNET_STD,),
        crop_fraction=COATNET_PIXELS / COATNET_RESIZED,
    )
    task = task_of(open_study(study))
    model = build_model(COATNET_MODEL, task, size_px=COATNET_PIXELS, colour="grey", weights=weights, spec=spec)
    save_model(replace(model, licence="CC BY 4.0 (data)"), out)


def command_of(plan: TeacherPlan, study: Path, teachers: Path) -> list[str]:
    """The command that trains a teacher."""
    command = [sys.executable, "-m", "medfm_compress", "finetune", plan.model, "--study", str(study)]
    command += ["--image-size", str(plan.pixels), "--modality", plan.modality, "--epochs", str(plan.epochs)]
    command += ["--learning-rate", str(plan.learning_rate), "--patience", "0", "--device", "cpu"]
    command += ["--licence", plan.licence, "--out", str(teachers / plan.name)]
    return [*command, "--weights", str(teachers / plan.start / "model.safetensors")] if plan.start else command


def main() -> None:
    """Make what is missing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--studies", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--only", action="append", default=[])
    arguments = parser.parse_args()
    requested = arguments.only or [CHEST, *(plan.name for plan in TEACHERS)]
    if CHEST in requested and not (arguments.out / CHEST / "model.json").is_file():
        package_coatnet(arguments.data / "models" / COATNET, arguments.studies / "chest.csv", arguments.out / CHEST)
    for plan in TEACHERS:
        if plan.name in requested and not (arguments.out / plan.name / "model.json").is_file():
            study = arguments.data / plan.study if plan.study.endswith("/") else arguments.studies / f"{plan.study}.csv"
            subprocess.run(command_of(plan, study, arguments.out), check=True)


if __name__ == "__main__":
    main()
