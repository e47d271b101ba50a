"""A teacher that is a timm network on the Hugging Face hub, with the classifier that it has there.

Asks for the network unless the hub's cache has it; ``HF_HUB_OFFLINE=1`` asks the cache alone. Weights are safetensors,
or a state dict without code.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from torch import nn

from medfm_compress.compress.networks.architecture import Architecture
from medfm_compress.compress.networks.build import from_hub
from medfm_compress.compress.networks.model import Model
from medfm_compress.compress.teachers.from_timm import published_spec
from medfm_compress.compress.teachers.label_mapping import Labelled
from medfm_compress.compress.teachers.pretrained import Published, as_model
from medfm_compress.compress.teachers.source import TeacherSource
from medfm_compress.runtime.errors import ModelError
from medfm_compress.runtime.task import Task

_CARD = "README.md"
_FENCE = "---"


def open_hub(source: TeacherSource, study: Task) -> Model:
    """The network that ``hf-hub:OWNER/NAME`` is, ``@REVISION`` after it if need be.

    Raises:
        ModelError: neither the hub nor its cache has it, it is no timm network, or it has no classifier.
    """
    source.refuse("weights")
    repository = source.source.removeprefix("hf-hub:")
    architecture = Architecture(name=source.source)
    module = from_hub(architecture)
    published = cast("Mapping[str, Any]", module.pretrained_cfg)
    _check_classifier(module, published, repository)
    own_spec = source.given_spec()
    name = repository.rsplit("/", 1)[-1]
    channels = int(getattr(module, "in_chans", 0) or (published.get("input_size") or (3,))[0])
    teacher = Published(
        name,
        module,
        architecture,
        own_spec or published_spec(module, name, channels),
        labelled=Labelled(_labels(published)),
        licence=str(published.get("license") or "") or licence_in_card(repository),
        steps=(f"{name}: weights of hf-hub:{repository}",),
    )
    return as_model(teacher, source, study)


def licence_in_card(repository: str) -> str:
    """Licence that the model card's header states, where the hub's cache holds the card; else empty."""
    import yaml
    from huggingface_hub import try_to_load_from_cache

    name, _, revision = repository.partition("@")
    path = try_to_load_from_cache(name, _CARD, revision=revision or None)
    if not isinstance(path, str):
        return ""
    lines = Path(path).read_text("utf-8", errors="replace").splitlines()
    if not lines or lines[0].strip() != _FENCE or _FENCE not in lines[1:]:
        return ""
    try:
        header = yaml.safe_load("\n".join(lines[1 : lines.index(_FENCE, 1)]))
    except yaml.YAMLError:
        return ""
    return str(header.get("license") or "") if isinstance(header, dict) else ""


def _check_classifier(module: nn.Module, published: Mapping[str, Any], repository: str) -> None:
    """Where its configuration contradicts itself, timm gives a network a new, untrained classifier."""
    built, stated = getattr(module, "num_classes", 0), published.get("num_classes")
    if not built:
        raise ModelError(f"hf-hub:{repository} has no classifier; a teacher answers with labels: choose a trained one")
    if built != stated:
        raise ModelError(
            f"the configuration of hf-hub:{repository} names {stated} classes and builds {built}, so that its "
            "classifier would be untrained; have it repaired, or give the weights to timm:NAME"
        )


def _labels(published: Mapping[str, Any]) -> tuple[str, ...]:
    names = published.get("label_names") or ()
    return tuple(str(name) for name in (names.values() if isinstance(names, dict) else names))
