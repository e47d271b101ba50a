"""`ExplainOptions`: what to explain, and how."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from medfm_compress.runtime.constraints import check
from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.occlusion import OcclusionOptions

Method = Literal["occlusion", "gradient", "device"]


class ExplainOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What to explain, and how.

    Attributes:
        variant: of the bundle; empty takes the first that can run here, with ``device`` all that bench evaluates. Not
            with ``gradient``.
        finding: whose score is explained; may be empty where the task has one finding.
        cases: that are looked at, half of them with the finding where there are enough.
        method: ``occlusion`` runs teacher and variant as they are, ``gradient`` reads the PyTorch modules of teacher
            and student: attention rollout for a plain ViT, Grad-CAM for everything else. ``device`` compares the maps
            that the networks give with their findings, where both have them (``export --heat-map``), in one run a case.
        split: that the cases come from.
        seed: of the draw and of the random weights.
        threads: of every engine.
        occlusion: windows and baseline.
    """

    variant: str = ""
    finding: str = ""
    cases: Annotated[int, Meta(ge=1)] = 16
    method: Method = "occlusion"
    split: str = "test"
    seed: Annotated[int, Meta(ge=0)] = 0
    threads: Annotated[int, Meta(ge=1)] = 1
    occlusion: OcclusionOptions = OcclusionOptions()

    def __post_init__(self) -> None:
        check(self)
        if self.method == "gradient" and self.variant:
            raise InputError(
                f"variant {self.variant!r} is a file without gradients; leave --variant out or use --method occlusion"
            )
