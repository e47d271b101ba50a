"""Prune in steps, recovering by distillation after each, and write down what was done.

    original ──cut──▶ recover a little ──cut──▶ recover a little … ──cut──▶ (2:4) ──▶ recover ──▶ measure

Each step is a model folder below ``out/training``, with a record beside it of what it was made from: an interrupted
call takes up the first one that is missing, and within it whatever distillation and measuring have kept.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import msgspec

from medfm_compress.bench.measure.latency import Plan
from medfm_compress.bench.render.html.pruning_sensitivity import write_sensitivity
from medfm_compress.bench.types.measurement import Measurement
from medfm_compress.compress.distillation.distill import distill
from medfm_compress.compress.networks.model import CARD, Model, load_model, save_model
from medfm_compress.compress.pruning import record as records
from medfm_compress.compress.pruning.calibration_cases import training_batches, validation_question
from medfm_compress.compress.pruning.goal import PruningGoal
from medfm_compress.compress.pruning.importance import NEEDS_CASES
from medfm_compress.compress.pruning.options import PruneOptions
from medfm_compress.compress.pruning.prune import loss_of, prune
from medfm_compress.compress.pruning.record import RECORD, PruningRecord, Step, record_step
from medfm_compress.compress.pruning.sensitivity_cache import CurveBook
from medfm_compress.compress.pruning.sensitivity_record import sensitivity_of
from medfm_compress.compress.pruning.sparsity import keep_sparse, sparsify, verify_sparse
from medfm_compress.compress.pruning.target_latency import TargetClock
from medfm_compress.compress.pruning.width_search import Material
from medfm_compress.compress.teachers.module_teacher import ModuleTeacher
from medfm_compress.compress.training.config import TrainingConfig
from medfm_compress.compress.training.device import best_device
from medfm_compress.compress.training.job import Progress
from medfm_compress.data.fingerprint import study_fingerprint
from medfm_compress.data.study import Study
from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.strict_json import digest

_ROUNDS = 10  # of the final comparison


@dataclasses.dataclass(frozen=True)
class Work:
    """What all steps share.

    Attributes:
        study: with train and val splits.
        teacher: what recovery distils from: the original, or its own teacher.
        options: what is wanted.
        out: folder of the result.
        progress: receives one line at a time.
    """

    study: Study
    teacher: Model
    options: PruneOptions
    out: Path
    progress: Progress

    @property
    def training(self) -> Path:
        """Where everything lies that an interrupted call goes on with."""
        return self.out / "training"


def prune_and_recover(work: Work, model: Model) -> PruningRecord:
    """Prune ``model`` as the options say, let it recover, save it at ``work.out`` with `pruning.json` beside it.

    Raises:
        InputError: a goal that needs what is not given.
        ModelError: the goal is out of reach.
        StudyError: labels that are not the model's, or too few cases.
    """
    options = work.options
    goal = options.clock_goal()
    clock = TargetClock(model, goal, work.progress) if goal else None
    _refuse_what_is_met(options, model, clock)
    targets = _targets(options, model, clock)
    current = model
    steps: list[Step] = []
    for number, target in enumerate(targets):
        wanted = _from_here(target, steps)
        if wanted is None:
            continue
        current, step = _step(work, current, clock, number, wanted)
        steps.append(step)
        if number + 1 < len(targets):
            training = msgspec.structs.replace(options.training, epochs=options.step_epochs)
            current = _recovered(work, current, training, work.training / f"step-{number + 1}-recovered")
    names: tuple[str, ...] = ()
    if options.sparse:
        names = sparsify(current.module).layers
        keep_sparse(current.module)
    if options.training.epochs:
        result = _recovered(work, current, options.training, work.out)
    else:
        result = current
        save_model(result, work.out)
    verify_sparse(result.module, names)
    measurements = _compare(model, result, clock, work.progress)
    record = PruningRecord(
        model=model.name,
        goal=records.spoken(options.goal()),
        target=clock.target if clock else "",
        options=options,
        macs_before=steps[0].macs_before,
        macs_after=steps[-1].macs_after,
        parameters_before=steps[0].parameters_before,
        parameters_after=steps[-1].parameters_after,
        steps=tuple(steps),
        sparse=tuple(names),
        measurements=measurements,
    )
    records.save(record, work.out / RECORD)
    return record


def _refuse_what_is_met(options: PruneOptions, model: Model, clock: TargetClock | None) -> None:
    """A model that is fast or small enough already is not to lose anything."""
    if clock is None:
        return
    if options.latency_ms is not None and (now := clock.measure(model.module)) <= options.latency_ms:
        raise InputError(
            f"latency {options.latency_ms:g} ms is met already: {model.name} takes {now:.3g} ms on {clock.target}; ask "
            "for less"
        )
    if options.size_mb is not None and (size := clock.size(model.module) / 1e6) <= options.size_mb:
        raise InputError(
            f"size {options.size_mb:g} MB is met already: {model.name} has {size:.3g} MB on {clock.target}; ask for "
            "less"
        )


def _targets(options: PruneOptions, model: Model, clock: TargetClock | None) -> list[PruningGoal]:
    """The goals of the steps: equal ratios from where the model is to where it is to be.

    Every one but the last is absolute, so that what one step leaves over the next takes up.
    """
    goal = options.goal()
    if options.steps == 1:
        return [goal]
    shares = [(number + 1) / options.steps for number in range(options.steps)]
    if goal.macs is not None:
        return [dataclasses.replace(goal, macs=goal.macs**share) for share in shares]
    if clock is None:
        return [goal]
    if goal.size_mb is not None:
        full = clock.size(model.module) / 1e6
        return [dataclasses.replace(goal, size_mb=full * (goal.size_mb / full) ** share) for share in shares]
    full = clock.measure(model.module)
    end = goal.latency_ms or full / (goal.speedup or 1)
    return [dataclasses.replace(goal, speedup=None, latency_ms=full * (end / full) ** share) for share in shares]


def _from_here(goal: PruningGoal, steps: Sequence[Step]) -> PruningGoal | None:
    """``goal``, whose MACs are of the original, as one that counts from where ``steps`` led; None if it is met."""
    if goal.macs is None or not steps:
        return goal
    share = goal.macs * steps[0].macs_before / steps[-1].macs_after
    return dataclasses.replace(goal, macs=share) if share < 1 else None


def _step(work: Work, current: Model, clock: TargetClock | None, number: int, goal: PruningGoal) -> tuple[Model, Step]:
    """One cut, or what an earlier call left of it."""
    folder = work.training / f"step-{number + 1}"
    if number:  # blocks that merge go on merging
        goal = dataclasses.replace(goal, merge_tokens=0)
    settings = msgspec.structs.replace(work.options, training=TrainingConfig(), steps=1, step_epochs=1)
    made_from = [current.weights_sha256(), current.architecture, study_fingerprint(work.study), settings, repr(goal)]
    fingerprint = digest([*made_from, work.options.training.seed])
    known = records.load(folder / "step.json", Step)
    if known is not None and known.fingerprint == fingerprint and (folder / CARD).is_file():
        work.progress(f"step {number + 1}: kept from an earlier call")
        return load_model(folder), known
    material = _material(work, current, clock, goal, CurveBook(folder / "damage.json", fingerprint))
    pruned = prune(current, goal, material)
    work.progress(
        f"step {number + 1}: {pruned.macs_after / pruned.macs_before:.3f} of the MACs, "
        f"{pruned.parameters_after / pruned.parameters_before:.3f} of the parameters"
    )
    step = record_step(pruned, fingerprint, goal)
    save_model(pruned.model, folder)
    if material.question is not None:
        whole = material.question
        write_sensitivity(sensitivity_of(step, current.name, work.options.target, whole), folder)
    records.save(step, folder / "step.json")
    return pruned.model, step


def _material(work: Work, model: Model, clock: TargetClock | None, goal: PruningGoal, curves: CurveBook) -> Material:
    seed, progress = work.options.training.seed, work.progress
    needs_train = goal.importance in NEEDS_CASES or goal.repair
    return Material(
        train=training_batches(work.study, model, progress, seed) if needs_train else (),
        loss=loss_of(model.task),
        question=validation_question(work.study, model, progress, seed) if goal.allocation == "measured" else None,
        clock=clock,
        curves=curves,
        progress=progress,
    )


def _recovered(work: Work, model: Model, training: TrainingConfig, out: Path) -> Model:
    """``model`` after distillation from the teacher; steps share the teacher's answers and the prepared images."""
    if out != work.out:
        for name in ("answers", "cache"):
            shared, link = work.training / name, out / "training" / name
            shared.mkdir(parents=True, exist_ok=True)
            link.parent.mkdir(parents=True, exist_ok=True)
            if not link.exists():
                link.symlink_to(shared.resolve(), target_is_directory=True)
    teacher = ModuleTeacher(work.teacher, best_device(training.device))
    return distill((work.study,), teacher, model, training, out, work.progress, work.options.distillation)


def _compare(before: Model, after: Model, clock: TargetClock | None, progress: Progress) -> tuple[Measurement, ...]:
    """Both on the target, in turns, each in a fresh process."""
    if clock is None:
        return ()
    progress(f"timing the original and the pruned network in turns on {clock.target}")
    return clock.compare(
        {"original": before.module, "pruned": after.module}, Plan(rounds=_ROUNDS, threads=clock.threads)
    )
