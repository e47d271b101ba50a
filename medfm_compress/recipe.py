"""`Recipe`: the whole job in one YAML file; each section is one step, and each step is a command of its own."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TypeVar

import msgspec

from medfm_compress.compress.pruning.options import PruneOptions
from medfm_compress.compress.quantization.options import QuantizeOptions
from medfm_compress.compress.teachers.source import TeacherSource
from medfm_compress.data.splitting import SplitPlan
from medfm_compress.data.strict_yaml import MAX_YAML_BYTES, load_yaml
from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.regular_file import read_regular
from medfm_compress.runtime.strict_json import convert
from medfm_compress.step_settings import BenchStep, DistillStep, ExportStep, FinetuneStep, PretrainStep

_TAKEN = ("exported", "quantized")  # bundles of the steps before
_LONGEST_NAME = 100


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
        prune: optional, see `PruneOptions`.
        export: see `ExportStep`.
        quantize: optional.
        bench: see `BenchStep`.
        policy: path relative to the recipe, committed before the first test evaluation.
    """

    name: str
    distill: DistillStep
    policy: str
    pretrain: PretrainStep | None = None
    teacher: FinetuneStep | None = None
    teachers: tuple[TeacherSource, ...] = ()
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
        if (self.teacher is None) == (not self.teachers):
            raise InputError(
                "a recipe has either 'teacher' (trained here, or a folder) or 'teachers'; give one of them"
            )
        if self.pretrain is not None:
            self._check_pretrained(self.pretrain)

    def _check_pretrained(self, pretrain: PretrainStep) -> None:
        """One network starts from the backbone, and from nothing else."""
        starts = [("teacher", self.teacher.model, self.teacher.weights)] if self.teacher else []
        starts.append(("distill", self.distill.student, self.distill.weights))
        section, weights = next(((name, own) for name, model, own in starts if model == pretrain.model), ("", ""))
        if not section:
            raise InputError(f"pretrain trains {pretrain.model!r}, which is neither the teacher nor the student")
        if weights:
            raise InputError(f"{section} starts from what 'pretrain' makes; leave its weights {weights!r} out")


Step = TypeVar("Step", PretrainStep, FinetuneStep, DistillStep)


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
        distill=replace(started(recipe.distill), student=path_or_name(recipe.distill.student)),
        bench=replace(
            recipe.bench,
            external_models=tuple(map(path, recipe.bench.external_models)),
            baseline=path(recipe.bench.baseline),
            cache=path(recipe.bench.cache),
        ),
    )


def with_backbone(recipe: Recipe, pretrained: PretrainStep, backbone: str) -> Recipe:
    """``recipe`` whose teacher or student, whichever the pre-trained network is, starts from ``backbone``."""
    replace = msgspec.structs.replace
    if recipe.teacher is not None and recipe.teacher.model == pretrained.model:
        return replace(recipe, pretrain=None, teacher=replace(recipe.teacher, weights=backbone))
    return replace(recipe, pretrain=None, distill=replace(recipe.distill, weights=backbone))


def load_recipe(path: Path) -> LoadedRecipe:
    """Read a recipe.

    Raises:
        InputError: the file cannot be read, is not YAML, has an unknown key or a value outside its range.
    """
    data = read_regular(path, MAX_YAML_BYTES, "recipe")
    recipe = convert(load_yaml(data, f"recipe {path}"), Recipe, source=f"recipe {path}")
    return LoadedRecipe.at(recipe, path.parent, hashlib.sha256(data).hexdigest())
