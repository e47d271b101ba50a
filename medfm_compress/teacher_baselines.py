"""The teacher's rows of a bench: PyTorch eager, which everything is held against, and its ONNX in other engines."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from medfm_compress.bench.measure.latency import ModelUnderTest
from medfm_compress.bench.models import TeacherRef
from medfm_compress.runtime.errors import InputError, MedfmError, MissingDependency
from medfm_compress.runtime.progress import Progress, no_progress
from medfm_compress.runtime.sessions.protocol import SessionRef
from medfm_compress.runtime.task import Task

if TYPE_CHECKING:
    from medfm_compress.compress.networks.model import Model
    from medfm_compress.compress.teachers.source import TeacherSource
    from medfm_compress.compress.teachers.teacher import Teacher

ENGINES = ("onnxruntime", "openvino")
_NAMES = {"onnxruntime": "teacher in ONNX Runtime", "openvino": "teacher in OpenVINO"}
_ONNX = "teacher.onnx"


class Reference:
    """The teacher of a bench, opened once to see what it is.

    Attributes:
        ref: how a fresh process opens it.
        model: the network, where the teacher is one; None for an ONNX file or several teachers.
    """

    def __init__(self, sources: Sequence[TeacherSource], task: Task, threads: int) -> None:
        """Open what ``sources`` name, for a study of ``task``, on ``threads`` threads.

        Raises:
            ModelError: no such teacher, or labels that cannot be the study's.
            MissingDependency: PyTorch is not installed.
        """
        require_toolchain()
        from medfm_compress.compress.teachers.module_teacher import ModuleTeacher
        from medfm_compress.compress.teachers.session import OPENER, open_live_teacher

        teacher = open_live_teacher(tuple(sources), task)
        arguments: dict[str, object] = {
            "sources": [msgspec.to_builtins(_absolute(source)) for source in sources],
            "task": msgspec.to_builtins(task),
            "threads": threads,
        }
        self.model = teacher.model if isinstance(teacher, ModuleTeacher) else None
        session = SessionRef(opener=OPENER, arguments=arguments)
        if self.model is not None and _is_own_folder(sources, self.model):
            session = folder_session(sources[0].source, threads)  # without what opens other kinds
        self.ref = TeacherRef(
            name=teacher.card.name,
            session=session,
            spec=teacher.card.spec,
            task=teacher.card.task,
            size_bytes=_size_bytes(sources, teacher),
            licence=teacher.card.licence,
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


def teacher_in_engines(
    model: Model,
    threads: int,
    scratch: Path,
    engines: tuple[str, ...] = ENGINES,
    progress: Progress = no_progress,
) -> tuple[ModelUnderTest, ...]:
    """The teacher exported to ONNX, as FP32 models on ``engines``.

    Those that are not installed are left out, and those that cannot run it or compute something else, which is said.

    Args:
        model: the teacher.
        threads: of each engine.
        scratch: folder for the ONNX file; must exist until the bench is done.
        engines: ``onnxruntime``, ``openvino``.
        progress: told which engine is left out, and why.

    Raises:
        ModelError: the teacher cannot be exported.
        InputError: no such engine.
    """
    from medfm_compress.export.onnx_export import export_onnx
    from medfm_compress.runtime.sessions.table import BACKENDS, is_available

    unknown = sorted(set(engines) - set(BACKENDS))
    if unknown:
        raise InputError(f"no engine is called {unknown[0]!r}; choose of {', '.join(BACKENDS)}")
    present = [engine for engine in engines if is_available(engine).ok]
    if not present:
        return ()
    path = scratch / _ONNX
    content = export_onnx(model.module, model.spec, model.task).content
    path.write_bytes(content)
    present = [engine for engine in present if _computes_the_same(engine, content, model, progress)]
    return tuple(
        ModelUnderTest(
            name=_NAMES[engine],
            session=SessionRef(
                opener=f"{BACKENDS[engine]}:open_session", arguments={"model": str(path), "threads": threads}
            ),
            spec=model.spec,
            task=model.task,
            size_bytes=path.stat().st_size,
        )
        for engine in present
    )


def _computes_the_same(engine: str, content: bytes, model: Model, progress: Progress) -> bool:
    """Whether ``engine`` computes with the ONNX ``content`` what the model computes; says why not."""
    from medfm_compress.export.parity import check_parity, module_logits
    from medfm_compress.runtime.sessions.table import open_session_from_bytes

    try:
        session = open_session_from_bytes(engine, [content], 1, "fp32")
        check_parity(module_logits(model.module), session, model.spec, model.task)
    except MedfmError as exc:
        reason = str(exc).removesuffix("; nothing was written")
        progress(f"no row for the {_NAMES[engine]}: {reason}")
        return False
    return True


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
