"""The walk from a teacher to a verdict; each step is also a command.

study → teacher → student (→ pruned) → bundle (→ INT8) → report → verdict
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import NamedTuple

from medfm_compress import steps
from medfm_compress.bench.gate.policy_file import load_policy
from medfm_compress.bench.report import Report, load_report
from medfm_compress.bench.run import REPORT_JSON
from medfm_compress.bench.types.verdict import Verdict
from medfm_compress.compress.teachers.open import TeacherSource
from medfm_compress.recipe import LoadedRecipe
from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.progress import Progress
from medfm_compress.step_cache import StepCache


class Finished(NamedTuple):
    """Where everything is, and the answer."""

    bundle: Path
    report_folder: Path
    report: Report
    verdict: Verdict


def compress(loaded: LoadedRecipe, study: Path | None, out: Path, progress: Progress) -> Finished:
    """Do the whole job, or what is left of it.

    Args:
        loaded: the recipe.
        study: takes the place of the recipe's own.
        out: folder for everything that is made; an interrupted call goes on there.
        progress: receives one line at a time.

    Raises:
        MedfmError: as the steps do.
    """
    recipe = loaded.recipe
    if study is None and not recipe.study:
        raise InputError("the recipe names no study; add 'study:' to it or give --study")
    source = study or loaded.resolve(recipe.study)
    policy = load_policy(loaded.resolve(recipe.policy))
    cache = StepCache(out, progress)

    prepare_study = [steps.fingerprint_of(source), recipe.split]
    table = cache.step(
        "study", "study.csv", prepare_study, partial(steps.prepare_study, source, recipe.split, progress)
    )
    prepare_teacher = partial(steps.prepare_teacher, loaded, table, progress)
    teacher = cache.step("teacher", "teacher", recipe.teacher, prepare_teacher)
    distill = partial(steps.distill, table, (TeacherSource(source=str(teacher)),), recipe.distill, progress)
    model = cache.step("distill", "student", recipe.distill, distill)
    if recipe.prune is not None:
        prune = partial(steps.prune, table, teacher, model, recipe.prune, progress)
        model = cache.step("prune", "pruned", recipe.prune, prune)
    export = partial(steps.export, model, table, recipe.export, recipe.name, loaded.sha256, progress)
    bundle = cache.step("export", "exported.medfm", [recipe.export, loaded.sha256], export)
    if recipe.quantize is not None:
        quantize = partial(steps.quantize, table, bundle, recipe.quantize, progress)
        bundle = cache.step("quantize", "quantized.medfm", recipe.quantize, quantize)
    bench = partial(steps.bench, table, teacher, bundle, policy, recipe.bench, progress)
    report = cache.step("bench", "report", [recipe.bench, policy.sha256], bench)
    finished = out / f"{recipe.name}.medfm"
    verdict = steps.gate(report / REPORT_JSON, bundle, finished)
    return Finished(finished, report, load_report(report / REPORT_JSON), verdict)
