"""Prune in steps, recovering by distillation after each, and write down what was done.

    original ──cut──▶ recover a little ──cut──▶ recover a little … ──cut──▶ (2:4) ──▶ recover ──▶ measure

Each step is a model folder below ``out/training``, with a record beside it of what it was made from: an interrupted
call takes up the first one that is missing, and within it whatever distillation and measuring have kept.
"""

from __future__ import annotations

import dataclasses
from collections.abc import MutableMapping, Sequence
from pathlib import Path

import msgspec

from medfm_compress.bench.measure.latency import Plan
from medfm_compress.bench.render.html.pruning_sensitivity import write_sensitivity
from medfm_compress.bench.types.measurement import Measurement
from medfm_compress.bench.types.sensitivity import SensitivityPoint
from medfm_compress.compress.distillation.distill import distill
from medfm_compress.compress.latency.json_cache import JsonCache
from medfm_compress.compress.networks.model import CARD, Model, load_model, save_model
from medfm_compress.compress.pruning import record as records
from medfm_compress.compress.pruning.calibration_cases import training_batches, validation_set
from medfm_compress.compress.pruning.goal import PruningGoal
from medfm_compress.compress.pruning.importance import NEEDS_CASES
from medfm_compress.compress.pruning.int8_student import judge_int8
from medfm_compress.compress.pruning.kinds import pruning_rules
from medfm_compress.compress.pruning.options import PruneOptions
from medfm_compress.compress.pruning.prune import prune
from medfm_compress.compress.pruning.record import RECORD, PruningRecord, Step, record_step
from medfm_compress.compress.pruning.sensitivity_record import sensitivity_of
from medfm_compress.compress.pruning.sparsity import keep_sparse, sparsify, verify_sparse
from medfm_compress.compress.pruning.target_latency import TargetLatency
from medfm_compress.compress.pruning.width_search import PruningData
from medfm_compress.compress.teachers.output_cache import OutputCache
from medfm_compress.compress.teachers.teacher import Teacher
from medfm_compress.compress.training.config import TrainingConfig
from medfm_compress.data.fingerprint import study_fingerprint
from medfm_compress.data.study import Study
from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.progress import Progress
from medfm_compress.runtime.strict_json import digest

_ROUNDS = 10  # of the final comparison
_STEP = "step"  # key of the one entry of a step's cache
SensitivityCurves = MutableMapping[str, tuple[SensitivityPoint, ...]]


@dataclasses.dataclass(frozen=True)
class PruningRun:
    """What all steps share.

    Attributes:
        study: with train and val splits.
        teacher: what recovery distils from: the original, or its own teacher.
        options: goal, method and training.
        out: folder of the result.
        progress: receives one line at a time.
    """

    study: Study
    teacher: Teacher | OutputCache
    options: PruneOptions
    out: Path
    progress: Progress

    @property
    def training(self) -> Path:
        """Where everything lies that an interrupted call goes on with."""
        return self.out / "training"


def prune_and_recover(run: PruningRun, model: Model) -> PruningRecord:
    """Prune ``model`` as the options say, let it recover, save it at ``run.out`` with `pruning.json` beside it.

    Raises:
        InputError: a goal that needs what is not given.
        ModelError: the goal is out of reach.
        StudyError: labels that are not the model's, or too few cases.
    """
    options = run.options
    goal = options.latency_goal()
    target_latency = TargetLatency(model, goal, run.progress) if goal else None
    _refuse_what_is_met(options, model, target_latency)
    targets = _targets(options, model, target_latency)
    current = model
    steps: list[Step] = []
    for number, target in enumerate(targets):
        remaining = _from_here(target, steps)
        if remaining is None:
            continue
        current, step = _step(run, current, target_latency, number, remaining)
        steps.append(step)
        if number + 1 < len(targets):
            training = msgspec.structs.replace(options.training, epochs=options.step_epochs)
            current = _recovered(run, current, training, run.training / f"step-{number + 1}-recovered")
    names: tuple[str, ...] = ()
    if options.sparse:
        names = sparsify(current.module).layers
        keep_sparse(current.module)
    if options.training.epochs:
        result = _recovered(run, current, options.training, run.out)
    else:
        result = current
        save_model(result, run.out)
    verify_sparse(result.module, names)
    measurements = _compare(model, result, target_latency, run.progress)
    is_int8 = goal is not None and goal.target.precision.startswith("int8")
    int8 = judge_int8(result, model, run.study, goal, run.progress, options.training.seed) if goal and is_int8 else None
    record = PruningRecord(
        model=model.name,
        goal=records.describe_goal(options.goal()),
        target=target_latency.target if target_latency else "",
        options=options,
        macs_before=steps[0].macs_before,
        macs_after=steps[-1].macs_after,
        parameters_before=steps[0].parameters_before,
        parameters_after=steps[-1].parameters_after,
        steps=tuple(steps),
        sparse=tuple(names),
        measurements=measurements,
        int8=int8,
    )
    records.save(record, run.out / RECORD)
    return record


