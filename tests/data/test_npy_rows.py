"""Rows of a file are those of the array, and a file that somebody cuts short is an error and not the end."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import numpy as np
import pytest

from medfm_compress.data.npy_rows import NpyRows
from medfm_compress.runtime.errors import InputError

VALUES = np.random.default_rng(0).normal(size=(37, 3, 5)).astype(np.float32)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    np.save(tmp_path / "values.npy", VALUES)
    return tmp_path / "values.npy"


@pytest.fixture(params=[True, False], ids=["preadv", "seek"])
def rows(path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> NpyRows:
    if not request.param:
        monkeypatch.delattr(os, "preadv", raising=False)
    return NpyRows(path)


@pytest.mark.parametrize(
    "index",
    [
        0,
        -1,
        slice(None),
        slice(3, 20),
        slice(20, 3),
        slice(None, None, -2),
        np.array([5, 6, 7, 2, 2, 36]),
        np.array([], int),
    ],
    ids=str,
)
def test_an_index_gives_what_it_gives_of_the_array(rows: NpyRows, index: int) -> None:
    assert len(rows) == 37 and rows.shape == VALUES.shape
    assert np.array_equal(rows[index], VALUES[index])


def test_an_index_outside_is_an_index_error(rows: NpyRows) -> None:
    with pytest.raises(IndexError):
        rows[np.array([37])]


def test_threads_do_not_disturb_one_another(rows: NpyRows) -> None:
    wrong: list[int] = []

    def read(seed: int) -> None:
        index = np.random.default_rng(seed).integers(0, 37, 20)
        wrong.extend(n for n in range(50) if not np.array_equal(rows[index], VALUES[index]))

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_file_that_is_cut_short_while_it_is_open_is_an_error(path: Path, rows: NpyRows) -> None:
    os.truncate(path, 200)
    with pytest.raises(InputError, match="became shorter while it was read"):
        rows[:]
    os.truncate(path, 0)
    with pytest.raises(InputError, match="delete it"):
        rows[np.array([36])]


@pytest.mark.parametrize("damage", ["cut", "longer", "objects", "columns", "scalar", "garbage", "folder"])
def test_another_file_is_refused(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "other.npy"
    kinds = {"objects": np.array([None, 1]), "columns": np.asfortranarray(VALUES[0]), "scalar": np.float32(1)}
    np.save(path, kinds.get(damage, VALUES), allow_pickle=True)
    if damage == "folder":
        path.unlink()
        path.mkdir()
    elif damage not in kinds:
        whole = path.read_bytes()
        path.write_bytes({"cut": whole[:-1], "longer": whole + b"x", "garbage": b"x" * 300}[damage])
    with pytest.raises((OSError, ValueError)):
        NpyRows(path)
