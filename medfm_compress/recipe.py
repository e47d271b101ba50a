"""`Recipe`: the whole job in one YAML file; each section is one step, and each step is a command of its own."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import msgspec

from medfm_compress.bench.types.operating_rule import DEFAULT_FALSE_ALARMS, needs_positives
from medfm_compress.compress.pruning.options import PruneOptions
from medfm_compress.compress.quantization.options import QuantizeOptions
from medfm_compress.compress.teachers.source import TeacherSource
from medfm_compress.data.splitting import SplitPlan
from medfm_compress.data.strict_yaml import MAX_YAML_BYTES, load_yaml
from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.regular_file import read_regular
from medfm_compress.runtime.strict_json import convert
from medfm_compress.step_settings import (
    AnomalyStep,
    BenchStep,
    DistillStep,
    EmbedStep,
    ExportStep,
    FinetuneStep,
    PretrainStep,
)

_TAKEN = ("exported", "quantized")  # bundles of the steps before
_LONGEST_NAME = 100
_FILES = ("weights", "folder", "spec", "stain", "columns", "baseline", "more", "external_models")
_FILES_OR_NETWORKS = ("source", "student", "encoder")
_NETWORKS = ("timm", "hf-hub", "smp", "monai", "scaled")  # what their names begin with


class Recipe(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole job.

    Attributes:
        name: of the bundle, letters, digits, ``-`` and ``_``.
        study: path relative to the recipe; may be given on the command line instead.
        split: how to cut the study; without it the study's own splits hold.
        pretrain: optional, see `PretrainStep`; the teacher or the student of the same ``model`` starts from it.
        teacher: a teacher that is trained here, or a model folder, see `FinetuneStep`.
        teachers: any other teachers, instead of ``teacher``, see `TeacherSource`; several are averaged.
        distill: see `DistillStep`.
        anomaly: instead of teacher, student and pruning: a model of how unlike the normal cases an image is, see
            `AnomalyStep`.
        prune: optional, see `PruneOptions`.
        export: see `ExportStep`.
        quantize: optional.
        bench: see `BenchStep`.
        policy: path relative to the recipe, committed before the first test evaluation.
    """

    name: str
    policy: str
    pretrain: PretrainStep | None = None
    teacher: FinetuneStep | None = None
    teachers: tuple[TeacherSource, ...] = ()
    distill: DistillStep | None = None
    anomaly: AnomalyStep | None = None
    study: str = ""
    split: SplitPlan | None = None
    prune: PruneOptions | None = None
    export: ExportStep = ExportStep()
    quantize: QuantizeOptions | None = QuantizeOptions()
    bench: BenchStep = BenchStep()

    def __post_init__(self) -> None:
        if not self.name.replace("-", "").replace("_", "").isalnum():
            raise InputError(f"name is {self.name!r}; use letters, digits, '-' and '_'")
        if self.name in _TAKEN:
            raise InputError(f"name is {self.name!r}, which a step's own bundle is called; choose another")
        if len(self.name) > _LONGEST_NAME:
            raise InputError(f"name has {len(self.name)} characters; it may have {_LONGEST_NAME}")
        self._check_models()
        if self.pretrain is not None:
            self._check_pretrained(self.pretrain)

    @property
    def student(self) -> DistillStep | AnomalyStep:
        """How the network that ships comes about."""
        how = self.distill if self.anomaly is None else self.anomaly
        if how is None:
            raise InputError(
                "a recipe says how its student learns: 'distill', from a teacher, or 'anomaly', from normal cases; add "
                "one of them"
            )
        return how

    @property
    def normal(self) -> tuple[str, ...]:
        """Labels of the study that are normal, of an anomaly model."""
        return self.student.normal if isinstance(self.student, AnomalyStep) else ()

    def _check_models(self) -> None:
        if isinstance(self.student, AnomalyStep):
            others = {"teacher": self.teacher, "teachers": self.teachers, "distill": self.distill, "prune": self.prune}
            if besides := next((name for name, section in others.items() if section), ""):
                raise InputError(f"'anomaly' has teachers and student of its own; leave '{besides}' out, or 'anomaly'")
            if self.export.rule and needs_positives(self.export.rule):
                raise InputError(
                    f"export.rule is {self.export.rule!r}, which looks at abnormal validation cases; an anomaly score "
                    f"decides by normal ones alone, e.g. {DEFAULT_FALSE_ALARMS}"
                )
        elif (self.teacher is None) == (not self.teachers):
            raise InputError(
                "a recipe has either 'teacher' (trained here, or a folder) or 'teachers'; give one of them"
            )

    def _check_pretrained(self, pretrain: PretrainStep) -> None:
        """One network starts from the backbone, and from nothing else."""
        starts = list(self._starts())
        section, answered = next(((name, own) for name, model, own in starts if model == pretrain.model), ("", ()))
        if not section:
            raise InputError(f"pretrain trains {pretrain.model!r}, which is neither a teacher nor the student")
        if answered:
            raise InputError(
                f"{section} starts from what 'pretrain' makes, which says it itself; leave its {answered[0]} out"
            )

    def _starts(self) -> Iterator[tuple[str, str, tuple[str, ...]]]:
        """Section, network, and what is said that a backbone says, of each network that may start from one."""
        if self.teacher is not None:
            yield "teacher", self.teacher.model, _said(self.teacher, "weights")
        if isinstance(self.student, DistillStep):
            yield "distill", self.student.student, _said(self.student, "weights")
            return
        for source in self.student.teachers:
            yield "anomaly", source.encoder, _said(source, "weights", "image_size", "colour")
        if self.student.embed is not None:
            yield "anomaly.embed", self.student.embed.student, _said(self.student.embed, "weights")


