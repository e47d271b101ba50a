"""A teacher that is a MONAI bundle: a folder with ``configs/metadata.json``, a configuration and ``models/``.

Its network is built from a list that we know, its preprocessing is followed only where an `ImageSpec` is exactly that,
and none of its Python is run.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from medfm_compress.compress.networks.model import Model
from medfm_compress.compress.teachers.label_mapping import Labelled
from medfm_compress.compress.teachers.monai_config import METADATA, NETWORK, TARGET, MonaiBundle
from medfm_compress.compress.teachers.monai_networks import build_network, channels_of
from medfm_compress.compress.teachers.monai_transforms import Chain, follow, nearest_spec
from medfm_compress.compress.teachers.pretrained import Published, as_model, load_all, read_weights
from medfm_compress.compress.teachers.source import TeacherSource, spec_to_write
from medfm_compress.runtime.errors import ModelError
from medfm_compress.runtime.image_spec import ImageSpec
from medfm_compress.runtime.task import Task, TaskKind

__all__ = ["METADATA", "open_monai"]

_DTYPE = "dtype"


class Transposed(nn.Module):
    """A network that was trained on images whose height and width are swapped."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Logits of images ``[n, channels, height, width]``."""
        logits: Tensor = self.network(images.transpose(2, 3))
        return logits


def open_monai(source: TeacherSource, study: Task) -> Model:
    """The network of a bundle.

    Raises:
        ModelError: a network that is not in the list, weights that do not fit, a preprocessing that no spec can
            express and no ``--teacher-spec``, or labels that cannot be the study's.
        MissingDependency: MONAI is not installed.
    """
    source.refuse("weights")
    bundle = MonaiBundle(Path(source.source))
    definition = bundle.value(bundle.config[NETWORK])
    if not isinstance(definition, dict):
        raise ModelError(f"{NETWORK!r} of {bundle.name} is {definition!r}; it must name a network by {TARGET!r}")
    module, architecture = build_network(definition, bundle.name)
    weights = bundle.weights()
    load_all(module, read_weights(weights), weights)
    chain = _chain(bundle, channels_of(architecture))
    spec = source.given_spec() or _exact(bundle.name, chain)
    teacher = Published(
        bundle.name,
        nn.Module.eval(Transposed(module)) if chain.transposed else module,
        architecture,
        spec,
        labelled=Labelled(_labels(bundle.metadata), _kind(bundle)),
        licence=bundle.licence(),
        intended_use=str(bundle.metadata.get("intended_use") or ""),
        steps=(f"{bundle.name}: sees images transposed, as MONAI reads them",) if chain.transposed else (),
    )
    return as_model(teacher, source, study)


def _exact(name: str, chain: Chain) -> ImageSpec:
    spec = nearest_spec(chain)
    if chain.differences:
        raise ModelError(
            f"the preprocessing of {name} is no ImageSpec: {'; '.join(chain.differences)}; the nearest is "
            f"{spec_to_write(spec)}: where it is near enough, write it into a JSON file and give it with "
            "--teacher-spec"
        )
    return spec


def _chain(bundle: MonaiBundle, channels: int) -> Chain:
    if channels not in (1, 3):
        raise ModelError(f"{bundle.name} takes images of {channels} channels; 1 (grey) or 3 (rgb) are allowed")
    preprocessing = bundle.config.get("preprocessing") or {}
    transforms = [_literals(bundle, transform) for transform in _transforms(bundle, preprocessing)]
    return follow(transforms, channels, _sides(bundle.metadata))


def _transforms(bundle: MonaiBundle, chain: Any) -> list[Mapping[str, Any]]:
    """The transforms of a ``Compose``, not resolved yet."""
    listed = chain.get("transforms") if isinstance(chain, dict) else None
    if isinstance(listed, str) and listed.startswith("@"):
        listed = bundle.referred(listed)
    if chain and not (isinstance(listed, list) and all(isinstance(part, dict) for part in listed)):
        raise ModelError(f"the preprocessing of {bundle.name} is no list of transforms; write them out in a Compose")
    return listed or []


def _literals(bundle: MonaiBundle, transform: Mapping[str, Any]) -> dict[str, Any]:
    """A transform's arguments; a dtype may stay the expression that it usually is, for it is only looked at."""
    return {key: value if key == _DTYPE else bundle.value(value) for key, value in transform.items()}


def _sides(metadata: Mapping[str, Any]) -> tuple[int, int] | None:
    sides = _format(metadata, "inputs").get("spatial_shape") or ()
    whole = [side for side in sides if isinstance(side, int)]
    return (whole[0], whole[1]) if len(whole) == len(sides) == 2 else None


def _labels(metadata: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the outputs, where the metadata gives one for each."""
    named = _object(_format(metadata, "outputs").get("channel_def"))
    numbered = {int(key): str(name) for key, name in named.items() if str(key).isdigit()}
    return tuple(numbered[index] for index in sorted(numbered)) if sorted(numbered) == [*range(len(named))] else ()


def _format(metadata: Mapping[str, Any], side: str) -> Mapping[str, Any]:
    """What the metadata says of the only input or output."""
    ports = _object(_object(metadata.get("network_data_format")).get(side))
    return _object(next(iter(ports.values()))) if len(ports) == 1 else {}


def _object(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _kind(bundle: MonaiBundle) -> TaskKind | None:
    """Of the labels, where the postprocessing says how outputs become probabilities."""
    listed = _object(bundle.config.get("postprocessing")).get("transforms")
    for transform in map(_object, listed if isinstance(listed, list) else ()):
        if str(transform.get(TARGET, "")).startswith("Activations"):
            if transform.get("sigmoid") is True:
                return "multilabel"
            if transform.get("softmax") is True:
                return "multiclass"
    return None
