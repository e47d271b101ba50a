"""Widths and depths of a timm network: read from the module that was built, and written as arguments that override.

timm says in ``feature_info`` what its networks are made of: channels and module of every stage. Which argument takes
them is seen in the constructor. A reading counts only if it builds the very same shapes again.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import msgspec
from torch import nn

from medfm_compress.compress.networks.architecture import Architecture
from medfm_compress.compress.networks.model import create_module
from medfm_compress.runtime.errors import ModelError

ROUND_TO = 16
FAMILIES = (
    "beit",
    "cait",
    "convnext",
    "davit",
    "deit",
    "eva",
    "inception_next",
    "pvt_v2",
    "repvit",
    "resnet",
    "resnetv2",
    "swin_transformer",
    "swin_transformer_v2",
    "vision_transformer",
    "vision_transformer_relpos",
    "xcit",
)
"""Modules of timm whose networks were scaled and found to line up."""

_WIDTHS = ("dims", "embed_dims", "embed_dim", "channels")
_DEPTHS = ("depths", "layers", "depth")
_HEADS = "num_heads"
_STEM = "stem_width"
Form = Literal["one", "first", "each"]


class Stage(NamedTuple):
    """Channels, blocks and attention heads (0 without attention) of one stage."""

    width: int
    depth: int
    heads: int


class Sizes(msgspec.Struct, frozen=True, kw_only=True):
    """What a network is made of, and the arguments that say so.

    Attributes:
        stages: one for a network that keeps its width.
        stem: ``stem_width`` of a ResNet with a deep stem; 0 for others.
        names: arguments for the widths, the depths and the heads; the last is empty where there are none.
        form: ``one`` width and depth for all, the ``first`` stage's width, which the later ones multiply, or ``each``.
    """

    stages: tuple[Stage, ...]
    stem: int
    names: tuple[str, str, str]
    form: Form

    def arguments(self) -> dict[str, Any]:
        """As keyword arguments of ``timm.create_model``, fit for JSON."""
        widths, depths, heads = ([stage[i] for stage in self.stages] for i in range(3))
        single = self.form == "one"
        arguments: dict[str, Any] = {
            self.names[0]: widths if self.form == "each" else widths[0],
            self.names[1]: depths[0] if single else depths,
        }
        if self.names[2]:
            arguments[self.names[2]] = heads[0] if single else heads
        return arguments | ({_STEM: self.stem} if self.stem else {})

    def __str__(self) -> str:
        return ", ".join(f"{name} {_describe(value)}" for name, value in self.arguments().items())


def sizes_of(module: nn.Module, architecture: Architecture) -> Sizes:
    """What ``module`` is made of, in arguments that build it again beside those of ``architecture``.

    Raises:
        ModelError: a family that cannot be scaled; the reason follows the name of a model.
    """
    family = type(module).__module__.rpartition(".")[2]
    if not type(module).__module__.startswith("timm.") or family not in FAMILIES:
        raise ModelError(f"is a {family} network, and only {', '.join(FAMILIES)} can be scaled")
    shapes = shapes_of(module)
    for sizes in _readings(module):
        try:
            if shapes_of(create_module(resized(architecture, sizes))) == shapes:
                return sizes
        except ModelError:
            continue
    raise ModelError("was built in a way that its widths and depths cannot be read back from")


def resized(architecture: Architecture, sizes: Sizes) -> Architecture:
    """``architecture`` with the sizes as arguments."""
    return msgspec.structs.replace(architecture, arguments={**architecture.arguments, **sizes.arguments()})


def scaled(sizes: Sizes, width: float, depth: float) -> Sizes:
    """``sizes`` times ``width`` and ``depth``, both in (0, 1].

    Widths become multiples of 16, at least 16, and of whole attention heads, which keep their size. A stage keeps at
    least one block. A factor of 1 changes nothing.
    """
    stages = [_scaled_stage(stage, width, depth) for stage in sizes.stages]
    if sizes.form == "first":
        first, was = stages[0], sizes.stages[0]
        stages = [
            Stage(old.width * first.width // was.width, new.depth, old.heads * first.heads // max(1, was.heads))
            for old, new in zip(sizes.stages, stages, strict=True)
        ]
    stem = _scaled_stage(Stage(sizes.stem, 1, 0), width, 1).width
    return msgspec.structs.replace(sizes, stages=tuple(stages), stem=stem)


def shapes_of(module: nn.Module) -> dict[str, tuple[int, ...]]:
    """Name → shape of everything that a model folder stores."""
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


def _scaled_stage(stage: Stage, width: float, depth: float) -> Stage:
    blocks = max(1, _nearest(depth * stage.depth))
    step = math.lcm(ROUND_TO, stage.width // stage.heads) if stage.heads else ROUND_TO
    if width == 1 or stage.width <= step:
        return stage._replace(depth=blocks)
    channels = min(stage.width, max(1, _nearest(width * stage.width / step)) * step)
    return Stage(channels, blocks, stage.heads * channels // stage.width)


def _nearest(value: float) -> int:
    """Nearest whole number; a half goes up."""
    return math.floor(value + 0.5)


def _readings(network: Any) -> Iterator[Sizes]:
    """Ways to read the sizes of a timm network, of which one, if any, is right."""
    known = _parameters(type(network))
    widths, depths = (next((name for name in names if name in known), "") for names in (_WIDTHS, _DEPTHS))
    if not (widths and depths):
        return
    blocks = getattr(network, "blocks", None)
    stages = tuple(_stages(network)) if blocks is None else (_stage(network.num_features, blocks),)
    heads = _HEADS if _HEADS in known and any(stage.heads for stage in stages) else ""
    if not heads:
        stages = tuple(stage._replace(heads=0) for stage in stages)
    deep = _STEM in known and isinstance(getattr(network, "conv1", None), nn.Sequential)
    stem = network.feature_info[0]["num_chs"] // 2 if deep else 0
    forms: tuple[Form, ...] = ("each", "first") if blocks is None else ("one",)
    for form in forms:
        yield Sizes(stages=stages, stem=stem, names=(widths, depths, heads), form=form)


def _stages(network: Any) -> Iterator[Stage]:
    for about in network.feature_info:
        stage = network.get_submodule(about["module"])
        blocks = getattr(stage, "blocks", stage)
        if isinstance(blocks, (nn.Sequential, nn.ModuleList)):
            yield _stage(about["num_chs"] // getattr(blocks[-1], "expansion", 1), blocks)


def _stage(width: int, blocks: Any) -> Stage:
    heads = (getattr(part, _HEADS, 0) for part in blocks.modules())
    return Stage(width, len(blocks), next((count for count in heads if isinstance(count, int) and count), 0))


def _parameters(kind: type) -> frozenset[str]:
    """Names of the constructor's arguments, those of its timm bases among them."""
    constructors = [vars(base).get("__init__") for base in kind.__mro__ if base.__module__.startswith("timm.")]
    return frozenset(
        name for constructor in constructors if constructor for name in inspect.signature(constructor).parameters
    )


def _describe(value: Any) -> str:
    return "/".join(map(str, value)) if isinstance(value, list) else str(value)
