"""What an ONNX file does not say of itself, as a YAML file: read for every command, and written ready to be filled in.

Its keys are those of `ImageSpec`, and beside them ``labels``, ``map``, ``outputs``, ``kind``, ``licence``,
``intended_use`` and ``architecture``. A file with the keys of `ImageSpec` alone, YAML or JSON, is one as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, get_args

import msgspec

from medfm_compress.data.strict_yaml import load_yaml
from medfm_compress.runtime.columns import Column
from medfm_compress.runtime.errors import InputError, ModelError
from medfm_compress.runtime.image_spec import Colour, Filter, ImageSpec, Resize
from medfm_compress.runtime.regular_file import read_regular
from medfm_compress.runtime.strict_json import convert
from medfm_compress.runtime.task import TaskKind

TODO = "TODO"
"""Stands in a file for what its user must fill in, and is refused there until then: no work left in this code."""
ASKED = ("height_px", "width_px", "colour", "mean", "std", "resize", "filter")
"""Keys of `ImageSpec` that nothing but a description says of an ONNX file."""
_ALLOWED = {"colour": get_args(Colour), "resize": get_args(Resize), "filter": get_args(Filter)}
_MOST_BYTES = 1 << 18
_SHOWN = 20  # labels


class NetworkArguments(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a network was built, beyond its name.

    Attributes:
        arguments: of its constructor, e.g. ``decoder_channels: [512, 256, 128, 64, 32]``.
    """

    arguments: dict[str, Any] = {}


