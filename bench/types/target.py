"""`Target`: backend, device, precision and threads that a model runs with."""

from __future__ import annotations

from typing import Literal

import msgspec
from msgspec import Meta

from medfm_compress.runtime.bundle.manifest import Precision
from medfm_compress.runtime.errors import InputError

TARGET_FORM = "BACKEND:DEVICE:PRECISION:THREADS"
TARGETS = Meta(extra={"option": "target", "metavar": TARGET_FORM})
"""Of a settings field that lists targets."""


class Target(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where something runs: ``backend:device:precision:threads``, e.g. ``openvino:cpu:int8:2``."""

    backend: Literal["onnxruntime", "openvino", "torch"]
    device: Literal["cpu", "cuda"] = "cpu"
    precision: Precision = "fp32"
    threads: int = 1

    def __str__(self) -> str:
        return f"{self.backend}:{self.device}:{self.precision}:{self.threads}"

    @classmethod
    def parse(cls, text: str) -> Target:
        """Parse ``backend[:device[:precision[:threads]]]``.

        Raises:
            InputError: an unknown part, or threads below 1.
        """
        parts = text.split(":")
        names = ("backend", "device", "precision", "threads")
        fields: dict[str, object] = dict(zip(names, parts, strict=False))
        if len(parts) > len(names):
            raise InputError(f"target {text!r} has too many parts; write backend:device:precision:threads")
        try:
            if "threads" in fields:
                fields["threads"] = int(str(fields["threads"]))
            target = msgspec.convert(fields, cls)
        except (msgspec.ValidationError, ValueError) as exc:
            raise InputError(f"target {text!r}: {exc}; write backend:device:precision:threads") from None
        if target.threads < 1:
            raise InputError(f"target {text!r}: threads must be at least 1")
        return target


def split_targets(targets: tuple[str, ...]) -> tuple[tuple[str, ...], int | None]:
    """Targets without their threads, and those threads; None where none names any.

    Raises:
        InputError: a target that is unknown, or different numbers of threads: rows would not be comparable.
    """
    threads = {Target.parse(target).threads for target in targets if target.count(":") == 3}
    if len(threads) > 1:
        named = " and ".join(map(str, sorted(threads)))
        raise InputError(f"the targets name {named} threads; all rows of one run share their threads, give one number")
    for target in targets:
        Target.parse(target)
    return tuple(":".join(target.split(":")[:3]) for target in targets), threads.pop() if threads else None


def cpu_targets(targets: tuple[str, ...]) -> tuple[str, ...]:
    """Targets, checked; raises InputError for one that is not known, or is no CPU."""
    for target in targets:
        if Target.parse(target).device != "cpu":
            raise InputError(f"target {target!r}: bench measures on the CPU; write {target.split(':')[0]}:cpu")
    return targets
