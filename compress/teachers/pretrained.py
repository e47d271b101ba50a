"""A network as its publisher left it, and how it becomes a `Model` that answers with a study's labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from medfm_compress.compress.networks.architecture import Architecture
from medfm_compress.compress.networks.inputs import example
from medfm_compress.compress.networks.model import (
    Model,
    Origin,
    fit,
    metadata_of,
    read_state_dict,
    with_metadata,
)
from medfm_compress.compress.teachers.label_mapping import UNKNOWN, Labelled, mapped, settle
from medfm_compress.compress.teachers.source import TeacherSource
from medfm_compress.compress.teachers.structure_mapping import refuse_other_kind
from medfm_compress.runtime.errors import ModelError
from medfm_compress.runtime.image_spec import ImageSpec
from medfm_compress.runtime.task import Task

_PARALLEL = "module."  # what DataParallel puts before every name


@dataclass(frozen=True)
class Published:
    """A network with what its file says of it.

    Attributes:
        name: what reports call it.
        module: ``[n, channels, height, width]`` → logits ``[n, outputs]``, in eval mode.
        architecture: how to build it again.
        spec: its preprocessing.
        labelled: its outputs, as far as they are known.
        licence: of the weights; empty where nothing is said.
        intended_use: likewise.
        steps: what was assumed or changed when it was opened.
    """

    name: str
    module: nn.Module
    architecture: Architecture
    spec: ImageSpec
    labelled: Labelled = UNKNOWN
    licence: str = ""
    intended_use: str = ""
    steps: tuple[str, ...] = ()


def as_model(published: Published, source: TeacherSource, study: Task) -> Model:
    """The network with the study's labels, whatever its own are.

    Raises:
        ModelError: it cannot run on images of its spec, or its labels cannot be the study's.
    """
    outputs = count_outputs(published.module, published.spec, published.name, study)
    settled = settle(published.name, outputs, published.labelled, source, study)
    return Model(
        name=published.name,
        module=mapped(published.module, settled.label_map),
        spec=published.spec,
        task=settled.task,
        architecture=published.architecture,
        licence=source.licence or published.licence,
        intended_use=source.intended_use or published.intended_use,
        provenance=Origin(steps=(*published.steps, *settled.steps)),
    )


def count_outputs(module: nn.Module, spec: ImageSpec, name: str, study: Task) -> int:
    """How many logits, or maps of them, a network gives.

    Raises:
        ModelError: it cannot run on images of ``spec``, or gives something else than logits of a study of this kind.
    """
    try:
        with torch.inference_mode():
            logits = module(example(module, torch.zeros(spec.shape)))
    except (RuntimeError, AssertionError, ValueError, IndexError) as exc:
        shape = f"{spec.channels}×{spec.height_px}×{spec.width_px}"
        raise ModelError(
            f"{name} cannot run on images of {shape}: {first_line(exc)}; give its --teacher-spec"
        ) from None
    if not isinstance(logits, Tensor) or logits.ndim not in (2, 4):
        returned = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ModelError(
            f"{name} gives {returned} for one image; a teacher gives logits of shape (1, labels), of a segmentation "
            "(1, structures, height, width)"
        )
    refuse_other_kind(name, tuple(logits.shape[1:]), study, (spec.height_px, spec.width_px))
    return int(logits.shape[1])


def read_weights(path: str) -> dict[str, Tensor]:
    """Tensors of a safetensors file or state dict, without the prefix of DataParallel.

    Raises:
        ModelError: see `read_state_dict`.
    """
    state = read_state_dict(path)
    if state and all(name.startswith(_PARALLEL) for name in state):
        bare = {name.removeprefix(_PARALLEL): value for name, value in state.items()}
        return with_metadata(bare, _without_wrapper(metadata_of(state)))
    return state


def _without_wrapper(metadata: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Versions of layers, those of DataParallel itself left out; its ``module`` is the network, whose name is empty."""
    if metadata is None:
        return None
    inside = {name: value for name, value in metadata.items() if f"{name}.".startswith(_PARALLEL)}
    return {name.removeprefix(_PARALLEL.rstrip(".")).removeprefix("."): value for name, value in inside.items()}


def load_all(module: nn.Module, state: Mapping[str, Tensor], path: str, hint: str = "") -> nn.Module:
    """``module`` with exactly these weights, in eval mode.

    Raises:
        ModelError: a name or shape differs; ``hint`` says what may help.
    """
    fit(module, state, path, hint=hint)
    return nn.Module.eval(module)


def first_line(exc: BaseException) -> str:
    """What an exception says, in one line."""
    return (str(exc).strip().splitlines() or [type(exc).__name__])[0][:300]
