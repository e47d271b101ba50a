"""Threads are shared with whoever else uses the machine."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from medfm_compress.compress.training import device
from medfm_compress.runtime import cpu


@pytest.fixture(autouse=True)
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("idle", "expected", "says"),
    [(4.0, 4, "4 of 4 cores ("), (2.6, 3, "3 of 4 cores; others use"), (0.1, 1, "1 of 4"), (None, 4, "4 of 4")],
)
def test_training_takes_the_cores_that_nobody_uses(
    monkeypatch: pytest.MonkeyPatch, idle: float | None, expected: int, says: str
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(device, "usable_cores", lambda: 4)
    monkeypatch.setattr(device, "idle_cpus", lambda: idle)
    said: list[str] = []
    device.share_processors("cpu", said.append)
    assert torch.get_num_threads() == expected
    assert says in said[0]


def test_what_the_user_set_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    torch.set_num_threads(2)
    said: list[str] = []
    device.share_processors("cpu", said.append)
    device.share_processors("cuda", said.append)
    assert (torch.get_num_threads(), said) == (2, [])


def test_idle_cpus_are_read_from_the_ticks_between_two_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stat = tmp_path / "stat"
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
    stat.write_text(
        "cpu  9 9 9 9 9 9 9 9 0 0\ncpu0 100 0 0 900 0 0 0 0 0 0\ncpu1 500 0 0 500 0 0 0 0 0 0\ncpu2 0 0 0 0 0 0 0 0\n"
    )

    def later(_: float) -> None:
        stat.write_text("cpu0 100 0 0 1000 0 0 0 0 0 0\ncpu1 550 0 0 525 25 0 0 0 0 0\ncpu2 9 0 0 9 0 0 0 0\n")

    monkeypatch.setattr(cpu.time, "sleep", later)
    assert cpu.idle_cpus(stat=stat) == pytest.approx(1.5)
    assert cpu.idle_cpus(stat=tmp_path / "none") is None
