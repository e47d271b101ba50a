"""A teacher that is a network of segmentation with local weights: ``smp:DECODER/ENCODER`` or ``monai:NAME``.

Channels of the image, number of maps and widths of a U-Net's decoder are read from the weights; whatever else its name
does not say stands under ``architecture: arguments:`` of ``--teacher-spec``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from medfm_compress.compress.networks.architecture import Architecture, Wanted, split_name
from medfm_compress.compress.networks.build import model_name
from medfm_compress.compress.networks.libraries import check_network_name, library_for
from medfm_compress.compress.networks.model import Model, create_module
from medfm_compress.compress.networks.smp_networks import HEAD
from medfm_compress.compress.teachers.pretrained import Published, as_model, load_all, read_weights
from medfm_compress.compress.teachers.source import TeacherSource
from medfm_compress.runtime.errors import ModelError
from medfm_compress.runtime.image_spec import ImageSpec
from medfm_compress.runtime.task import Task
from medfm_compress.runtime.tasks.table import rules_of

_HINT = "say how it was built under 'architecture: arguments:' in its --teacher-spec"


def open_library(source: TeacherSource, study: Task) -> Model:
    """The network that its name and its weights are.

    Raises:
        ModelError: an unknown name, no weights or no spec, weights of another network, or a study without masks.
    """
    check_network_name(source.source)
    library, inner = library_for(source.source, study)
    if not source.weights:
        raise ModelError(
            f"{source.source} has no weights; give a safetensors file or state dict with --teacher-weights"
        )
    spec = source.given_spec()
    if spec is None:
        raise ModelError(
            f"{source.source} does not say how its images are prepared, and a wrong guess would be a silent wrong "
            "answer; write a YAML file with height_px, width_px, colour, mean, std, resize and filter, and give it "
            "with --teacher-spec"
        )
    rules_of(study).check_spec(study, spec)
    state = read_weights(source.weights)
    key, _ = split_name(source.source)
    architecture = (
        _smp(inner, state, source, spec)
        if key == "smp"
        else library.draft(inner, Wanted(len(study.labels), spec.channels, spec.height_px, source.arguments))
    )
    module = load_all(create_module(architecture), state, source.weights, _HINT)
    return as_model(Published(model_name(source.source), module, architecture, spec), source, study)


def _smp(name: str, state: Mapping[str, Tensor], source: TeacherSource, spec: ImageSpec) -> Architecture:
    decoder, _, encoder = name.partition("/")
    head = state.get(f"{HEAD}0.weight")
    if head is None:
        raise ModelError(
            f"{source.weights} has no {HEAD}0.weight, and so is no network of segmentation-models-pytorch with masks; "
            "give the state dict of the whole network"
        )
    arguments = {"encoder_name": encoder, "in_channels": spec.channels, "classes": len(head), **_widths(state)}
    return Architecture(library="smp", name=decoder, arguments={**arguments, **source.arguments})


def _widths(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Channels that the blocks of a U-Net's decoder give, as the weights have them; nothing for another decoder."""
    widths: list[int] = []
    while (weight := state.get(f"decoder.blocks.{len(widths)}.conv2.0.weight")) is not None:
        widths.append(len(weight))
    return {"decoder_channels": widths} if widths else {}