def _said(section: msgspec.Struct, *names: str) -> tuple[str, ...]:
    """Those of ``names`` that have another value than their default, e.g. ``weights 'start.safetensors'``."""
    defaults = {field.name: field.default for field in msgspec.structs.fields(section)}
    return tuple(f"{name} {getattr(section, name)!r}" for name in names if getattr(section, name) != defaults[name])


Step = TypeVar("Step", PretrainStep, FinetuneStep, DistillStep, EmbedStep)


class LoadedRecipe(msgspec.Struct, frozen=True):
    """A recipe whose paths are absolute, and the sha256 of its bytes."""

    recipe: Recipe
    sha256: str

    @classmethod
    def at(cls, recipe: Recipe, folder: Path, sha256: str) -> LoadedRecipe:
        """``recipe`` as it is read in ``folder``, which all its paths are relative to."""
        return cls(resolved(recipe, folder.resolve()), sha256)

    def having(self, recipe: Recipe) -> LoadedRecipe:
        """This one with another content, of the same file."""
        return LoadedRecipe(recipe, self.sha256)


def resolved(recipe: Recipe, folder: Path) -> Recipe:
    """``recipe`` with every path that it names made absolute, relative to ``folder``."""
    replace = msgspec.structs.replace

    def path(name: str) -> str:
        return str(folder / Path(name).expanduser()) if name else ""

    def path_or_name(name: str) -> str:  # timm:NAME and the like stay what they are
        prefix, sign, rest = name.partition("outputs:")
        if sign and not prefix:
            return f"outputs:{path(rest)}"
        return path(name) if name and Path(path(name)).exists() else name

    def started(step: Step) -> Step:
        changed = {
            name: path(getattr(step, name)) for name in ("weights", "folder", "stain", "columns") if hasattr(step, name)
        }
        more = {"more": tuple(map(path, step.more))} if hasattr(step, "more") else {}
        return replace(step, **changed, **more)

    def learned(step: DistillStep | None) -> DistillStep | None:
        return step and replace(started(step), student=path_or_name(step.student))

    def unlike(step: AnomalyStep | None) -> AnomalyStep | None:
        return step and replace(
            step,
            teachers=tuple(
                replace(source, encoder=path_or_name(source.encoder), weights=path(source.weights))
                for source in step.teachers
            ),
            embed=started(step.embed) if step.embed else None,
        )

    return replace(
        recipe,
        study=path(recipe.study),
        policy=path(recipe.policy),
        pretrain=started(recipe.pretrain) if recipe.pretrain else None,
        teacher=started(recipe.teacher) if recipe.teacher else None,
        teachers=tuple(
            replace(source, source=path_or_name(source.source), weights=path(source.weights), spec=path(source.spec))
            for source in recipe.teachers
        ),
        distill=learned(recipe.distill),
        anomaly=unlike(recipe.anomaly),
        bench=replace(
            recipe.bench,
            external_models=tuple(map(path, recipe.bench.external_models)),
            baseline=path(recipe.bench.baseline),
            cache=path(recipe.bench.cache),
        ),
    )


