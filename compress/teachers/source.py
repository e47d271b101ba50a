"""`TeacherSource`: where a teacher comes from, and what its file does not say of itself."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from medfm_compress.compress.teachers.description import ASKED, Description, read_description
from medfm_compress.runtime.columns import Column
from medfm_compress.runtime.errors import ModelError
from medfm_compress.runtime.image_spec import ImageSpec
from medfm_compress.runtime.strict_json import convert

Outputs = Literal["", "logits", "softmax", "sigmoid"]
KINDS = (
    "a model folder, timm:NAME, hf-hub:OWNER/NAME, torchvision:NAME, smp:DECODER/ENCODER, monai:NAME, an .onnx file, "
    "a MONAI bundle or outputs:FOLDER"
)


class TeacherSource(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where a teacher comes from, and what its file does not say of itself.

    Attributes:
        source: model folder, ``timm:NAME``, ``hf-hub:OWNER/NAME``, ``torchvision:NAME``, ``smp:DECODER/ENCODER``,
            ``monai:NAME``, an ``.onnx`` file, a MONAI bundle, or ``outputs:FOLDER``.
        weights: of a network that is named by its library.
        labels: its labels in the order of its outputs; needed where its file does not say them.
        spec: YAML or JSON file of its `ImageSpec`, which may name labels, mapping and outputs as well.
        mapping: its label → the study's label.
        outputs: of an ``.onnx`` file: ``logits``, ``softmax`` or ``sigmoid``; empty takes what its graph proves.
        licence: of its weights; empty takes what its file says.
        intended_use: what its publisher says it is for; empty takes what its file says.
        arguments: of the constructor of a network of segmentation, beyond its name; those of ``architecture:`` in
            ``spec``.
    """

    source: str
    weights: str = ""
    labels: tuple[str, ...] = ()
    spec: str = ""
    mapping: dict[str, str] = {}
    licence: str = ""
    intended_use: str = ""
    outputs: Outputs = ""
    arguments: dict[str, Any] = {}

    def given_spec(self) -> ImageSpec | None:
        """The `ImageSpec` that ``spec`` names; None where it names none.

        Raises:
            ModelError: the file cannot be read, or is no spec.
        """
        return self._description().spec if self.spec else None

    def given_columns(self) -> tuple[Column, ...]:
        """What the inputs of an ``.onnx`` file beside the image are, as the file of ``spec`` says it; none without.

        Raises:
            ModelError: as `given_spec`.
        """
        return self._description().beside.columns if self.spec else ()

    def described(self) -> TeacherSource:
        """This source with what the file of ``spec`` says beside the preprocessing.

        Raises:
            ModelError: the file cannot be read, or says something else than the options do.
        """
        if not self.spec:
            return self
        beside = self._description().beside
        said = {
            "labels": beside.labels,
            "mapping": beside.map,
            "outputs": beside.outputs,
            "licence": beside.licence,
            "intended_use": beside.intended_use,
            "arguments": beside.architecture.arguments,
        }
        for name, value in said.items():
            if value and getattr(self, name) not in (value, type(value)()):
                option = {"mapping": "--map"}.get(name, f"--teacher-{name.replace('_', '-')}")
                raise ModelError(f"{option} and --teacher-spec {self.spec} say different things; leave one of them out")
        return convert(
            msgspec.to_builtins(self) | {name: value for name, value in said.items() if value},
            TeacherSource,
            source=f"--teacher-spec {self.spec}",
            error=ModelError,
        )

    def _description(self) -> Description:
        return read_description(self.spec, alone=self.source.lower().endswith(".onnx"))

    def refuse(self, *options: str) -> None:
        """Raises ModelError where an option was given that this kind of teacher answers by itself."""
        for option in options:
            if getattr(self, option):
                raise ModelError(f"{self.source} has {option} of its own; leave --teacher-{option} out")


def spec_to_write(spec: ImageSpec) -> str:
    """The keys of ``spec`` that have no default, and those that are not at it, as one line of JSON."""
    usual = ImageSpec(
        height_px=spec.height_px, width_px=spec.width_px, colour=spec.colour, mean=spec.mean, std=spec.std
    )
    kept = {
        name: value
        for name in spec.__struct_fields__
        if (value := getattr(spec, name)) != getattr(usual, name) or name in ASKED
    }
    return msgspec.json.encode(kept).decode()
