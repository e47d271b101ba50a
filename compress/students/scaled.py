"""``scaled:width=W,depth=D``: a narrower, shallower copy of the teacher that starts from the teacher's own layers.

The copy's widths and depths are arguments of timm's own network, so that its model folder loads as any other; which of
the teacher's weights it starts from is told in `selection`.
"""

from __future__ import annotations

import copy
from typing import Any

import msgspec
from torch import nn

from medfm_compress.compress.networks.architecture import Architecture
from medfm_compress.compress.networks.build import build_model
from medfm_compress.compress.networks.model import Model, Origin, create_module
from medfm_compress.compress.students.architecture_sizes import Sizes, resized, scaled, sizes_of
from medfm_compress.compress.students.weight_selection import State, select_weights
from medfm_compress.compress.teachers.label_mapping import unmapped
from medfm_compress.runtime.errors import InputError, ModelError
from medfm_compress.runtime.image_spec import ImageSpec
from medfm_compress.runtime.task import Task

PREFIX = "scaled:"
_FORM = "write scaled:width=W,depth=D with W and D above 0 and at most 1, e.g. scaled:width=0.5,depth=0.5"
_INSTEAD = "give --student a timm name, or cut the teacher with 'medfm-compress prune' and give that model folder"


class Scale(msgspec.Struct, frozen=True, kw_only=True):
    """Factors of the teacher's widths and depths, each in (0, 1]."""

    width: float = 1.0
    depth: float = 1.0

    def __post_init__(self) -> None:
        for name in ("width", "depth"):
            if not 0 < getattr(self, name) <= 1:
                raise InputError(f"{name} of a scaled student is {getattr(self, name)}; {_FORM}")


def parse_scale(text: str) -> Scale:
    """The factors of ``scaled:width=W,depth=D``; one that is left out is 1.

    Raises:
        InputError: another form, or a factor outside (0, 1].
    """
    factors: dict[str, float] = {}
    for part in text.removeprefix(PREFIX).split(","):
        name, _, value = part.strip().partition("=")
        if name not in ("width", "depth") or name in factors:
            raise InputError(f"student is {text!r}; {_FORM}")
        try:
            factors[name] = float(value)
        except ValueError:
            raise InputError(f"{name} of a scaled student is {value!r}; {_FORM}") from None
    return Scale(**factors)


def scale_model(teacher: Model, scale: Scale, task: Task, spec: ImageSpec) -> Model:
    """A scaled copy of ``teacher``, which is left as it is.

    Args:
        teacher: an unpruned timm network of a family in `sizes.FAMILIES`.
        scale: how much of it.
        task: of the student; its classifier is cut from the teacher's where the labels are the same, else it is new.
        spec: of the student, square; another size than the teacher's resamples its positions.

    Raises:
        ModelError: a teacher that cannot be scaled, with what to do instead, or a size that it cannot take.
    """
    teacher, name = unmapped(teacher), _timm_name(teacher)
    if teacher.columns:
        raise ModelError(
            f"{teacher.name} takes columns beside the image, and a scaled copy sees images alone; {_INSTEAD}"
        )
    if teacher.architecture.pruning:
        raise ModelError(f"{teacher.name} is pruned, and its layers no longer follow one width; {_INSTEAD}")
    whole = build_model(name, task, size_px=spec.height_px, colour=spec.colour, spec=spec)
    try:
        own = {**teacher.architecture.arguments, **_ends(teacher)}
        sizes = scaled(sizes_of(teacher.module, Architecture(name=name, arguments=own)), scale.width, scale.depth)
        architecture = resized(Architecture(name=name, arguments={**own, **whole.architecture.arguments}), sizes)
        module = create_module(architecture)
        same = task.labels == teacher.task.labels and own["num_classes"] == len(task.labels)
        anew = () if same else _classifier(teacher.module)
        module.load_state_dict(select_weights(_state(teacher.module, spec), module.state_dict(), anew))
    except ModelError as exc:
        raise ModelError(f"{teacher.name} cannot be scaled: {exc}; {_INSTEAD}") from None
    return Model(
        name=f"{teacher.name}-w{scale.width:g}-d{scale.depth:g}",
        module=module.eval(),
        spec=spec,
        task=task,
        architecture=architecture,
        licence=teacher.licence,
        provenance=Origin(steps=(_step(teacher, scale, sizes),)),
        intended_use=teacher.intended_use,
    )


def _timm_name(teacher: Model) -> str:
    """Of the architecture; a model of the hub says it in its configuration."""
    if teacher.architecture.library != "timm":
        raise ModelError(f"{teacher.name} is no timm network, and only those can be scaled; {_INSTEAD}")
    if teacher.architecture.name.startswith("hf-hub:"):
        return str(teacher.module.pretrained_cfg["architecture"])  # type: ignore[index]
    return teacher.architecture.name


def _ends(teacher: Model) -> dict[str, Any]:
    """Arguments for what a model of the hub says in its configuration alone: input channels and outputs."""
    return {"in_chans": teacher.spec.channels, "num_classes": int(teacher.module.num_classes)}  # type: ignore[arg-type]


def _state(network: nn.Module, spec: ImageSpec) -> State:
    """State dict of the teacher at the student's image size, on the CPU."""
    size = (spec.height_px, spec.width_px)
    embed = getattr(network, "patch_embed", None)
    if hasattr(network, "set_input_size") and getattr(embed, "img_size", size) != size:
        network = copy.deepcopy(network)
        network.set_input_size(img_size=size)  # type: ignore[operator]
    return {name: tensor.detach().cpu() for name, tensor in network.state_dict().items()}


def _classifier(network: nn.Module) -> tuple[str, ...]:
    names = network.pretrained_cfg["classifier"]  # type: ignore[index]
    return tuple(f"{name}." for name in ((names,) if isinstance(names, str) else names))


def _step(teacher: Model, scale: Scale, sizes: Sizes) -> str:
    return f"scaled copy of {teacher.name}: width {scale.width:g}, depth {scale.depth:g}: {sizes}"
