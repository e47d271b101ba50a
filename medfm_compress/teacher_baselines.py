"""The teacher's rows of a bench: the one that everything is held against, and a network of PyTorch in other engines."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from medfm_compress.bench.measure.latency import ModelUnderTest
from medfm_compress.bench.models import TeacherRef
from medfm_compress.bench.render.format import BACKEND_NAMES, DEVICE_NAMES
from medfm_compress.bench.report import TEACHER
from medfm_compress.bench.types.target import DEVICES, Target, is_torch, names_device
from medfm_compress.runtime.errors import InputError, MedfmError, MissingDependency, refusing
from medfm_compress.runtime.progress import Progress, no_progress
from medfm_compress.runtime.sessions.protocol import Session, SessionRef
from medfm_compress.runtime.sessions.table import BACKENDS, is_available
from medfm_compress.runtime.task import Task

if TYPE_CHECKING:
    from medfm_compress.compress.networks.model import Model
    from medfm_compress.compress.teachers.source import TeacherSource
    from medfm_compress.compress.teachers.teacher import Teacher

ENGINES = ("onnxruntime", "openvino")
_ONNX = "teacher.onnx"
_OF_ONNX = Target(backend="onnxruntime")


class Reference:
    """The teacher of a bench, opened once to see what it is.

    Attributes:
        ref: how a fresh process opens it.
        model: the network, where the teacher is one of PyTorch's; None for an ONNX file or several teachers.
        is_onnx: one ONNX file, which is run in ONNX Runtime.
    """

    def __init__(self, sources: Sequence[TeacherSource], task: Task, threads: int) -> None:
        """Open what ``sources`` name, for a study of ``task``, on ``threads`` threads.

        Raises:
            ModelError: no such teacher, or labels that cannot be the study's.
            MissingDependency: PyTorch is not installed.
        """
        require_toolchain()
        from medfm_compress.compress.networks.model import load_model
        from medfm_compress.compress.teachers.from_onnx import OnnxTeacher
        from medfm_compress.compress.teachers.module_teacher import ModuleTeacher
        from medfm_compress.compress.teachers.session import OPENER, open_live_teacher

        teacher = open_live_teacher(tuple(sources), task)
        arguments: dict[str, object] = {
            "sources": [msgspec.to_builtins(_absolute(source)) for source in sources],
            "task": msgspec.to_builtins(task),
            "threads": threads,
        }
        self.model = teacher.model if isinstance(teacher, ModuleTeacher) else None
        self.is_onnx = isinstance(teacher, OnnxTeacher)
        session = SessionRef(opener=OPENER, arguments=arguments)
        if self.model is not None and _is_own_folder(sources, self.model):
            session = folder_session(sources[0].source, threads)  # without what opens other kinds
            self.model = load_model(sources[0].source)  # with every output that it has
        self.ref = TeacherRef(
            name=teacher.card.name,
            session=session,
            spec=teacher.card.spec,
            task=teacher.card.task,
            size_bytes=_size_bytes(sources, teacher),
            licence=teacher.card.licence,
            columns=teacher.card.told,
            identity=teacher.card.identity,
        )


def folder_session(folder: str | Path, threads: int) -> SessionRef:
    """A model folder in PyTorch eager, FP32, on ``threads`` threads."""
    from medfm_compress.compress.networks.torch_session import OPENER

    return SessionRef(opener=OPENER, arguments={"model": str(Path(folder).resolve()), "threads": threads})


def _is_own_folder(sources: Sequence[TeacherSource], model: Model) -> bool:
    """Whether the teacher is a model folder as it stands: nothing mapped, nothing said of it from outside."""
    from medfm_compress.compress.networks.model import CARD, load_model_card

    folder = Path(sources[0].source)
    return (
        len(sources) == 1
        and not sources[0].mapping
        and not sources[0].labels
        and (folder / CARD).is_file()
        and load_model_card(folder).task == model.task
    )


def check_devices(targets: Sequence[str]) -> None:
    """Check that every device that a target names is to be had on this machine.

    Raises:
        InputError: one is not; says why, and what would mend it.
    """
    for target in filter(names_device, targets):
        reason = unavailable(Target.parse(target))
        if reason:
            raise InputError(
                f"target {target!r} cannot be measured here: {reason}; leave it out, or bench on a machine that has it"
            )


def row_targets(targets: Sequence[str], *, on_gpu: bool) -> tuple[Target, ...]:
    """Where the teacher gets rows of its own, beside the one in PyTorch, FP32, on the CPU.

    An engine runs its ONNX file in FP32; PyTorch casts it. Whatever else runs on a GPU is held against PyTorch there.

    Args:
        targets: those asked for; without any, every engine that is here.
        on_gpu: whether variants of the bundle run on a GPU.
    """
    parsed = [Target.parse(target) for target in targets or [f"{engine}:cpu" for engine in ENGINES]]
    rows = [msgspec.structs.replace(target, threads=1) for target in parsed]
    rows = [row if is_torch(row.backend) else msgspec.structs.replace(row, precision="fp32") for row in rows]
    on_cuda = Target(backend="torch", device="cuda")
    if (on_gpu or any(row.device != "cpu" for row in rows)) and not unavailable(on_cuda):
        rows.append(on_cuda)
    return tuple(row for row in dict.fromkeys(rows) if row != Target(backend="torch"))


def teacher_rows(
    teacher: Reference, threads: int, scratch: Path, targets: Sequence[Target], progress: Progress = no_progress
) -> tuple[ModelUnderTest, ...]:
    """The teacher in each of ``targets``: in PyTorch as it is, in engines as an ONNX file in FP32.

    Where it cannot run, or computes something else, it is left out, which is said.

    Args:
        teacher: one network.
        threads: of each session.
        scratch: folder for the ONNX file and engines; must exist until the bench is done.
        targets: see `row_targets`.
        progress: told which row is left out, and why.

    Raises:
        ModelError: the teacher cannot be exported.
    """
    model = teacher.model
    if model is None:
        if targets:
            progress(_why_alone(teacher, targets))
        return ()
    possible = [target for target in targets if not unavailable(target)]
    path = scratch / _ONNX
    if any(not is_torch(target.backend) for target in possible):
        from medfm_compress.export.onnx_export import export_onnx

        progress("export the teacher for other engines")
        path.write_bytes(export_onnx(model.module, model.spec, model.task, columns=model.columns).content)
    return tuple(
        ModelUnderTest(
            name=row_name(target),
            session=session,
            spec=model.spec,
            task=model.task,
            columns=model.columns,
            size_bytes=teacher.ref.size_bytes if is_torch(target.backend) else path.stat().st_size,
        )
        for target in possible
        if _computes_the_same(session := _session(teacher, target, threads, path), target, model, progress)
    )


def _why_alone(teacher: Reference, targets: Sequence[Target]) -> str:
    """Why a teacher that is no network of PyTorch has no row in any of ``targets``, and where it is timed instead."""
    others = ", ".join(row_name(target).removeprefix(f"{TEACHER} in ") for target in targets if target != _OF_ONNX)
    if not teacher.is_onnx:
        return f"several teachers are timed together, each as it is; they have no row of their own in {others}"
    rows = f"; it has no row in {others}" if others else ""
    return f"the teacher is an ONNX file and is timed in {BACKEND_NAMES[_OF_ONNX.backend]} alone{rows}"


def row_name(target: Target) -> str:
    """``teacher in ONNX Runtime``, ``teacher in PyTorch on CUDA, FP16``."""
    where = "" if target.device == next(iter(DEVICES[target.backend])) else f" on {DEVICE_NAMES[target.device]}"
    precision = "" if target.precision == "fp32" else f", {target.precision.upper()}"
    return f"{TEACHER} in {BACKEND_NAMES[target.backend]}{where}{precision}"


def _session(teacher: Reference, target: Target, threads: int, onnx: Path) -> SessionRef:
    """How a fresh process opens the teacher in ``target``."""
    if is_torch(target.backend):
        ref = teacher.ref.session
        chosen = {
            "precision": target.precision,
            "device": target.device,
            "compiled": target.backend == "torch-compile",
        }
        return msgspec.structs.replace(ref, arguments={**ref.arguments, "threads": threads, **chosen})
    arguments: dict[str, object] = {"model": str(onnx), "threads": threads}
    if target.backend == "onnxruntime":
        arguments["device"] = target.device
    if target.backend == "tensorrt":
        arguments["cache_dir"] = str(onnx.parent)  # built once, though several processes open it
    return SessionRef(opener=f"{BACKENDS[target.backend]}:open_session", arguments=arguments)


def unavailable(target: Target) -> str:
    """Why nothing can run on the target's device here; empty where something can."""
    if is_torch(target.backend):
        from medfm_compress.compress.networks import torch_session

        return torch_session.unavailable(target.device)
    available = is_available(target.backend, target.device)
    return "" if available.ok else available.reason


