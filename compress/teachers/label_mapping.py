"""What a teacher's outputs mean in the labels of a study.

    z'_j = T · log Σ_{i ∈ G_j} exp(z_i / T)        mutually exclusive labels
    z'_j = z_i,  G_j = {i}                         independent findings

z the teacher's logits, T the temperature of its calibration, G_j the outputs that mean the study's label j. The softmax
of z' is p'_j = Σ_{i ∈ G_j} p_i / Σ_{i ∈ ∪G} p_i: probabilities of outputs that mean the same are added, outputs that
mean nothing are left out, and the rest is renormalised (the sum and conditioning rules of probability). Independent
findings have no such sum, so each takes one output. A single output z of a binary network is the pair (0, z), whose
softmax is its sigmoid.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from shlex import quote
from typing import NamedTuple

import torch
from torch import Tensor, nn

from medfm_compress.compress.networks.features import is_encoder_decoder
from medfm_compress.compress.networks.inputs import Columned, widths_of
from medfm_compress.compress.networks.model import Model
from medfm_compress.compress.teachers.source import TeacherSource
from medfm_compress.compress.teachers.structure_mapping import StructureMap, structure_map
from medfm_compress.runtime.errors import ModelError
from medfm_compress.runtime.task import Task, TaskKind

Groups = tuple[tuple[int, ...], ...]

_SHOWN = 16


class Labelled(NamedTuple):
    """What is known of a network's outputs.

    Attributes:
        labels: in their order; empty where its file does not say them.
        kind: None where it is not known, and taken to be the study's.
        temperature: of its calibration.
    """

    labels: tuple[str, ...] = ()
    kind: TaskKind | None = None
    temperature: float = 1.0


UNKNOWN = Labelled()


class LabelMap(NamedTuple):
    """From logits ``[n, outputs]`` to logits ``[n, labels of the study]``.

    Attributes:
        groups: the teacher's outputs that mean each of the study's labels.
        theirs: what the teacher calls its outputs.
        single: one output of a binary network, made two first.
        temperature: of the teacher's calibration.
    """

    groups: Groups
    theirs: tuple[str, ...]
    single: bool = False
    temperature: float = 1.0

    def __call__(self, logits: Tensor) -> Tensor:
        """See the module's formula; logits float32 or lower."""
        if self.single:
            logits = torch.cat([torch.zeros_like(logits), logits], 1)
        if all(len(group) == 1 for group in self.groups):
            return logits[:, [group[0] for group in self.groups]]
        scaled = logits.float() / self.temperature
        columns = [torch.logsumexp(scaled[:, list(group)], 1) for group in self.groups]
        return torch.stack(columns, 1) * self.temperature

    def changes(self, outputs: int) -> bool:
        """Whether it is more than the identity on this many outputs."""
        return self.single or self.groups != tuple((index,) for index in range(outputs))


OutputsMap = LabelMap | StructureMap
"""What turns a teacher's outputs into logits of a study's labels."""


class Settled(NamedTuple):
    """How a teacher's outputs are read.

    Attributes:
        label_map: None where they are the study's labels as they stand.
        task: of the mapped logits.
        steps: what was done, for the record.
    """

    label_map: OutputsMap | None
    task: Task
    steps: tuple[str, ...]


def settle(name: str, outputs: int, known: Labelled, source: TeacherSource, study: Task) -> Settled:
    """How the outputs of a teacher become the study's labels.

    Args:
        name: of the teacher.
        outputs: how many it has.
        known: what its file says of them.
        source: ``labels`` and ``mapping`` that the user gives.
        study: the labels to answer with.

    Raises:
        ModelError: labels that are unknown, contradictory, or do not cover the study's; an exclusive teacher of
            independent findings or the other way round.
    """
    if outputs > 1:  # a sigmoid is a softmax of two where there is only one
        _check_kind(name, known.kind, study)
    theirs = _labels(name, outputs, known, source.labels, study)
    groups = _groups(name, theirs, study, source.mapping)
    label_map: OutputsMap = LabelMap(groups, theirs, outputs == 1 and len(theirs) == 2, known.temperature)
    if study.is_dense:
        label_map = structure_map(groups, theirs)
    task = Task(kind=study.kind, labels=study.labels, temperature=known.temperature, normal=study.normal)
    steps = (_describe(name, theirs, groups, study),) if label_map.changes(outputs) else ()
    return Settled(label_map if label_map.changes(outputs) else None, task, steps)


