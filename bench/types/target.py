"""`Target`: backend, device, precision and threads that a model runs with."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

import msgspec
from msgspec import Meta

from medfm_compress.runtime.bundle.manifest import Device, Precision
from medfm_compress.runtime.cpu import usable_cpus
from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.sessions.devices import DEVICES as ENGINE_DEVICES

TARGET_FORM = "BACKEND:DEVICE:PRECISION:THREADS"
TARGETS = Meta(extra={"option": "target", "metavar": TARGET_FORM})
"""Of a settings field that lists targets."""
TORCH_BACKENDS = ("torch", "torch-compile")
"""PyTorch, eager and by ``torch.compile``: how the teacher runs, and no variant of a bundle."""
_TORCH: Mapping[Device, tuple[Precision, ...]] = MappingProxyType(
    dict.fromkeys(("cpu", "cuda"), ("fp32", "bf16", "fp16"))
)
DEVICES: Mapping[str, Mapping[Device, tuple[Precision, ...]]] = MappingProxyType(
    {str(backend): devices for backend, devices in ENGINE_DEVICES.items()} | dict.fromkeys(TORCH_BACKENDS, _TORCH)
)
"""Backend → device → precisions in which it runs there."""


class Target(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where something runs: ``backend:device:precision:threads``, e.g. ``openvino:cpu:int8:2``.

    Raises:
        InputError: the backend does not drive the device, or does not run in the precision there; on construction.
    """

    backend: Literal["onnxruntime", "openvino", "tensorrt", "torch", "torch-compile"]
    device: Device = "cpu"
    precision: Precision = "fp32"
    threads: int = 1

    def __post_init__(self) -> None:
        _check(self.backend, self.device, self.precision)
        if self.threads < 1:
            raise InputError(f"threads is {self.threads}; it must be at least 1")

    def __str__(self) -> str:
        return f"{self.backend}:{self.device}:{self.precision}:{self.threads}"

    @classmethod
    def parse(cls, text: str) -> Target:
        """Parse ``backend[:device[:precision[:threads]]]``; without a device, the first that the backend drives.

        Raises:
            InputError: an unknown part, parts that do not go together, or threads below 1.
        """
        backend, *others = text.split(":")
        if len(others) > 3:
            raise InputError(f"target {text!r} has too many parts; write backend:device:precision:threads")
        fields = dict(zip(("device", "precision", "threads"), others, strict=False))
        try:
            device = fields.get("device", next(iter(DEVICES.get(backend, {})), ""))
            precision, threads = fields.get("precision", "fp32"), fields.get("threads", "1")
            _check(backend, device, precision)
            if not (threads.isascii() and threads.isdigit() and len(threads) < 10):
                raise InputError(f"threads is {threads!r}; it must be a whole number")
            return cls(backend=backend, device=device, precision=precision, threads=int(threads))  # type: ignore[arg-type]
        except ValueError as exc:
            raise InputError(f"target {text!r}: {exc}; write backend:device:precision:threads") from None


def _check(backend: str, device: str, precision: str) -> None:
    """Raises InputError, which says what is allowed, where the three do not go together."""
    devices: Mapping[str, tuple[str, ...]] = DEVICES.get(backend, {})  # type: ignore[assignment]
    if not devices:
        raise InputError(f"there is no backend {backend!r}; choose one of {', '.join(DEVICES)}")
    if device not in devices:
        raise InputError(f"{backend} does not run on {device!r}; it runs on {', '.join(devices)}")
    if precision not in devices[device]:
        raise InputError(
            f"{backend} on {device} does not run in {precision!r}; it runs there in {', '.join(devices[device])}"
        )


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


def check_threads(threads: int) -> None:
    """Raises InputError where this process cannot compute on as many ``threads`` at a time; said before any work."""
    cpus = usable_cpus()
    if threads > cpus:
        raise InputError(
            f"{threads} threads, and this process may use {cpus} CPU{'s' if cpus > 1 else ''}: times of more threads "
            f"than that say nothing; ask for {cpus} at most, or use a machine like the device"
        )


def is_torch(target: str) -> bool:
    """Whether a target is PyTorch's, and so the teacher's alone."""
    return target.partition(":")[0] in TORCH_BACKENDS


def names_device(target: str) -> bool:
    """Whether a target says on which device, and does not leave that to what is there."""
    return ":" in target


def on_one_chip(target: str, other: str) -> bool:
    """Whether two targets compute on the same kind of chip: a CPU, or a GPU by whatever drives it."""
    return is_cpu(target) == is_cpu(other)


def is_cpu(target: str) -> bool:
    """Whether a target, its device named, computes on the CPU."""
    return target.split(":")[1:2] == ["cpu"]