def _computes_the_same(ref: SessionRef, target: Target, model: Model, progress: Progress) -> bool:
    """Whether ``target`` computes what the model computes, as nearly as its precision allows; says why not."""
    from medfm_compress.export.parity import check_parity, module_logits

    try:
        with refusing(InputError, "it cannot run"):
            session = _opened(ref, target, model)
            check_parity(module_logits(model.module), session, model.spec, model.task, columns=model.columns)
    except MedfmError as exc:
        reason = str(exc).removesuffix("; nothing was written")
        progress(f"no row for the {row_name(target)}: {reason}")
        return False
    return True


def _opened(ref: SessionRef, target: Target, model: Model) -> Session:
    """The session in this process, whose number of threads stays as it is."""
    if not is_torch(target.backend):
        return ref.open()
    from medfm_compress.compress.networks.torch_session import TorchSession

    return TorchSession(
        model, target.device, target.threads, target.precision, compiled=target.backend == "torch-compile"
    )


def require_toolchain() -> None:
    """Check that PyTorch is there; raises MissingDependency with the pip command."""
    import importlib.util

    if importlib.util.find_spec("torch") is None:
        raise MissingDependency("the teacher needs PyTorch: pip install 'medfm-compress[toolchain]'")


def _absolute(source: TeacherSource) -> TeacherSource:
    """``source`` for a process that may stand in another folder."""
    fields = {name: getattr(source, name) for name in ("source", "weights", "spec")}
    paths = {name: str(Path(value).resolve()) for name, value in fields.items() if value and Path(value).exists()}
    return msgspec.structs.replace(source, **paths)


def _size_bytes(sources: Sequence[TeacherSource], teacher: Teacher) -> int:
    """Of the weights: the file's where there is one, else of all float32 parameters."""
    files = [_weights_file(source) for source in sources]
    if all(file is not None for file in files):
        return sum(file.stat().st_size for file in files if file is not None)
    module = getattr(getattr(teacher, "model", None), "module", None)
    return sum(tensor.numel() * tensor.element_size() for tensor in module.state_dict().values()) if module else 0


def _weights_file(source: TeacherSource) -> Path | None:
    names = [f"{source.source}/model.safetensors", source.source, *filter(None, [source.weights])]
    return next((path for path in map(Path, names) if path.is_file()), None)
