"""Who takes part in a bench: the teacher, every variant of the bundle, and models that other tools made."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import msgspec

from medfm_compress.bench.evaluate.operating_points import choose_operating_points
from medfm_compress.bench.evaluate.subprocess_inference import Scratch, evaluate_model
from medfm_compress.bench.evaluate.temperature_scaling import calibrate
from medfm_compress.bench.measure.latency import ModelUnderTest, Plan
from medfm_compress.bench.report import TEACHER
from medfm_compress.bench.types.target import names_device
from medfm_compress.data.study import Study
from medfm_compress.runtime.bundle.bundle import Bundle
from medfm_compress.runtime.bundle.manifest import Manifest, Variant
from medfm_compress.runtime.columns import Column
from medfm_compress.runtime.cpu import read_cpu
from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.image_spec import ImageSpec
from medfm_compress.runtime.progress import Progress
from medfm_compress.runtime.sessions.devices import obstacle
from medfm_compress.runtime.sessions.instruction_sets import lacking
from medfm_compress.runtime.sessions.protocol import SessionRef
from medfm_compress.runtime.sessions.table import is_available
from medfm_compress.runtime.task import OperatingPoint, Task

OWN = "by its own temperature and operating points"
CHOSEN = "by a temperature and operating points chosen on this study's validation cases, as the bundle's were"
BUNDLES = (
    "by the bundle's temperature and operating points, since it has none and these were not chosen on this study's "
    "validation cases"
)
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
        columns: that it takes beside the image.
        identity: ``name@sha256`` of all that decides its answers; empty where it is not known.
    """

    name: str
    session: SessionRef
    spec: ImageSpec
    task: Task
    size_bytes: int
    licence: str = ""
    columns: tuple[Column, ...] = ()
    identity: str = ""


def teacher_model(teacher: TeacherRef, files: tuple[str, ...]) -> ModelUnderTest:
    """The teacher under the name that everything is held against."""
    return ModelUnderTest(
        name=TEACHER,
        session=teacher.session,
        spec=teacher.spec,
        task=teacher.task,
        columns=teacher.columns,
        size_bytes=teacher.size_bytes,
        files=files,
    )


def chosen_variants(bundle: Bundle, targets: tuple[str, ...] = ()) -> tuple[Variant, ...]:
    """Variants whose ``backend:device[:precision]`` begins with one of ``targets``; without any, all.

    Raises:
        InputError: no variant is left.
    """
    chosen = tuple(variant for variant in bundle.manifest.variants if _fits(variant, targets))
    if not chosen:
        there = ", ".join(variant.target for variant in bundle.manifest.variants)
        raise InputError(f"no variant fits the targets {', '.join(targets)}; the bundle has {there}")
    return chosen


def unavailable_variants(bundle: Bundle, targets: tuple[str, ...] = ()) -> dict[str, str]:
    """Variant → why it cannot be judged on this machine, of those that ``targets`` take.

    Its device is not to be had, or the CPU lacks instructions without which its engine computes something else than
    where it may run.

    Raises:
        InputError: no variant fits the targets, one of them names such a device, or no variant is left.
    """
    chosen = chosen_variants(bundle, targets)
    reasons = {variant.name: reason for variant in chosen if (reason := _unavailable(variant))}
    for variant in chosen:
        named = [target for target in targets if names_device(target) and _fits(variant, (target,))]
        if named and variant.name in reasons:
            raise InputError(
                f"target {named[0]!r} cannot be measured here: {reasons[variant.name]}; leave it out, or bench on a "
                "machine that has the device"
            )
    if reasons and len(reasons) == len(chosen):
        every = "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
        raise InputError(f"no variant can be measured here: {every}")
    return reasons


