"""What the command line says of encoders that are named one after the other."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec

from medfm_compress.compress.anomaly.options import EncoderSource
from medfm_compress.runtime.constraints import check
from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.image_spec import Colour
from medfm_compress.step_settings import IMAGE_SIZE


class NamedTeachers(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is said of all teachers at once.

    Attributes:
        teacher_weights: of a teacher that is a timm name, in the order of these: local safetensors, state dict or
            backbone folder.
        level: number of a teacher's feature map that is read, from 0; without any, those of strides 8 and 16.
        image_size: input of student and named teachers in pixels; that of a teacher's folder where there is one.
        colour: of the images; without it, that of the study's first training image.
        licence: of the teachers' weights, where no folder says it.
        intended_use: what their publisher says they are for, likewise.
    """

    teacher_weights: tuple[str, ...] = ()
    level: tuple[int, ...] = ()
    image_size: Annotated[int, IMAGE_SIZE] = 224
    colour: Colour | None = None
    licence: str = ""
    intended_use: str = ""

    def __post_init__(self) -> None:
        check(self)


def encoder_sources(teachers: tuple[str, ...], said: NamedTeachers) -> tuple[EncoderSource, ...]:
    """The teachers; weights go to those that are no folder, in their order, and folders say the rest themselves.

    Raises:
        InputError: there are more or fewer weights than timm names.
    """
    named = [name for name in teachers if not Path(name).is_dir() and not name.startswith("hf-hub:")]
    if len(named) != len(said.teacher_weights):
        raise InputError(
            f"{len(named)} teacher(s) are timm names and {len(said.teacher_weights)} --teacher-weights are given; give "
            "one for each, in their order"
        )
    weights = dict(zip(named, said.teacher_weights, strict=True))

    def source_of(name: str) -> EncoderSource:
        source = EncoderSource(encoder=name, licence=said.licence, intended_use=said.intended_use)
        if not Path(name, "encoder.json").is_file():
            source = msgspec.structs.replace(source, level=said.level)
        if Path(name).is_dir():
            return source
        return msgspec.structs.replace(
            source, weights=weights.get(name, ""), image_size=said.image_size, colour=said.colour
        )

    return tuple(map(source_of, teachers))