class MappedNetwork(nn.Module):
    """A network that answers with the study's labels; the buffer puts the mapping into the hash of its weights."""

    groups: Tensor

    def __init__(self, network: nn.Module, label_map: OutputsMap) -> None:
        super().__init__()
        self.network, self.label_map = network, label_map
        pairs = [(index, label) for label, group in enumerate(label_map.groups) for index in group]
        self.register_buffer("groups", torch.tensor(pairs, dtype=torch.int64))

    @property
    def column_widths(self) -> dict[str, int]:
        """Of the network itself."""
        return widths_of(self.network)

    def forward(self, *inputs: Tensor | Columned) -> Tensor:
        """Logits ``[n, labels]`` of the study."""
        return self.label_map(self.network(*inputs))


class MappedEncoderDecoder(MappedNetwork):
    """Likewise, with the parts that `features` reads of an encoder with a decoder."""

    @property
    def encoder(self) -> object:
        """Of the network itself."""
        return self.network.encoder

    @property
    def decoder(self) -> object:
        """Of the network itself."""
        return self.network.decoder

    def segmentation_head(self, decoded: Tensor) -> Tensor:
        """Logits ``[n, structures, h, w]`` of the study."""
        return self.label_map(self.network.segmentation_head(decoded))  # type: ignore[operator]


class MappedTimmNetwork(MappedNetwork):
    """Likewise, with the features that `features` reads of a timm network."""

    def forward_features(self, images: Tensor) -> Tensor:
        """Of the network itself."""
        inner: Tensor = self.network.forward_features(images)  # type: ignore[operator]
        return inner

    def forward_head(self, inner: Tensor, pre_logits: bool = False) -> Tensor:
        """Logits ``[n, labels]`` of the study, or what enters the classifier."""
        out: Tensor = self.network.forward_head(inner, pre_logits=pre_logits)  # type: ignore[operator]
        return out if pre_logits else self.label_map(out)

    @property
    def num_features(self) -> object:
        """Channels of the last feature map."""
        return self.network.num_features

    @property
    def num_prefix_tokens(self) -> object:
        """Tokens before those of the patches."""
        return getattr(self.network, "num_prefix_tokens", 0)

    @property
    def patch_embed(self) -> object:
        """Knows the grid of the patches; None where there are none."""
        return getattr(self.network, "patch_embed", None)


def unmapped(model: Model) -> Model:
    """The model with the labels and the classifier of its publisher; itself where nothing was mapped."""
    if not isinstance(model.module, MappedNetwork) or isinstance(model.module.label_map, StructureMap):
        return model
    kind: TaskKind = "multilabel" if model.task.independent else "multiclass"
    task = Task(kind=kind, labels=model.module.label_map.theirs, temperature=model.task.temperature)
    return replace(model, module=model.module.network, task=task)


def mapped(network: nn.Module, label_map: OutputsMap | None) -> nn.Module:
    """``network`` as it is where there is nothing to map, else wrapped."""
    if label_map is None:
        return network
    if is_encoder_decoder(network):
        return nn.Module.eval(MappedEncoderDecoder(network, label_map))
    is_timm = hasattr(network, "forward_features") and hasattr(network, "forward_head")
    return nn.Module.eval((MappedTimmNetwork if is_timm else MappedNetwork)(network, label_map))


def _check_kind(name: str, kind: TaskKind | None, study: Task) -> None:
    if study.is_dense or kind == "segmentation":
        return  # the shape of its outputs said already whether it answers for every pixel
    if kind is not None and (kind == "multilabel") != (study.independent):
        raise ModelError(
            f"{name} is a {kind} teacher and the study is {study.kind}: probabilities of exclusive labels and of "
            "independent findings cannot be turned into each other; choose a teacher or a study of the same kind"
        )


