"""`Model`: a network with its spec, task and origin, and the *model folder* that holds it on disk.

A model folder is ``model.safetensors`` (float32 weights) beside ``model.json`` (:class:`ModelCard`). No pickle is read
or written: weights are safetensors, or state dicts loaded with ``weights_only=True``.
"""

from __future__ import annotations

import hashlib
import re
import warnings
from collections import OrderedDict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import nn

from medfm_compress.compress.networks.architecture import Architecture
from medfm_compress.compress.networks.heads import begin_at_zero, classifier_names
from medfm_compress.compress.networks.libraries import library_of
from medfm_compress.runtime.atomic_write import replacing, write_atomically
from medfm_compress.runtime.columns import Column, check_columns
from medfm_compress.runtime.errors import ModelError
from medfm_compress.runtime.image_spec import ImageSpec
from medfm_compress.runtime.strict_json import decode, encode
from medfm_compress.runtime.task import Task

CARD = "model.json"
WEIGHTS = "model.safetensors"
SCHEMA_VERSION = 3
"""The newest; a card is written in 2 where its network takes no columns."""
_WITHOUT_COLUMNS = 2
_METADATA = "_metadata"  # where PyTorch keeps the versions of a state dict's layers
_TORCH_MARKS = (b"PK\x03\x04", b"\x80")  # of torch.save: a zip file, or of old a pickle
_HEADER_AT, _LONGEST_MARK = 8, 9  # safetensors begin with the length of a JSON header, and the header
_AVERAGED = ("state_dict_ema", "model_ema", "ema_state_dict", "ema")  # of timm, and of others
_REFUSED_OBJECT = re.compile(r"GLOBAL ([\w.]+)")
_PROGRAM = "TorchScript archives"
_WANTED_WEIGHTS = "give a .safetensors file, or a state dict: torch.save(model.state_dict(), FILE)"
_COUNTER = ".num_batches_tracked"  # old files have none, and nothing in evaluation reads it


