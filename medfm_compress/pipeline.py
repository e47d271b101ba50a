"""The walk from a teacher to a verdict; each line is a step, and each step a command.

study → (backbone →) teacher → student (→ pruned) → bundle (→ INT8) → report → verdict

Teacher and student of an anomaly model are scorers: on the teacher's encoder, and on one that learned from it.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

import msgspec

from medfm_compress import steps
from medfm_compress.artefacts import BundleFile, Input, ModelFolder, NamedInput, ReportFolder, StudyTable, TeacherInput
from medfm_compress.bench.gate.policy_file import LoadedPolicy, load_policy
from medfm_compress.bench.report import Report, load_report
from medfm_compress.bench.types.verdict import Verdict
from medfm_compress.compress.anomaly.options import EncoderSource
from medfm_compress.compress.pruning.options import PruneOptions
from medfm_compress.compress.teachers.source import TeacherSource
from medfm_compress.early_refusals import refuse_misspelt
from medfm_compress.onnx_model import CaseSource
from medfm_compress.recipe import LoadedRecipe, missing_file, with_backbone
from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.progress import Progress
from medfm_compress.step_cache import RECIPE_SHA256, StepCache
from medfm_compress.step_settings import AnomalyStep, DistillStep, EmbedStep, FinetuneStep, PretrainStep

Trained = TypeVar("Trained", PretrainStep, FinetuneStep, DistillStep, EmbedStep, PruneOptions)


class Finished(NamedTuple):
    """Where everything is, and the answer."""

    bundle: Path
    report_folder: Path
    report: Report
    verdict: Verdict


def compress(
    loaded: LoadedRecipe, study: Path | None, out: Path, progress: Progress, *, overwrite: bool = True
) -> Finished:
    """Do the whole job, or what is left of it.

    Args:
        loaded: the recipe.
        study: takes the place of the recipe's own.
        out: folder for everything that is made; an interrupted call goes on there.
        progress: receives one line at a time.
        overwrite: replace what other settings, inputs or versions made there.

    Raises:
        InputError: there is something of these, and it is to stay.
        MedfmError: as the steps do.
    """
    if study is None and not loaded.recipe.study:
        raise InputError("the recipe names no study; add 'study:' to it or give --study")
    policy = load_policy(loaded.recipe.policy)
    recipe = loaded.recipe
    networks = [step.model for step in (recipe.pretrain, recipe.teacher) if step is not None]
    networks += [teacher.source for teacher in recipe.teachers if teacher.source.startswith("timm:")]
    refuse_misspelt(*networks, *_students(recipe.student))
    if missing := missing_file(recipe):
        raise InputError(f"the recipe's {missing}; paths are relative to the recipe")
    if recipe.quantize is not None:
        steps.check_quantization(recipe.quantize)
    job = Job(loaded, out, progress, overwrite=overwrite)

    table = job.study(StudyTable(study or Path(recipe.study), recipe.normal))
    if recipe.export.rule:
        steps.check_rule(table.path, recipe.normal, recipe.export.rule)
    job = job.pretrained(table)
    teacher, student = job.models(table)
    bundle = job.exported(table, student)
    bundle = job.quantized(table, bundle)
    report = job.benched(table, teacher, bundle, policy)
    return job.judged(report, bundle, policy)


class Job:
    """The steps of one recipe in one folder; each is repeated when what it reads has changed."""

    def __init__(self, loaded: LoadedRecipe, out: Path, progress: Progress, *, overwrite: bool = True) -> None:
        self._loaded, self._recipe, self._out, self._progress = loaded, loaded.recipe, out, progress
        self._overwrite, self._cache = overwrite, StepCache(out, progress, overwrite=overwrite)
        self._shipped = out / f"{loaded.recipe.name}.medfm"
        if self._shipped.exists() and not self._cache.begun:
            self._cache.refuse_to_replace(self._shipped)

    def study(self, source: StudyTable) -> StudyTable:
        """The study with the splits that the recipe asks for."""
        split = self._recipe.split
        make = partial(steps.prepare_study, source.path, source.normal, split, self._progress)
        output = StudyTable(self._out / "study.csv", source.normal)
        return self._cache.step("study", output, [source], split, make, ("split",))

    def pretrained(self, table: StudyTable) -> Job:
        """This job, going on from a backbone where the recipe has one pre-trained."""
        settings = self._recipe.pretrain
        if settings is None:
            return self
        make = partial(steps.pretrain, table.path, settings, self._progress)
        reads = [table, *_named(settings.weights), *_studies(settings.more)]
        backbone = self._cache.step("pretrain", ModelFolder(self._out / "backbone"), reads, _deciding(settings), make)
        return Job(
            self._loaded.having(with_backbone(self._recipe, settings, str(backbone.path.resolve()))),
            self._out,
            self._progress,
            overwrite=self._overwrite,
        )

    def models(self, table: StudyTable) -> tuple[TeacherInput, ModelFolder]:
        """Teacher, and the student that is shipped."""
        how = self._recipe.student
        if isinstance(how, AnomalyStep):
            return self._anomaly_models(table, how)
        teacher = self.teacher(table)
        return teacher, self.pruned(table, teacher, self.student(table, teacher, how))

    def _anomaly_models(self, table: StudyTable, how: AnomalyStep) -> tuple[TeacherInput, ModelFolder]:
        """A scorer behind the first teacher's features, and one behind those of the encoder that learned from all."""
        first = self._fitted("teacher", table, how, how.teachers[0])
        teacher = TeacherInput((TeacherSource(source=str(first.path)),))
        if how.embed is None:
            return teacher, first
        settings = how.embed
        make = partial(steps.embed, table.path, how.normal, how.teachers, settings, self._progress)
        reads = [table, *_encoders(*how.teachers), *_named(settings.weights), *_studies(settings.more)]
        decides = [how.normal, how.teachers, _deciding(settings)]
        keys = ("anomaly.normal", "anomaly.teachers", "anomaly.embed")
        encoder = self._cache.step("embed", ModelFolder(self._out / "encoder"), reads, decides, make, keys)
        return teacher, self._fitted("student", table, how, EncoderSource(encoder=str(encoder.path.resolve())))

    def _fitted(self, name: str, table: StudyTable, how: AnomalyStep, encoder: EncoderSource) -> ModelFolder:
        make = partial(steps.fit_anomaly, table.path, how.normal, encoder, how.fit, self._progress)
        reads = [table, *_encoders(encoder)]
        decides, keys = [how.normal, encoder, how.fit], ("anomaly.normal", "anomaly.encoder", "anomaly.fit")
        return self._cache.step(name, ModelFolder(self._out / name), reads, decides, make, keys)

    def teacher(self, table: StudyTable) -> TeacherInput:
        """What the student learns from: trained here, or whatever the recipe names."""
        settings = self._recipe.teacher
        if settings is None:
            return TeacherInput(self._recipe.teachers)
        make = partial(steps.prepare_teacher, table.path, settings, self._progress)
        reads = [table, *_named(settings.weights, settings.folder, settings.stain, settings.columns)]
        folder = self._cache.step("teacher", ModelFolder(self._out / "teacher"), reads, _deciding(settings), make)
        return TeacherInput((TeacherSource(source=str(folder.path)),))

    def student(self, table: StudyTable, teacher: TeacherInput, settings: DistillStep) -> ModelFolder:
        """The student, distilled."""
        make = partial(steps.distill, table.path, teacher.sources, settings, self._progress)
        reads: list[Input] = [table, teacher, *_named(settings.student, settings.weights, settings.columns)]
        reads += _studies(settings.more)
        return self._cache.step("distill", ModelFolder(self._out / "student"), reads, _deciding(settings), make)

    def pruned(self, table: StudyTable, teacher: TeacherInput, student: ModelFolder) -> ModelFolder:
        """The student with less in it, where the recipe asks for that."""
        settings = self._recipe.prune
        if settings is None:
            return student
        make = partial(steps.prune, table.path, teacher.sources, student.path, settings, self._progress)
        output = ModelFolder(self._out / "pruned")
        return self._cache.step("prune", output, [table, teacher, student], _deciding(settings), make)

    def exported(self, table: StudyTable, student: ModelFolder) -> BundleFile:
        """The FP32 bundle."""
        settings, sha256 = self._recipe.export, self._loaded.sha256
        make = partial(steps.export, student.path, table.path, settings, self._recipe.name, sha256, self._progress)
        output = BundleFile(self._out / "exported.medfm")
        decides, keys = [settings, self._recipe.name, sha256], ("export", "name", RECIPE_SHA256)
        return self._cache.step("export", output, [table, student], decides, make, keys)

    def quantized(self, table: StudyTable, bundle: BundleFile) -> BundleFile:
        """The bundle with INT8 variants, where the recipe asks for that and they are worth it."""
        settings = self._recipe.quantize
        if settings is None:
            return bundle
        make = partial(steps.quantize, CaseSource(table.path), bundle.path, settings, self._progress)
        output = BundleFile(self._out / "quantized.medfm")
        return self._cache.step("quantize", output, [table, bundle], settings, make)

    def benched(
        self, table: StudyTable, teacher: TeacherInput, bundle: BundleFile, policy: LoadedPolicy
    ) -> ReportFolder:
        """The bundle held against its teacher."""
        settings = self._recipe.bench
        kept = (
            settings if settings.cache else msgspec.structs.replace(settings, cache=str(self._out / "report" / "cache"))
        )
        make = partial(steps.bench, table.path, teacher.sources, bundle.path, policy, kept, self._progress)
        decides = msgspec.structs.replace(settings, cache="")
        reads: list[Input] = [table, teacher, bundle, *_named(*settings.external_models, settings.baseline)]
        output = ReportFolder(self._out / "report")
        return self._cache.step("bench", output, reads, [decides, policy.sha256], make, ("bench", "policy"))

    def judged(self, report: ReportFolder, bundle: BundleFile, policy: LoadedPolicy) -> Finished:
        """The verdict, and the bundle that carries it."""
        verdict = steps.gate(report.json, policy, bundle.path, self._shipped)
        return Finished(self._shipped, report.path, load_report(report.json), verdict)


def _deciding(settings: Trained) -> Trained:
    """``settings`` without what decides nothing: where logs go, how often a checkpoint is written."""
    return msgspec.structs.replace(settings, training=settings.training.outcome())


def _studies(paths: tuple[str, ...]) -> list[Input]:
    return [StudyTable(Path(path)) for path in paths]


def _named(*names: str) -> list[Input]:
    return [NamedInput(name) for name in names if name]


def _encoders(*sources: EncoderSource) -> list[Input]:
    return _named(*(name for source in sources for name in (source.encoder, source.weights)))


def _students(how: DistillStep | AnomalyStep) -> tuple[str, ...]:
    """What may be the name of a network."""
    if isinstance(how, DistillStep):
        return (how.student,)
    return (*(source.encoder for source in how.teachers), *((how.embed.student,) if how.embed else ()))
