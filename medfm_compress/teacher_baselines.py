"""The teacher's rows of a bench: PyTorch eager, which everything is held against, and its ONNX in other engines."""

from __future__ import annotations

from pathlib import Path

from medfm_compress.bench.measure.latency import ModelUnderTest
from medfm_compress.bench.models import TeacherRef
from medfm_compress.runtime.errors import InputError, MissingDependency
from medfm_compress.runtime.sessions.protocol import SessionRef

ENGINES = ("onnxruntime", "openvino")
_NAMES = {"onnxruntime": "teacher in ONNX Runtime", "openvino": "teacher in OpenVINO"}
_ONNX = "teacher.onnx"


def teacher_ref(folder: str | Path, threads: int) -> TeacherRef:
    """The model folder as the reference of a bench, run by PyTorch eager in FP32 on ``threads`` threads.

    Raises:
        ModelError: not a model folder.
    """
    from medfm_compress.compress.networks.model import load_model_card
    from medfm_compress.compress.networks.torch_session import OPENER

    card, path = load_model_card(folder), Path(folder).resolve()
    weights = path / "model.safetensors"
    return TeacherRef(
        name=card.name,
        session=SessionRef(opener=OPENER, arguments={"model": str(path), "threads": threads}),
        spec=card.spec,
        task=card.task,
        size_bytes=weights.stat().st_size if weights.is_file() else 0,
        licence=card.licence,
    )


def teacher_in_engines(
    folder: str | Path, threads: int, scratch: Path, engines: tuple[str, ...] = ENGINES
) -> tuple[ModelUnderTest, ...]:
    """The teacher exported to ONNX, as FP32 models on ``engines``; those that are not installed are left out.

    Args:
        folder: the teacher's model folder.
        threads: of each engine.
        scratch: folder for the ONNX file; must exist until the bench is done.
        engines: ``onnxruntime``, ``openvino``.

    Raises:
        ModelError: the teacher cannot be exported.
        InputError: no such engine.
    """
    from medfm_compress.compress.networks.model import load_model
    from medfm_compress.export.onnx_export import export_onnx
    from medfm_compress.runtime.sessions.table import BACKENDS, is_available

    unknown = sorted(set(engines) - set(BACKENDS))
    if unknown:
        raise InputError(f"no engine is called {unknown[0]!r}; choose of {', '.join(BACKENDS)}")
    present = [engine for engine in engines if is_available(engine).ok]
    if not present:
        return ()
    teacher, path = load_model(folder), scratch / _ONNX
    path.write_bytes(export_onnx(teacher.module, teacher.spec, teacher.task).content)
    return tuple(
        ModelUnderTest(
            name=_NAMES[engine],
            session=SessionRef(
                opener=f"{BACKENDS[engine]}:open_session", arguments={"model": str(path), "threads": threads}
            ),
            spec=teacher.spec,
            task=teacher.task,
            size_bytes=path.stat().st_size,
        )
        for engine in present
    )


def require_toolchain() -> None:
    """Check that PyTorch is there; raises MissingDependency with the pip command."""
    import importlib.util

    if importlib.util.find_spec("torch") is None:
        raise MissingDependency("the teacher needs PyTorch: pip install 'medfm-compress[toolchain]'")
