"""A teacher's rows in other engines: one that cannot run it is left out and named, and the others stay."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from medfm_compress.compress.networks.build import build_model
from medfm_compress.runtime.errors import BundleRefused
from medfm_compress.runtime.sessions import table
from medfm_compress.runtime.task import Task
from medfm_compress.teacher_baselines import teacher_in_engines


def test_an_engine_that_cannot_run_the_teacher_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = build_model("test_resnet", Task(kind="binary", labels=("a", "b")), size_px=32, colour="grey")
    both = teacher_in_engines(model, 1, tmp_path)
    opened = table.open_session_from_bytes

    def fail(backend: str, *given: object, **named: object) -> object:
        if backend == "openvino":
            raise BundleRefused("the model cannot be loaded: no such operator")
        return opened(backend, *given, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(table, "open_session_from_bytes", fail)
    lines: list[str] = []
    left = teacher_in_engines(model, 1, tmp_path, progress=lines.append)
    assert [row.name for row in left] == ["teacher in ONNX Runtime"]
    assert {row.name for row in both} == {"teacher in ONNX Runtime", "teacher in OpenVINO"}
    assert lines == ["no row for the teacher in OpenVINO: the model cannot be loaded: no such operator"]
