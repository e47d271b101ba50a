"""A library that cannot write, e.g. on a full disk: no error of ours, but the disk's, and nothing is left behind."""

from __future__ import annotations

import errno
import resource
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from safetensors.torch import save_file

from medfm_compress.export import openvino_ir, ort_format
from medfm_compress.runtime.atomic_write import library_writes, replacing
from medfm_compress.runtime.errors import InputError, ModelError

ROOM_BYTES = 200_000
TENSORS = {"weight": torch.zeros(ROOM_BYTES)}


@pytest.fixture
def little_room() -> Iterator[None]:
    """No file grows longer than `ROOM_BYTES`: the same for a library as a disk without room."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (ROOM_BYTES, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def _save_array(tensors: dict[str, torch.Tensor], path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, tensors["weight"].numpy())


@pytest.mark.parametrize("save", [torch.save, save_file, _save_array], ids=["torch", "safetensors", "numpy"])
@pytest.mark.usefixtures("little_room")
def test_what_a_library_cannot_write_is_said_to_be_the_disks(
    save: Callable[[object, Path], object], tmp_path: Path
) -> None:
    with (
        pytest.raises(InputError, match=r"cannot write .*weights: File too large; free space or choose another folder"),
        replacing(tmp_path / "weights") as temporary,
    ):
        save(TENSORS, temporary)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("convert", "code"),
    [(openvino_ir.to_openvino_ir, errno.EIO), (ort_format.optimise, errno.EFBIG)],
    ids=["ir", "ort"],
)
@pytest.mark.usefixtures("little_room")
def test_engines_that_write_to_the_temporary_folder(convert: Callable[[bytes], object], code: int) -> None:
    with pytest.raises(OSError, match=tempfile.gettempdir()) as caught:
        convert(_large())
    assert caught.value.errno == code


@pytest.mark.usefixtures("little_room")
def test_the_folder_without_room_is_named_and_not_the_file_that_was_to_be_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot use .*tmp.*: Input/output error"), replacing(tmp_path / "out"):
        openvino_ir.to_openvino_ir(_large())


def test_another_error_is_left_as_it_is(tmp_path: Path) -> None:
    for error in (RuntimeError("a shape"), ModelError("a model")):
        with pytest.raises(type(error)) as caught, library_writes(tmp_path):
            raise error
        assert caught.value is error
    assert list(tmp_path.iterdir()) == []


def test_an_error_on_a_full_disk_is_the_disks_whatever_it_says(tmp_path: Path, little_room: None) -> None:
    with pytest.raises(OSError, match=str(tmp_path)) as caught, library_writes(tmp_path):
        raise RuntimeError("unexpected pos 576 vs 534")
    assert caught.value.errno == errno.EFBIG
    assert isinstance(caught.value.__cause__, RuntimeError)


def _large() -> bytes:
    """A product with four times `ROOM_BYTES` of weights."""
    side = 500
    weights = numpy_helper.from_array(np.ones((side, side), np.float32), "w")
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, side]) for name in "xy")
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "g", [x], [y], [weights])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())
