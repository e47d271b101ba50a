"""What a measuring process is asked, and what it answers."""

from __future__ import annotations

import msgspec

from medfm_compress.bench.measure.load_scenario import Load, LoadOutcome
from medfm_compress.bench.measure.onnx_io import OnnxGraph
from medfm_compress.bench.types.gpu_state import GpuState
from medfm_compress.runtime.columns import Column
from medfm_compress.runtime.image_spec import ImageSpec
from medfm_compress.runtime.sessions.protocol import SessionInfo, SessionRef
from medfm_compress.runtime.task import Task

STAGES = ("read", "preprocess", "infer", "postprocess")
"""The way from file to prediction: read the file and decode it, preprocess, infer, activate and decide."""


class Open(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="open"):
    """Open a session and make one prediction: from the first file if there are any, else from made-up input.

    Columns are made up always (see `golden_columns`): what a prediction costs does not hang on their values.
    """

    session: SessionRef
    spec: ImageSpec
    task: Task
    columns: tuple[Column, ...] = ()
    files: tuple[str, ...] = ()


class WarmUp(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="warm_up"):
    """Run until two successive windows of ``window`` calls have medians within ``tolerance``, or ``limit_s`` is up."""

    window: int = 8
    tolerance: float = 0.03
    limit_s: float = 10.0


class Time(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="time"):
    """Time ``calls`` runs of the session, then ``passes`` over the files, each from file to prediction."""

    calls: int
    passes: int = 0


class TimeBatch(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="batch"):
    """Time up to ``calls`` runs of the session on ``batch`` images at once, as many as fit into ``limit_s``, >= 1."""

    batch: int
    calls: int
    limit_s: float


class Evaluate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="evaluate"):
    """Run rows ``start`` to ``stop`` of the file ``inputs``; row ``first`` of it becomes the first of ``outputs``.

    Both are ``.npy`` files that exist: float32 ``[n, C, H, W]`` and float32 ``[k, …]``, logits of the task's shape.
    ``columns`` is an ``.npz`` file with float32 ``[n, width]`` of each column; empty for a network without.
    Where ``maps`` names a file and the session gives anomaly maps, it is written: float32 ``[stop - start, h, w]``.
    """

    inputs: str
    outputs: str
    columns: str = ""
    start: int
    stop: int
    first: int = 0
    maps: str = ""


class Inspect(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="inspect"):
    """Look at the ONNX file ``model`` with ONNX Runtime, and run it on made-up inputs of shape ``shape``.

    ``widths`` are those of columns that it may take beside the image.
    """

    model: str
    shape: tuple[int, ...]
    widths: dict[str, int] = {}


Request = Inspect | Open | WarmUp | Time | TimeBatch | Evaluate | Load


class Reply(msgspec.Struct, kw_only=True, omit_defaults=True):
    """Answer to any request; ``error`` is one sentence and stands alone.

    ``reason`` says why a batch cannot be run, which is no error.
    """

    error: str = ""
    reason: str = ""
    info: SessionInfo | None = None
    calls: int = 0
    stable: bool = False
    median_ms: float = 0.0
    mean_file_ms: float = 0.0
    session_ms: list[float] = []
    cpu_ms: float = 0.0
    stages_ms: list[tuple[float, ...]] = []
    peak_rss_bytes: int = 0
    gpu_bytes: int = 0
    energy_mj: float | None = None
    energy_source: str = ""
    device_ms: list[float] = []
    gpu_states: list[GpuState] = []
    load: LoadOutcome | None = None
    graph: OnnxGraph | None = None
