"""`Report`: everything one bench run found, as JSON from which the statistics can be computed again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from medfm_compress.bench.evaluate.attribution_agreement import ExplanationAgreement
from medfm_compress.bench.evaluate.evaluate import EvaluationTable
from medfm_compress.bench.evaluate.robustness import PerturbedTables
from medfm_compress.bench.evaluate.test_set_log import LoggedEvaluation
from medfm_compress.bench.measure.latency_regression import Slowdown
from medfm_compress.bench.measure.load_scenario import ScenarioResult
from medfm_compress.bench.measure.machine import Machine
from medfm_compress.bench.types.evaluation import Comparison, Fidelity
from medfm_compress.bench.types.interval import Interval
from medfm_compress.bench.types.measurement import Measurement
from medfm_compress.bench.types.policy import Policy
from medfm_compress.bench.types.robustness import DropComparison
from medfm_compress.bench.types.target import on_one_chip
from medfm_compress.runtime.atomic_write import write_atomically
from medfm_compress.runtime.bundle.manifest import Provenance
from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.regular_file import read_regular
from medfm_compress.runtime.strict_json import decode
from medfm_compress.runtime.task import OperatingPoint, Task

REPORT_SCHEMA_VERSION = 2
TEACHER = "teacher"
MAX_REPORT_BYTES = 1 << 30  # a million cases of ten findings


class Speedup(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How many times faster ``name`` is than ``baseline``: the median of the ratios of interleaved rounds."""

    name: str
    baseline: str
    ratio: Interval