def _refuse_what_is_met(options: PruneOptions, model: Model, target_latency: TargetLatency | None) -> None:
    """A model that is fast or small enough already is not to lose anything."""
    if target_latency is None:
        return
    if options.max_latency_ms is not None and (now := target_latency.measure(model.module)) <= options.max_latency_ms:
        raise InputError(
            f"latency {options.max_latency_ms:g} ms is met already: {model.name} takes {now:.3g} ms on "
            f"{target_latency.target}; ask for less"
        )
    if options.max_size_mb is not None and (size := target_latency.size(model.module) / 1e6) <= options.max_size_mb:
        raise InputError(
            f"size {options.max_size_mb:g} MB is met already: {model.name} has {size:.3g} MB on "
            f"{target_latency.target}; ask for less"
        )


def _targets(options: PruneOptions, model: Model, target_latency: TargetLatency | None) -> list[PruningGoal]:
    """The goals of the steps: equal ratios from where the model is to where it is to be.

    Every one but the last is absolute, so that what one step leaves over the next takes up.
    """
    goal = options.goal()
    if options.steps == 1:
        return [goal]
    shares = [(number + 1) / options.steps for number in range(options.steps)]
    if goal.macs is not None:
        return [dataclasses.replace(goal, macs=goal.macs**share) for share in shares]
    if target_latency is None:
        return [goal]
    if goal.size_mb is not None:
        full = target_latency.size(model.module) / 1e6
        return [dataclasses.replace(goal, size_mb=full * (goal.size_mb / full) ** share) for share in shares]
    full = target_latency.measure(model.module)
    end = goal.latency_ms or full / (goal.speedup or 1)
    return [dataclasses.replace(goal, speedup=None, latency_ms=full * (end / full) ** share) for share in shares]


def _from_here(goal: PruningGoal, steps: Sequence[Step]) -> PruningGoal | None:
    """``goal``, whose MACs are of the original, as one that counts from where ``steps`` led; None if it is met."""
    if goal.macs is None or not steps:
        return goal
    share = goal.macs * steps[0].macs_before / steps[-1].macs_after
    return dataclasses.replace(goal, macs=share) if share < 1 else None


def _step(
    run: PruningRun, current: Model, target_latency: TargetLatency | None, number: int, goal: PruningGoal
) -> tuple[Model, Step]:
    """One cut, or what an earlier call left of it."""
    folder = run.training / f"step-{number + 1}"
    if number:  # blocks that merge go on merging
        goal = dataclasses.replace(goal, merge_tokens=0)
    settings = msgspec.structs.replace(run.options, training=TrainingConfig(), steps=1, step_epochs=1)
    made_from = [current.weights_sha256(), current.architecture, study_fingerprint(run.study), settings, repr(goal)]
    fingerprint = digest([*made_from, run.options.training.seed])
    steps = JsonCache(folder / "step.json", fingerprint, Step)
    if _STEP in steps and (folder / CARD).is_file():
        run.progress(f"step {number + 1}: kept from an earlier call")
        return load_model(folder), steps[_STEP]
    curves = JsonCache(folder / "sensitivity-cache.json", fingerprint, tuple[SensitivityPoint, ...])
    data = _data(run, current, target_latency, goal, curves)
    pruned = prune(current, goal, data)
    run.progress(
        f"step {number + 1}: {pruned.macs_after / pruned.macs_before:.3f} of the MACs, "
        f"{pruned.parameters_after / pruned.parameters_before:.3f} of the parameters"
    )
    step = record_step(pruned, fingerprint, goal)
    save_model(pruned.model, folder)
    if data.validation is not None:
        whole = data.validation
        write_sensitivity(sensitivity_of(step, current.name, run.options.target, whole), folder)
    steps[_STEP] = step
    return pruned.model, step


def _data(
    run: PruningRun, model: Model, target_latency: TargetLatency | None, goal: PruningGoal, curves: SensitivityCurves
) -> PruningData:
    seed, progress = run.options.training.seed, run.progress
    needs_train = goal.importance in NEEDS_CASES or goal.repair
    return PruningData(
        train=training_batches(run.study, model, progress, seed) if needs_train else (),
        loss=pruning_rules(model.task).loss(model.task),
        validation=validation_set(run.study, model, progress, seed) if goal.allocation == "measured" else None,
        target_latency=target_latency,
        curves=curves,
        progress=progress,
    )


def _recovered(run: PruningRun, model: Model, training: TrainingConfig, out: Path) -> Model:
    """``model`` after distillation from the teacher; steps share the teacher's answers and the prepared images."""
    if out != run.out:
        for name in ("teacher-outputs", "cache"):
            shared, link = run.training / name, out / "training" / name
            shared.mkdir(parents=True, exist_ok=True)
            link.parent.mkdir(parents=True, exist_ok=True)
            if not link.exists():
                link.symlink_to(shared.resolve(), target_is_directory=True)
    return distill((run.study,), run.teacher, model, training, out, run.progress, run.options.distillation)


def _compare(
    before: Model, after: Model, target_latency: TargetLatency | None, progress: Progress
) -> tuple[Measurement, ...]:
    """Both on the target, in turns, each in a fresh process."""
    if target_latency is None:
        return ()
    progress(f"timing the original and the pruned network in turns on {target_latency.target}")
    return target_latency.compare(
        {"original": before.module, "pruned": after.module}, Plan(rounds=_ROUNDS, threads=target_latency.threads)
    )
