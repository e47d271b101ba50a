"""`TeacherSource`: where a teacher comes from, and what its file does not say of itself."""

from __future__ import annotations

from typing import Literal

import msgspec

from medfm_compress.runtime.errors import InputError, ModelError
from medfm_compress.runtime.image_spec import ImageSpec
from medfm_compress.runtime.regular_file import read_regular
from medfm_compress.runtime.strict_json import decode

Outputs = Literal["", "logits", "softmax", "sigmoid"]
_MOST_SPEC_BYTES = 1 << 20
KINDS = (
    "a model folder, timm:NAME, hf-hub:OWNER/NAME, torchvision:NAME, an .onnx file, a MONAI bundle or outputs:FOLDER"
)


class TeacherSource(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where a teacher comes from, and what its file does not say of itself.

    Attributes:
        source: model folder, ``timm:NAME``, ``hf-hub:OWNER/NAME``, ``torchvision:NAME``, an ``.onnx`` file, a MONAI
            bundle, or ``outputs:FOLDER``.
        weights: of a timm or torchvision network.
        labels: its labels in the order of its outputs; needed where its file does not say them.
        spec: JSON file of its `ImageSpec`.
        mapping: its label → the study's label.
        outputs: of an ``.onnx`` file: ``logits``, ``softmax`` or ``sigmoid``; empty takes what its graph proves.
        licence: of its weights; empty takes what its file says.
        intended_use: what its publisher says it is for; empty takes what its file says.
    """

    source: str
    weights: str = ""
    labels: tuple[str, ...] = ()
    spec: str = ""
    mapping: dict[str, str] = {}
    licence: str = ""
    intended_use: str = ""
    outputs: Outputs = ""

    def given_spec(self) -> ImageSpec | None:
        """The `ImageSpec` that ``spec`` names; None where it names none.

        Raises:
            ModelError: the file cannot be read, or is no spec.
        """
        if not self.spec:
            return None
        try:
            data = read_regular(self.spec, _MOST_SPEC_BYTES, "--teacher-spec")
        except InputError as exc:
            raise ModelError(str(exc)) from None
        return decode(data, ImageSpec, source=f"--teacher-spec {self.spec}", error=ModelError)

    def refuse(self, *options: str) -> None:
        """Raises ModelError where an option was given that this kind of teacher answers by itself."""
        for option in options:
            if getattr(self, option):
                raise ModelError(f"{self.source} has {option} of its own; leave --teacher-{option} out")


def spec_to_write(spec: ImageSpec) -> str:
    """The keys of ``spec`` that have no default, and those that are not at it, as one line of JSON."""
    always = ("height_px", "width_px", "colour", "mean", "std", "resize", "filter")
    usual = ImageSpec(
        height_px=spec.height_px, width_px=spec.width_px, colour=spec.colour, mean=spec.mean, std=spec.std
    )
    kept = {
        name: value
        for name in spec.__struct_fields__
        if (value := getattr(spec, name)) != getattr(usual, name) or name in always
    }
    return msgspec.json.encode(kept).decode()