def _unavailable(variant: Variant) -> str:
    """Why the engine does not compute here what the variant gives where it may run; empty where it does."""
    if missing := lacking(variant.backend, variant.instruction_set, read_cpu()):
        return f"this CPU lacks {', '.join(missing)}, without which {variant.backend} computes something else"
    impossible = obstacle(variant.backend, variant.device, variant.precision)
    available = is_available(variant.backend, variant.device) if not impossible else None
    return impossible if available is None else ("" if available.ok else available.reason)


def variant_models(
    bundle: Bundle,
    threads: int,
    targets: tuple[str, ...] = (),
    files: tuple[str, ...] = (),
    engines: Path | None = None,
) -> tuple[ModelUnderTest, ...]:
    """A model for each variant, each with its own temperature and thresholds.

    Args:
        bundle: that holds them.
        threads: of every engine.
        targets: take only variants whose ``backend:device[:precision]`` begins with one of these; empty takes all.
        files: images for the end-to-end time.
        engines: folder where engines of TensorRT are kept, so that what is evaluated is what is timed: two builds of
            one file can differ.

    Raises:
        InputError: no variant is left.
    """
    return tuple(
        ModelUnderTest(
            name=variant.name,
            session=SessionRef(
                opener=VARIANT_OPENER,
                arguments={"bundle": str(bundle.path.resolve()), "variant": variant.name, "threads": threads}
                | ({"cache_dir": str(engines)} if engines and variant.backend == "tensorrt" else {}),
            ),
            spec=bundle.manifest.image_spec,
            task=bundle.manifest.task_of(variant),
            columns=bundle.manifest.told,
            size_bytes=bundle.variant_bytes(variant),
            files=files,
        )
        for variant in chosen_variants(bundle, targets)
    )


class Decided(NamedTuple):
    """A model with the temperature and operating points that it is judged by, and whose they are."""

    model: ModelUnderTest
    rule: str


class Calibration(NamedTuple):
    """What it takes to give a model a temperature and operating points.

    Attributes:
        manifest: of the bundle that it stands beside.
        study: that is evaluated.
        fingerprint: of the study.
        plan: of the process that evaluates validation cases.
        folder: for its arrays.
        progress: told now and then.
    """

    manifest: Manifest
    study: Study
    fingerprint: str
    plan: Plan
    folder: Scratch
    progress: Progress


def decided(model: ModelUnderTest, calibration: Calibration) -> Decided:
    """``model`` with a temperature and operating points, which always come together and from one place.

    Its own, where it has any. Else, on the study on which the bundle's were chosen, from the same validation cases in
    the same way, so that neither side is held against scores that nobody calibrated. On any other study the bundle's:
    chosen anew there, the teacher alone would be fitted to the new site, and even the same network would differ.
    """
    task, theirs = model.task, calibration.manifest.task
    if task.is_dense:  # each pixel is what is most probable there: nothing to choose
        return Decided(model, OWN)
    if task.operating_points or task.temperature != 1:
        return Decided(model, OWN)
    if calibration.manifest.provenance.calibration_fingerprint != calibration.fingerprint:
        return Decided(with_task_points(model, theirs.temperature, theirs.operating_points), BUNDLES)
    cases = tuple(case for case in calibration.study.split("val") if case.target)
    if not cases:
        return Decided(with_task_points(model, theirs.temperature, theirs.operating_points), BUNDLES)
    evaluation = evaluate_model(
        model, calibration.study, cases, calibration.plan, calibration.folder, calibration.progress
    )
    calibrated = calibrate(evaluation, task)
    rule = next((point.rule for point in theirs.operating_points), "")
    points = choose_operating_points(calibrated.evaluation, rule=rule) if rule else ()
    return Decided(with_task_points(model, calibrated.task.temperature, points), CHOSEN)


def with_task_points(model: ModelUnderTest, temperature: float, points: tuple[OperatingPoint, ...]) -> ModelUnderTest:
    """``model`` deciding at ``points`` of probabilities at ``temperature``."""
    task = msgspec.structs.replace(model.task, temperature=temperature, operating_points=points)
    return msgspec.structs.replace(model, task=task)


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