def _labels(name: str, outputs: int, known: Labelled, own_labels: tuple[str, ...], study: Task) -> tuple[str, ...]:
    """Names of the outputs, in their order; two for a single output of exclusive labels."""
    if own_labels and known.labels != own_labels and set(known.labels) == set(own_labels):
        raise ModelError(
            f"{name} says that its outputs are {','.join(known.labels)}, in this order, and --teacher-labels says "
            f"{','.join(own_labels)}; leave the option out"
        )
    labels = own_labels or known.labels
    if not labels:
        raise ModelError(_unknown(name, outputs, study))
    if len(set(labels)) != len(labels):
        raise ModelError(f"the labels {','.join(labels)} of {name} name one twice; give each output its own name")
    pair = outputs == 1 and len(labels) == 2 and not study.independent
    if len(labels) != outputs and not pair:
        raise ModelError(
            f"{name} has {outputs} outputs, but {len(labels)} labels ({_listed(labels)}); give one for each output, "
            "in their order, with --teacher-labels"
        )
    return labels


def _unknown(name: str, outputs: int, study: Task) -> str:
    ours = study.labels
    if outputs == len(ours) or (outputs == 1 and study.kind == "binary"):
        return (
            f"{name} does not say what its {outputs} output(s) mean, and a wrong order would teach the wrong finding; "
            f"give its labels in the order of its outputs, e.g. --teacher-labels {quote(','.join(ours))}"
        )
    theirs = [chr(ord("a") + index) if index < 26 else f"label{index}" for index in range(outputs)]
    shown = ",".join(theirs if outputs <= 8 else [*theirs[:3], "..."])
    maps = " ".join(f"--map {quote(f'{their}={our}')}" for their, our in zip(theirs, ours, strict=False))
    return (
        f"{name} has {outputs} outputs of unknown meaning, and the study has the {len(ours)} labels {','.join(ours)}; "
        f"name the outputs in their order and say which means which, e.g. --teacher-labels {shown} {maps}"
    )


def _groups(name: str, theirs: tuple[str, ...], study: Task, mapping: Mapping[str, str]) -> Groups:
    """Indices of the teacher's labels that mean each of the study's; equal names mean each other."""
    for their, our in mapping.items():
        if their not in theirs:
            raise ModelError(f"--map {their}={our}: {name} has no label {their!r}; its labels: {_listed(theirs)}")
        if our not in study.labels:
            raise ModelError(
                f"--map {their}={our}: the study has no label {our!r}; its labels: {_listed(study.labels)}"
            )
    meanings = [mapping.get(their, their) for their in theirs]
    groups = tuple(tuple(i for i, meaning in enumerate(meanings) if meaning == label) for label in study.labels)
    missing = [label for label, group in zip(study.labels, groups, strict=True) if not group]
    if missing:
        free = [their for their, meaning in zip(theirs, meanings, strict=True) if meaning not in study.labels]
        example = f"--map {quote(f'{(free or theirs)[0]}={missing[0]}')}"
        raise ModelError(
            f"no label of {name} ({_listed(theirs)}) means {', '.join(map(repr, missing))} of the study; give a "
            f"model of the study's labels, or tell distill which of them does, e.g. with {example}"
        )
    several = [label for label, group in zip(study.labels, groups, strict=True) if len(group) > 1]
    if several and study.independent and not study.is_dense:
        raise ModelError(
            f"several labels of {name} mean {several[0]!r}, but probabilities of independent findings cannot be added; "
            "map one of them"
        )
    return groups


def _listed(labels: tuple[str, ...]) -> str:
    """Labels after each other, the first ones of many."""
    return ",".join(labels if len(labels) <= _SHOWN else (*labels[:_SHOWN], f"... ({len(labels)} in all)"))


def _describe(name: str, theirs: tuple[str, ...], groups: Groups, study: Task) -> str:
    parts = [
        f"{' + '.join(theirs[i] for i in group)} as {our}" for our, group in zip(study.labels, groups, strict=True)
    ]
    used = {index for group in groups for index in group}
    left = [their for index, their in enumerate(theirs) if index not in used]
    gone = "background" if study.is_dense else "left out"
    rest = f"; {gone}: {_listed(tuple(left))}" if left else ""
    return f"labels of {name}: {', '.join(parts)}{rest}"