def missing_file(recipe: Recipe) -> str:
    """The first file or folder that a `resolved` recipe names and that is not there, with its key; empty for none.

    A job of hours must not find out at its last step.
    """
    return next((f"{key} names {path}, which does not exist" for key, path in _named(recipe) if _is_missing(path)), "")


def _is_missing(name: str) -> bool:
    """``outputs:FOLDER``, ``FILE.onnx#softmax`` and ``BUNDLE#VARIANT`` name what is there, too."""
    path = name.removeprefix("outputs:")
    return bool(path) and not Path(path).exists() and not Path(path.rpartition("#")[0] or path).exists()


def _named(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """Key and path of all that steps read; names of networks are not of them."""
    sections: dict[str, msgspec.Struct | None] = {
        "pretrain": recipe.pretrain,
        "teacher": recipe.teacher,
        "distill": recipe.distill,
        "bench": recipe.bench,
    }
    sections |= {f"teachers[{at}]": source for at, source in enumerate(recipe.teachers)}
    if recipe.anomaly is not None:
        sections |= {f"anomaly.teachers[{at}]": source for at, source in enumerate(recipe.anomaly.teachers)}
        sections["anomaly.embed"] = recipe.anomaly.embed
    for name, section in sections.items():
        for key in (*_FILES, *_FILES_OR_NETWORKS):
            value = getattr(section, key, ())
            for path in (value,) if isinstance(value, str) else value:
                if key in _FILES or _is_path(path):
                    yield f"{name}.{key}", path


def _is_path(name: str) -> bool:
    """Whether what may be the name of a network, such as ``resnet18`` or ``smp:unet/tu-resnet18``, is none."""
    prefix, sign, _ = name.partition(":")
    return "/" in name and (not sign or prefix not in _NETWORKS)


def with_backbone(recipe: Recipe, pretrained: PretrainStep, backbone: str) -> Recipe:
    """``recipe`` whose network of the pre-trained one's name, which is the first of them, starts from ``backbone``."""
    replace, model = msgspec.structs.replace, pretrained.model
    rest = replace(recipe, pretrain=None)
    if recipe.teacher is not None and recipe.teacher.model == model:
        return replace(rest, teacher=replace(recipe.teacher, weights=backbone))
    student = recipe.student
    if isinstance(student, DistillStep):
        return replace(rest, distill=replace(student, weights=backbone))
    number = next((number for number, source in enumerate(student.teachers) if source.encoder == model), None)
    if number is not None:
        started = replace(student.teachers[number], encoder=backbone)
        teachers = (*student.teachers[:number], started, *student.teachers[number + 1 :])
        return replace(rest, anomaly=replace(student, teachers=teachers))
    embed = student.embed and replace(student.embed, weights=backbone)
    return replace(rest, anomaly=replace(student, embed=embed))


def load_recipe(path: Path) -> LoadedRecipe:
    """Read a recipe.

    Raises:
        InputError: the file cannot be read, is not YAML, has an unknown key or a value outside its range.
    """
    data = read_regular(path, MAX_YAML_BYTES, "recipe")
    recipe = convert(load_yaml(data, f"recipe {path}"), Recipe, source=f"recipe {path}")
    return LoadedRecipe.at(recipe, path.parent, hashlib.sha256(data).hexdigest())
