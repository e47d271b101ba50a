"""The demo: a synthetic study and the recipe that is run on it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from medfm_compress import pipeline
from medfm_compress.bench.measure.latency import Plan
from medfm_compress.compress.distillation.options import Distillation
from medfm_compress.compress.quantization.options import QuantizeOptions
from medfm_compress.compress.training.config import TrainingConfig
from medfm_compress.data.open import open_study
from medfm_compress.data.synthetic import draw_study
from medfm_compress.recipe import LoadedRecipe, Recipe
from medfm_compress.runtime.atomic_write import write_atomically
from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.image_spec import DicomRules
from medfm_compress.runtime.strict_json import digest
from medfm_compress.step_settings import BenchStep, DistillStep, ExportStep, FinetuneStep

PATIENTS = 1400
# Half of them are test patients: they cost little time, and a margin takes them (`study check --policy` says how many).
SHARES = {"train": 0.40, "val": 0.10, "test": 0.50}
POLICY = """\
# Written before any model has seen a test image.
non_inferiority:
  - metric: auroc
    margin: 0.05
    teacher_floor: 0.80
budget:
  min_speedup: 2.0
  min_compression: 4.0
min_positives: 50
min_negatives: 50
min_clusters: 100
"""


def run_demo(
    out: Path, seed: int, progress: Callable[[str], None], *, overwrite: bool = True
) -> tuple[pipeline.Finished, Path]:
    """Draw the study, run the recipe, and name one DICOM file of the test split.

    Args:
        out: folder for the study and everything that is made; finished steps are not repeated.
        seed: of drawing and training.
        progress: receives one line at a time.
        overwrite: replace what another seed or version made there.

    Raises:
        InputError: there is a policy of another content, or what another seed or version made, and it is to stay.
    """
    study, policy = out / "study", out / "policy.yaml"
    if not overwrite and policy.is_file() and policy.read_bytes() != POLICY.encode():
        raise InputError(f"{policy} is not the demo's; name another folder with --out, or replace it with --overwrite")
    if not (study / "cases.csv").is_file():
        progress(f"drawing {PATIENTS} synthetic patients …")
        draw_study(study, patients=PATIENTS, seed=seed, shares=SHARES)
    write_atomically(policy, POLICY.encode())
    recipe = demo_recipe(seed)
    loaded = LoadedRecipe.at(recipe, out, digest(recipe))
    finished = pipeline.compress(loaded, study, out, progress, overwrite=overwrite)
    case = next(case for case in open_study(study).split("test") if case.target == (1,))
    return finished, study / case.image


def demo_recipe(seed: int) -> Recipe:
    """A ResNet-26 teacher and a ResNet-10 student at 64 px: small enough to train in minutes on two cores."""
    return Recipe(
        name="demo",
        policy="policy.yaml",
        teacher=FinetuneStep(
            model="resnet26t",
            image_size=64,
            licence="Apache-2.0",
            dicom=DicomRules(modalities=("DX", "CR"), view_positions=("PA", "AP")),
            training=TrainingConfig(epochs=8, learning_rate=2e-3, ema=0.95, seed=seed),
        ),
        distill=DistillStep(
            student="resnet10t",
            training=TrainingConfig(epochs=18, learning_rate=2e-3, ema=0.95, patience=0, seed=seed),
            distillation=Distillation(views=2),
        ),
        export=ExportStep(intended_use="A demonstration on synthetic images. Never for clinical use."),
        quantize=QuantizeOptions(samples=128, time_budget_s=15, reduced_range=False, optimised=False, nncf=False),
        bench=BenchStep(plan=Plan(rounds=10, turn_ms=100, warm_up_s=2)),
    )