class Origin(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the weights came from; travels into the bundle's provenance.

    Attributes:
        teacher: ``name@sha256`` of the teacher, empty for a teacher itself.
        study_fingerprint: of the study it was trained on.
        steps: what was done, in order, one line each.
    """

    teacher: str = ""
    study_fingerprint: str = ""
    steps: tuple[str, ...] = ()


NO_ORIGIN = Origin()


class ModelCard(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Content of ``model.json``; ``columns`` since schema 3."""

    schema_version: int = SCHEMA_VERSION
    name: str
    architecture: Architecture
    spec: ImageSpec
    task: Task
    licence: str = ""
    intended_use: str = ""
    provenance: Origin = NO_ORIGIN
    weights_sha256: str = ""
    columns: tuple[Column, ...] | msgspec.UnsetType = msgspec.UNSET

    def __post_init__(self) -> None:
        fusion = self.architecture.fusion
        widths = () if fusion is msgspec.UNSET else fusion.widths
        told = tuple((column.name, column.width) for column in self.told)
        check_columns(self.told)
        if widths != told:
            raise ModelError(
                f"{self.name} is described with the columns {told or 'none'}, and its network takes "
                f"{widths or 'none'}; restore its card or train again"
            )

    @property
    def told(self) -> tuple[Column, ...]:
        """What the network takes beside the image."""
        return () if self.columns is msgspec.UNSET else self.columns


@dataclass(frozen=True)
class Model:
    """A network in memory, in eval mode, float32.

    Attributes:
        name: what reports call it.
        module: maps ``[n, channels, height, width]`` to logits ``[n, labels]``, of a segmentation
            ``[n, structures, height, width]``; a network with columns takes them as further arguments, in their order.
        spec: its preprocessing.
        task: its outputs.
        architecture: how to build the module again.
        licence: of the weights; a student inherits its teacher's.
        intended_use: what the weights' publisher says they are for; likewise inherited.
        provenance: where the weights came from.
        columns: that the network takes beside the image.
    """

    name: str
    module: nn.Module
    spec: ImageSpec
    task: Task
    architecture: Architecture
    licence: str = ""
    provenance: Origin = NO_ORIGIN
    intended_use: str = ""
    columns: tuple[Column, ...] = ()

    def weights_sha256(self) -> str:
        """Hex sha256 over names, shapes and float32 bytes of all parameters and buffers."""
        return sha256_of(self.module)


def sha256_of(module: nn.Module) -> str:
    """Hex sha256 over names, shapes and bytes of all parameters and buffers."""
    digest = hashlib.sha256()
    for name, tensor in sorted(_tensors(module).items()):
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


def create_module(architecture: Architecture) -> nn.Module:
    """Build an untrained module in eval mode.

    Raises:
        ModelError: unknown library or name, arguments that the architecture does not take, or a pruning plan that
            does not fit.
    """
    module = library_of(architecture).create(architecture)
    if architecture.fusion is not msgspec.UNSET:
        from medfm_compress.compress.networks.fusion.network import fused

        module = fused(module, architecture.fusion)
    if architecture.pruning:
        from medfm_compress.compress.networks.pruning_plan import apply_pruning_plan

        module = apply_pruning_plan(module, architecture.pruning)
    return module.eval()


def load_model_card(folder: str | Path) -> ModelCard:
    """Read ``model.json``.

    Raises:
        ModelError: no such file, a newer schema, or unknown keys.
    """
    path = Path(folder) / CARD
    if not path.is_file():
        raise ModelError(f"{folder} is not a model folder: it has no {CARD}; make one with 'medfm-compress finetune'")
    card = decode(path.read_bytes(), ModelCard, source=str(path), error=ModelError)
    if card.schema_version > SCHEMA_VERSION:
        raise ModelError(f"{path} has schema {card.schema_version}; this version reads {SCHEMA_VERSION}: upgrade")
    return card


def load_model(folder: str | Path) -> Model:
    """Load a model folder.

    Raises:
        ModelError: damaged or missing files, weights that do not match the card or the architecture.
    """
    card = load_model_card(folder)
    module = create_module(card.architecture)
    load_weights(module, Path(folder) / WEIGHTS)
    model = Model(
        name=card.name,
        module=module,
        spec=card.spec,
        task=card.task,
        architecture=card.architecture,
        licence=card.licence,
        provenance=card.provenance,
        intended_use=card.intended_use,
        columns=card.told,
    )
    if card.weights_sha256 and model.weights_sha256() != card.weights_sha256:
        raise ModelError(f"{folder}: {WEIGHTS} is not the file that {CARD} describes; restore it or train again")
    return model


def save_model(model: Model, folder: str | Path) -> Path:
    """Write a model folder; the card is written last, so that an interrupted save leaves no model folder behind."""
    from safetensors.torch import save_file

    folder = Path(folder)
    (folder / CARD).unlink(missing_ok=True)
    with replacing(folder / WEIGHTS) as temporary:
        save_file(_tensors(model.module), temporary)
    card = ModelCard(
        schema_version=SCHEMA_VERSION if model.columns else _WITHOUT_COLUMNS,
        name=model.name,
        architecture=model.architecture,
        spec=model.spec,
        task=model.task,
        licence=model.licence,
        intended_use=model.intended_use,
        provenance=model.provenance,
        weights_sha256=model.weights_sha256(),
        columns=model.columns or msgspec.UNSET,
    )
    write_atomically(folder / CARD, encode(card))
    return folder


def load_weights(module: nn.Module, path: str | Path, *, replace_head: bool = False) -> None:
    """Load safetensors or a state dict into ``module`` in place; never a pickle with code in it.

    Args:
        module: receives the weights.
        path: ``.safetensors``, or a ``.pth`` / ``.pt`` state dict.
        replace_head: where the file's classifier has another shape (another label set), or there is none, the module's
            begins at zero.

    Raises:
        ModelError: unreadable file, or names or shapes that do not match.
    """
    state = read_state_dict(path)
    heads = classifier_names(module) if replace_head else ()
    own = module.state_dict()
    new = {name for name in own if name.startswith(heads) and not _same_shape(own, state, name)} if heads else set()
    kept = with_metadata({name: value for name, value in state.items() if name not in new}, metadata_of(state))
    fit(module, kept, str(path), replaced=new, colour_option="--colour" if replace_head else "")
    begin_at_zero(module, [head for head in heads if any(name.startswith(head) for name in new)])


def fit(
    module: nn.Module,
    state: Mapping[str, torch.Tensor],
    path: str,
    *,
    replaced: Collection[str] = (),
    hint: str = "",
    colour_option: str = "",
) -> None:
    """Load ``state`` into ``module`` in place.

    Args:
        module: receives the weights.
        state: with the metadata of its file, where it had some; else that of ``module`` is taken.
        path: of the file.
        replaced: names that the module keeps as they are.
        hint: what may help where something differs.
        colour_option: that builds the network for grey or coloured images; empty where there is none.

    Raises:
        ModelError: names or shapes differ, or the architecture's own loader refuses.
    """
    own = module.state_dict()
    problems = differences(own, state, replaced)
    if problems:
        mend = colour_hint(own, state, colour_option) or hint
        first = f"{len(problems)} tensors differ, first {problems[0]}"
        raise ModelError(f"{path} does not fit the architecture: {first}" + (f"; {mend}" if mend else ""))
    # Some loaders need the version that stands in the metadata, which safetensors does not keep.
    theirs = metadata_of(state)
    kept = with_metadata(state, metadata_of(own) if theirs is None else theirs)
    try:
        module.load_state_dict(kept, strict=False)
    except Exception as exc:  # noqa: BLE001 - a network's own loader raises what it likes
        raise ModelError(f"{path} cannot be loaded into the architecture: {_first_line(exc)}") from None


def differences(
    own: Mapping[str, torch.Tensor], state: Mapping[str, torch.Tensor], replaced: Collection[str] = ()
) -> list[str]:
    """What stands in one and not in the other or has another shape, in words; counters of batches do not matter."""
    problems = []
    for name in sorted(own.keys() | state.keys()):
        if name in replaced or (name not in state and name.endswith(_COUNTER)):
            continue
        if _same_shape(own, state, name):
            problems += _unlike_values(name, own[name], state[name])
        elif name not in own or name not in state:
            where = "the file has and the network has not" if name in state else "the network has and the file has not"
            problems.append(f"{name!r}, which {where}")
        else:
            theirs, ours = (list(tensors[name].shape) for tensors in (state, own))
            problems.append(f"{name!r}, which is {theirs} in the file and {ours} in the network")
    return sorted(problems, key=lambda text: "which is" not in text)  # another shape says most


def _unlike_values(name: str, ours: torch.Tensor, theirs: torch.Tensor) -> list[str]:
    """Whole numbers in the place of weights lack their scale; what is not finite is no weight."""
    if ours.is_floating_point() and not theirs.is_floating_point():
        return [f"{name!r}, which is {str(theirs.dtype).removeprefix('torch.')} in the file and float in the network"]
    wrong = int((~torch.isfinite(theirs)).sum()) if theirs.is_floating_point() else 0
    return [f"{name!r}, which is not finite in {wrong} of {theirs.numel()} values"] if wrong else []


def colour_hint(own: Mapping[str, torch.Tensor], state: Mapping[str, torch.Tensor], option: str) -> str:
    """What mends weights of grey images for a network of coloured ones, or the other way round; empty where neither."""
    for name in own.keys() & state.keys():
        theirs, ours = tuple(state[name].shape), tuple(own[name].shape)
        if len(theirs) == len(ours) == 4 and {theirs[1], ours[1]} == {1, 3} and theirs[2:] == ours[2:]:
            colour, other = ("grey", "rgb") if theirs[1] == 1 else ("rgb", "grey")
            mend = f"give {option} {colour}" if option else "export the network that they are of to ONNX"
            return f"they are of {colour} images and the network takes {other}: {mend}"
    return ""


def metadata_of(state: Mapping[str, torch.Tensor]) -> Mapping[str, Any] | None:
    """Name of a layer → its version and the like, as PyTorch keeps them beside a state dict; None where it does not."""
    metadata: Mapping[str, Any] | None = getattr(state, _METADATA, None)
    return metadata


def with_metadata(
    state: Mapping[str, torch.Tensor], metadata: Mapping[str, Any] | None
) -> OrderedDict[str, torch.Tensor]:
    """``state`` as `metadata_of` reads it."""
    kept = OrderedDict(state)
    if metadata is not None:
        setattr(kept, _METADATA, metadata)
    return kept


def _same_shape(own: Mapping[str, torch.Tensor], state: Mapping[str, torch.Tensor], name: str) -> bool:
    return name in own and name in state and own[name].shape == state[name].shape


def read_state_dict(path: str | Path) -> dict[str, torch.Tensor]:
    """Tensors of a safetensors file or of a state dict saved by torch (``weights_only=True``).

    Raises:
        ModelError: the file is missing, damaged, or holds more than tensors.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = Path(path)
    if not path.is_file():
        raise ModelError(f"weights {path} do not exist; give a .safetensors file or a state dict")
    try:
        begin = _begin_of(path)
        if path.suffix == ".safetensors" or begin[_HEADER_AT:] == b"{":
            return dict(load_file(path))
        loaded = _load_state(path) if begin.startswith(_TORCH_MARKS) else None
    except (SafetensorError, OSError, RuntimeError, ValueError, EOFError, KeyError) as exc:
        if _PROGRAM in str(exc):
            raise ModelError(f"{path} is a program (TorchScript) and no file of weights; {_WANTED_WEIGHTS}") from None
        raise ModelError(f"{path} is not readable as safetensors or a state dict: {_first_line(exc)}") from None
    except Exception as exc:  # noqa: BLE001 -- UnpicklingError, and whatever a hostile pickle makes torch's reader raise
        named = _REFUSED_OBJECT.search(str(exc))
        what = f", among it {named[1]}," if named else ""
        raise ModelError(f"{path} holds more than tensors{what} and is refused; {_WANTED_WEIGHTS}") from None
    if loaded is None:
        network = "; an ONNX file is a whole network: give it as a teacher" if path.suffix == ".onnx" else ""
        raise ModelError(f"{path} is no file of weights; {_WANTED_WEIGHTS}{network}")
    averaged = [key for key in _AVERAGED if _holds_tensors(loaded.get(key))] if isinstance(loaded, dict) else []
    if averaged and "state_dict" in loaded:
        raise ModelError(
            f"{path} holds two networks, 'state_dict' and {averaged[0]!r}, the moving average of its weights; save the "
            f"one that is meant, e.g. torch.save(torch.load(FILE, weights_only=True)[{averaged[0]!r}], NEW)"
        )
    state = loaded.get("state_dict", loaded) if isinstance(loaded, dict) else None
    if not isinstance(state, dict) or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise ModelError(f"{path} is not a state dict of tensors; save model.state_dict()")
    return state


def _holds_tensors(value: object) -> bool:
    return isinstance(value, dict) and any(isinstance(entry, torch.Tensor) for entry in value.values())


def _begin_of(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_LONGEST_MARK)


def _load_state(path: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about other ways to load it, none of which is meant here
        return torch.load(path, map_location="cpu", weights_only=True)


def _tensors(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in module.state_dict().items()}


def _first_line(exc: BaseException) -> str:
    return (str(exc).splitlines() or [type(exc).__name__])[0]