class Beside(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a description says beside the `ImageSpec`; see `TeacherSource`.

    Attributes:
        kind: of the labels, where no study says it.
        architecture: of a network of segmentation: ``arguments`` that its name does not say.
        columns: inputs of an ONNX file beside the image, see `runtime.columns`; nothing of them is measured.
    """

    labels: tuple[str, ...] = ()
    map: dict[str, str] = {}
    outputs: str = ""
    kind: TaskKind | None = None
    licence: str = ""
    intended_use: str = ""
    architecture: NetworkArguments = NetworkArguments()
    columns: tuple[Column, ...] = ()


class Description(NamedTuple):
    """A description that was read."""

    spec: ImageSpec
    beside: Beside


class Known(NamedTuple):
    """What is known of a network's file, for a description of it.

    Attributes:
        name: of the file, without its suffix.
        remarks: what the file says, a line each.
        shape: of its input, channels, height and width; 0 where one is free.
        outputs: how many; 0 where it is not known.
        ending: what they are proven to be; empty where nothing proves it.
        labels: that the file names; empty where it does not.
        study: labels of the study; empty without one.
        spec: that was said already.
        beside: likewise.
    """

    name: str
    remarks: tuple[str, ...]
    shape: tuple[int, int, int]
    outputs: int
    ending: str = ""
    labels: tuple[str, ...] = ()
    study: tuple[str, ...] = ()
    spec: ImageSpec | None = None
    beside: Beside = Beside()


def read_description(path: str, *, alone: bool = False) -> Description:
    """The description at ``path``; ``alone`` where nothing else says how images are prepared, as of an ONNX file.

    Raises:
        ModelError: it cannot be read, is neither YAML nor JSON, has an unknown key or value, is not filled in, leaves
            out what must not be guessed, or has mean and std of pixels from 0 to 255.
    """
    source = f"--teacher-spec {path}"
    try:
        values = load_yaml(read_regular(path, _MOST_BYTES, "--teacher-spec"), source)
    except InputError as exc:
        raise ModelError(str(exc)) from None
    if not isinstance(values, dict):
        raise ModelError(f"{source} is {type(values).__name__}, not keys and values such as 'height_px: 224'")
    left = [str(key) for key, value in values.items() if TODO in _texts(value)]
    if left:
        raise ModelError(f"{source} still says {TODO} at {', '.join(left)}; fill in what the network was trained with")
    beside = {name: values.pop(name) for name in Beside.__struct_fields__ if name in values}
    if alone:
        _check_whole(values, source)
    _check_moments(beside.get("columns"), source)
    spec = convert(values, ImageSpec, source=source, error=ModelError)
    _check_unit(spec, source)
    return Description(spec=spec, beside=convert(beside, Beside, source=source, error=ModelError))


def _check_whole(values: Mapping[str, Any], source: str) -> None:
    absent = [name for name in ASKED if name not in values]
    if absent:
        choices = [f"{name}: {', '.join(_ALLOWED[name])}" for name in absent if name in _ALLOWED]
        allowed = f" ({'; '.join(choices)})" if choices else ""
        raise ModelError(
            f"{source} does not say {', '.join(absent)}, and a wrong guess would be a silent wrong answer; add what "
            f"the network was trained with{allowed}"
        )


def _check_moments(columns: Any, source: str) -> None:
    """Raises ModelError for a numeric column without mean and standard deviation, which nothing but training knows."""
    for column in columns if isinstance(columns, list) else []:
        numeric = isinstance(column, dict) and column.get("kind") == "numeric"
        lacking = [name for name in ("mean", "standard_deviation") if numeric and name not in column]
        if lacking:
            raise ModelError(
                f"{source} does not say {' and '.join(lacking)} of the column {column.get('name')!r}; give those that "
                "the network was trained with, or 0 and 1 where it takes the number as it is"
            )


def _check_unit(spec: ImageSpec, source: str) -> None:
    for name, values, largest in (("mean", spec.mean, "in [0, 1]"), ("std", spec.std, "at most 1")):
        if not all(0 <= value <= 1 for value in values):
            raise ModelError(
                f"{source}: {name} is {list(values)}; pixels are in [0, 1] here, so that it must be {largest}: divide "
                "mean and std by 255 if they are of pixels from 0 to 255"
            )


def write_description(known: Known) -> str:
    """A description with all that is known, as YAML with comments; what is not stands as `TODO`."""
    lines = [
        f"# {known.name}.onnx: what it does not say of itself. Fill in every {TODO} with what it was trained with.",
        *(f"# {remark}" for remark in known.remarks),
        "",
        *_spec_lines(known),
        "",
        *_output_lines(known),
    ]
    return "\n".join(lines) + "\n"


def _spec_lines(known: Known) -> list[str]:
    channels, height, width = known.shape
    spec = known.spec
    if spec is not None:
        return [f"{name}: {_yaml(getattr(spec, name))}" for name in (*ASKED, "crop_fraction")]
    colour = {1: "grey", 3: "rgb"}.get(channels, TODO)
    return [
        f"height_px: {height or TODO}",
        f"width_px: {width or TODO}",
        f"colour: {colour}  # grey or rgb; the channels of rgb are red, green, blue, in this order",
        f"mean: {TODO}  # a channel each, in units of [0, 1]; ImageNet: [0.485, 0.456, 0.406]; none: zeros",
        f"std: {TODO}  # likewise; of ImageNet [0.229, 0.224, 0.225]; pixels of 0 to 255: mean 0, std 0.003921569",
        f"resize: {TODO}  # stretch both sides, shortest side and crop the rest, or longest side and pad",
        f"filter: {TODO}  # bilinear, bicubic or nearest",
        "crop_fraction: 1.0  # below 1: resize to size / fraction, then crop the centre; of 256 to 224 px: 0.875",
    ]


def _output_lines(known: Known) -> list[str]:
    said = known.beside
    count = known.outputs
    ours = f"; the study's are {', '.join(known.study)}" if known.study else ""
    lines = []
    labels = said.labels or known.labels
    if labels:
        lines.append(f"labels: {_yaml(labels)}  # in the order of the outputs{ours}")
    elif 0 < count <= _SHOWN and not known.study:
        names = ", ".join(f"output-{number}" for number in range(count))
        lines.append(f"labels: [{names}]  # names of the outputs, in their order; these will do")
    elif known.study:
        lines.append(f"labels: {TODO}  # [a name, …] for each of the {count or 'n'} outputs, in their order{ours}")
    else:
        lines.append("# labels: [a name, …] for each output, in their order; without it they are called by number")
    if not known.study:
        kind = said.kind or {"softmax": "binary" if count == 2 else "multiclass", "sigmoid": "multilabel"}.get(
            known.ending, TODO
        )
        lines.append(f"kind: {kind}  # binary or multiclass: one label an image; multilabel: each by itself")
    outputs = said.outputs or known.ending or TODO
    proof = "as the file proves" if known.ending and not said.outputs else "logits, softmax or sigmoid: what it gives"
    lines.append(f"outputs: {outputs}  # {proof}")
    lines += [
        f"licence: {_yaml(said.licence)}  # of the weights",
        "# map: {their label: the study's label}  # where they are called otherwise",
    ]
    return lines if known.study else lines[:-1]


def _yaml(value: Any) -> str:
    """A value as YAML within one line, which JSON is."""
    return msgspec.json.encode(value).decode()


def _texts(value: Any) -> list[str]:
    values = value if isinstance(value, list) else list(value.values()) if isinstance(value, dict) else [value]
    return [item for item in values if isinstance(item, str)]