class Report(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One bundle against its teacher on one study and one machine.

    Attributes:
        schema_version: of this file.
        bundle_name: from the manifest.
        model_digest: of the bundle; a verdict on this report is a verdict on that model only.
        study_fingerprint: of the study that was evaluated.
        split: the split that was evaluated.
        policy: what must hold, declared beforehand.
        policy_sha256: of the policy file.
        task: the bundle's.
        teacher_name: architecture of the teacher.
        evaluations: the one named ``teacher`` first, then one a variant under the variant's name, then the external
            models', all on the same cases.
        measurements: likewise, and after them other runtimes (the teacher in ONNX Runtime, …); interleaved.
        comparisons: every metric and finding of every variant.
        speedups: every measurement but the teacher's, against the teacher's.
        machine: that made the measurements.
        noise: reasons to distrust the timings; empty on a quiet machine.
        provenance: the bundle's.
        intended_use: the bundle's.
        teacher_operating_points: thresholds of the teacher's decisions; the bundle's stand in ``task``.
        teacher_decides: whose temperature and operating points those are, in words.
        shipped: names of all variants in the bundle; those without an evaluation cannot be judged.
        created: ISO 8601, UTC.
        external_models: names of evaluated models that are not in the bundle; they are compared and never judged.
        fidelity: of every variant and external model.
        notes: what a reader must know of the cases, e.g. for how many a subgroup's column is not recorded, and of the
            variants that are left out.
        scenarios: load scenarios, where they were run.
        slowdowns: against an earlier bundle, where one was given.
        explanations: agreement of attribution maps, where they were made.
        tasks: name of an evaluation → the task that it was scored and decided under: a variant's own temperature and
            operating points, the teacher's, an external model's. Read it through `task_of`.
        perturbed: the same models on the same cases, every image perturbed; see `Policy.robustness`.
        drops: what each variant lost there beyond what the teacher lost.
        left_out: variant that was not evaluated → why its device is not to be had here.
        test_set_evaluations: every logged one of this study's split up to this one, oldest first; in the file
            they are called ``looks``.
    """

    schema_version: int
    bundle_name: str
    model_digest: str
    study_fingerprint: str
    split: str
    policy: Policy
    policy_sha256: str
    task: Task
    teacher_name: str
    evaluations: tuple[EvaluationTable, ...]
    measurements: tuple[Measurement, ...]
    comparisons: tuple[Comparison, ...]
    machine: Machine
    provenance: Provenance
    created: str
    speedups: tuple[Speedup, ...] = ()
    noise: tuple[str, ...] = ()
    intended_use: str = ""
    teacher_operating_points: tuple[OperatingPoint, ...] = ()
    teacher_decides: str = ""
    shipped: tuple[str, ...] = ()
    external_models: tuple[str, ...] = ()
    fidelity: tuple[Fidelity, ...] = ()
    notes: tuple[str, ...] = ()
    scenarios: tuple[ScenarioResult, ...] = ()
    slowdowns: tuple[Slowdown, ...] = ()
    explanations: tuple[ExplanationAgreement, ...] = ()
    test_set_evaluations: tuple[LoggedEvaluation, ...] = msgspec.field(default=(), name="looks")
    tasks: dict[str, Task] = {}
    perturbed: tuple[PerturbedTables, ...] = ()
    drops: tuple[DropComparison, ...] = ()
    left_out: dict[str, str] = {}

    @property
    def teacher(self) -> EvaluationTable:
        """The teacher's evaluation."""
        return self.evaluations[0]

    @property
    def variants(self) -> tuple[str, ...]:
        """Names of the evaluated variants of the bundle, in order."""
        return tuple(table.name for table in self.evaluations[1:] if table.name not in self.external_models)

    def task_of(self, name: str) -> Task:
        """The task under which the evaluation called ``name`` was scored; the bundle's where none is recorded."""
        return self.tasks.get(name, self.task)

    def measurement(self, name: str) -> Measurement | None:
        """The measurement called ``name``; none where it was not measured."""
        return next((measurement for measurement in self.measurements if measurement.name == name), None)


def teacher_beside(measurements: Sequence[Measurement], own: Measurement) -> Measurement | None:
    """The teacher in PyTorch, eager and FP32, on the same kind of chip as ``own``: what its speed is held against.

    That is the measurement called ``teacher``, or for a GPU the teacher's row there; None where there is none.
    """
    on_gpu = (m for m in measurements if m.name.startswith(f"{TEACHER} in ") and m.target.startswith("torch:cuda:fp32"))
    teachers = [*(m for m in measurements if m.name == TEACHER), *on_gpu]
    return next((m for m in teachers if on_one_chip(m.target, own.target)), None)


def save_report(report: Report, path: str | Path) -> None:
    """Write ``report`` as compact JSON, atomically."""
    write_atomically(path, msgspec.json.encode(report, order="deterministic") + b"\n")


def load_report(path: str | Path) -> Report:
    """Read and check a report.

    Raises:
        InputError: no such file, not a report, from a newer schema, or inconsistent in itself.
    """
    path = Path(path)
    try:
        data = read_regular(path, MAX_REPORT_BYTES, "report")
    except InputError as exc:
        raise InputError(f"{exc}; run medfm-compress bench to make one") from None
    return parse_report(data, source=str(path))


def parse_report(data: bytes, *, source: str = "report") -> Report:
    """Decode and check the JSON of a report; raises like :func:`load_report`."""
    version = decode(data, _Version, source=source).schema_version
    if version != REPORT_SCHEMA_VERSION:
        raise InputError(
            f"{source} has report schema {version}, this version reads {REPORT_SCHEMA_VERSION}; "
            "read it with the medfm-compress that wrote it, or run the bench again"
        )
    report = decode(data, Report, source=source)
    _check(report, source)
    return report


class _Version(msgspec.Struct):
    schema_version: int


def _check(report: Report, source: str) -> None:
    names = [table.name for table in report.evaluations]
    if not names or names[0] != TEACHER or len(set(names)) != len(names):
        raise InputError(f"{source}: evaluations must be the teacher's and then one a variant, found {names}")
    measured = [measurement.name for measurement in report.measurements]
    if len(set(measured)) != len(measured):
        raise InputError(f"{source}: measurements must have different names, found {measured}")
    for table in report.evaluations[1:]:
        if table.cases_sha256 != report.teacher.cases_sha256:
            raise InputError(f"{source}: {table.name!r} and the teacher were evaluated on different cases")
    for entry in report.perturbed:
        if any(table.cases_sha256 != report.teacher.cases_sha256 for table in entry.evaluations):
            raise InputError(f"{source}: {entry.perturbation} {entry.severity} was evaluated on different cases")
