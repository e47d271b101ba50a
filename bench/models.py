"""Who takes part in a bench: the teacher, every variant of the bundle, and models that other tools made."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from medfm_compress.bench.evaluate.operating_points import choose_operating_points
from medfm_compress.bench.evaluate.subprocess_inference import Folders, evaluate_model
from medfm_compress.bench.evaluate.temperature_scaling import calibrate
from medfm_compress.bench.measure.latency import ModelUnderTest, Plan
from medfm_compress.bench.report import TEACHER
from medfm_compress.data.study import Study
from medfm_compress.runtime.bundle.bundle import Bundle
from medfm_compress.runtime.bundle.manifest import Variant
from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.image_spec import ImageSpec
from medfm_compress.runtime.progress import Progress
from medfm_compress.runtime.sessions.protocol import SessionRef
from medfm_compress.runtime.task import OperatingPoint, Task

VARIANT_OPENER = "medfm_compress.runtime.sessions.table:open_bundle_variant"


class TeacherRef(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The teacher, as a session that a fresh process opens.

    Attributes:
        name: architecture, for the report.
        session: how to open it, on as many threads as the plan says.
        spec: its own preprocessing.
        task: its own temperature and operating points; without points they are chosen here, on validation cases.
        size_bytes: of its weights.
        licence: of its weights.
    """

    name: str
    session: SessionRef
    spec: ImageSpec
    task: Task
    size_bytes: int
    licence: str = ""


def teacher_model(teacher: TeacherRef, files: tuple[str, ...]) -> ModelUnderTest:
    """The teacher under the name that everything is held against."""
    return ModelUnderTest(
        name=TEACHER,
        session=teacher.session,
        spec=teacher.spec,
        task=teacher.task,
        size_bytes=teacher.size_bytes,
        files=files,
    )


def variant_models(
    bundle: Bundle, threads: int, targets: tuple[str, ...] = (), files: tuple[str, ...] = ()
) -> tuple[ModelUnderTest, ...]:
    """A model for each variant, each with its own temperature and thresholds.

    Args:
        bundle: that holds them.
        threads: of every engine.
        targets: take only variants whose ``backend:device[:precision]`` begins with one of these; empty takes all.
        files: images for the end-to-end time.

    Raises:
        InputError: no variant is left.
    """
    chosen = [variant for variant in bundle.manifest.variants if _fits(variant, targets)]
    if not chosen:
        there = ", ".join(variant.target for variant in bundle.manifest.variants)
        raise InputError(f"no variant fits the targets {', '.join(targets)}; the bundle has {there}")
    return tuple(
        ModelUnderTest(
            name=variant.name,
            session=SessionRef(
                opener=VARIANT_OPENER,
                arguments={"bundle": str(bundle.path.resolve()), "variant": variant.name, "threads": threads},
            ),
            spec=bundle.manifest.image_spec,
            task=bundle.manifest.task_of(variant),
            size_bytes=bundle.variant_bytes(variant),
            files=files,
        )
        for variant in chosen
    )


def with_points(
    model: ModelUnderTest, rule: str, study: Study, plan: Plan, folder: Folders, progress: Progress
) -> ModelUnderTest:
    """``model`` with a temperature and operating points of its own, decided on validation cases, if it lacks them.

    They come about as those of a bundle do (see `calibrate`), so that neither side is held against scores that nobody
    calibrated. A study without validation cases leaves it as it is.
    """
    cases = tuple(case for case in study.split("val") if case.target)
    if model.task.operating_points or not rule or not cases:
        return model
    evaluation = evaluate_model(model, study, cases, plan, folder, progress)
    calibrated = calibrate(evaluation, model.task)
    points = choose_operating_points(calibrated.evaluation, rule=rule)
    return with_task_points(msgspec.structs.replace(model, task=calibrated.task), points)


def with_task_points(model: ModelUnderTest, points: tuple[OperatingPoint, ...]) -> ModelUnderTest:
    """``model`` deciding at ``points``."""
    return msgspec.structs.replace(model, task=msgspec.structs.replace(model.task, operating_points=points))


def check_names(models: Iterable[ModelUnderTest]) -> None:
    """Check that every model has a name of its own.

    Raises:
        InputError: two have the same.
    """
    names = [model.name for model in models]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(f"two models are called {twice[0]!r}; rename the file of one of them")


def _fits(variant: Variant, targets: tuple[str, ...]) -> bool:
    return not targets or any(f"{variant.target}:".startswith(f"{target}:") for target in targets)
