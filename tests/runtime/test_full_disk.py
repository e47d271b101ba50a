"""A library that cannot write, e.g. on a full disk: no error of ours, but the disk's, and nothing is left behind."""

from __future__ import annotations

import errno
import re
import resource
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from safetensors.torch import save_file

from medfm_compress.export import openvino_ir, ort_format
from medfm_compress.runtime.atomic_write import replacing, write_atomically
from medfm_compress.runtime.errors import InputError, MissingDependency, ModelError, NoRoom
from medfm_compress.runtime.scratch_folder import scratch_folder

LITTLE, MORE_THAN_IS_TRIED = 200_000, 2_500_000  # bytes
TENSORS = {"weight": torch.rand(1_000_000)}
SCRATCH = re.escape(f"cannot write to the temporary folder {tempfile.gettempdir()}: ")


@pytest.fixture(params=[LITTLE, MORE_THAN_IS_TRIED])
def little_room(request: pytest.FixtureRequest) -> Iterator[None]:
    """No file grows longer than that: the same for a library as a disk without room."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (request.param, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def _save_array(tensors: dict[str, torch.Tensor], path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, tensors["weight"].numpy())


def _save_image(_: object, path: Path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (2000, 2000), np.uint8)).save(path, "PNG")


@pytest.mark.parametrize(
    "save", [torch.save, save_file, _save_array, _save_image], ids=["torch", "safetensors", "numpy", "pillow"]
)
@pytest.mark.usefixtures("little_room")
def test_what_a_library_cannot_write_is_said_to_be_the_disks(
    save: Callable[[object, Path], object], tmp_path: Path
) -> None:
    path = tmp_path / "weights"
    words = f"cannot write {path}: File too large; free space or choose another folder"
    with pytest.raises(InputError, match=f"^{re.escape(words)}$"), replacing(path) as temporary:
        save(TENSORS, temporary)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("little_room")
def test_a_file_within_one_that_is_written_is_not_the_one_that_is_named(tmp_path: Path) -> None:
    words = f"cannot write {tmp_path / 'out'}: File too large; free space or choose another folder"
    with pytest.raises(InputError, match=f"^{re.escape(words)}$"), replacing(tmp_path / "out") as temporary:
        write_atomically(temporary, bytes(3_000_000))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("convert", [openvino_ir.to_openvino_ir, ort_format.optimise], ids=["ir", "ort"])
@pytest.mark.usefixtures("little_room")
def test_the_temporary_folder_is_named_where_an_engine_has_no_room_in_it(
    convert: Callable[[bytes], object], tmp_path: Path
) -> None:
    words = SCRATCH + r"(File too large|No space left on device); make room there, or name another folder in TMPDIR$"
    with pytest.raises(NoRoom, match=words), replacing(tmp_path / "out"):
        convert(_large())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("little_room")
def test_arrays_in_a_temporary_folder() -> None:
    with pytest.raises(NoRoom, match=SCRATCH), scratch_folder() as folder:
        np.save(folder / "inputs.npy", TENSORS["weight"].numpy())
    with pytest.raises(NoRoom, match=SCRATCH), scratch_folder() as folder:
        (folder / "file").write_bytes(bytes(3_000_000))
    with pytest.raises(NoRoom, match=SCRATCH), scratch_folder() as folder:
        write_atomically(folder / "file", bytes(3_000_000))


OTHERS = [
    RuntimeError("a shape"),
    ModelError("a model"),
    ValueError("column 'No space left on device' is not known"),
    MissingDependency("a library"),
    TypeError("a type"),
    OSError(errno.EIO, "Input/output error"),
]


@pytest.mark.parametrize("error", OTHERS, ids=repr)
def test_another_error_is_left_as_it_is(error: Exception, tmp_path: Path) -> None:
    with pytest.raises(type(error)) as caught, scratch_folder():
        raise error
    assert caught.value is error
    if isinstance(error, OSError):
        return
    with pytest.raises(type(error)) as caught, replacing(tmp_path / "out"):
        raise error
    assert caught.value is error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [error for error in OTHERS if type(error) is not RuntimeError], ids=repr)
def test_also_on_a_full_disk(error: Exception, tmp_path: Path, little_room: None) -> None:
    with pytest.raises(Exception, match=re.escape(str(error).removeprefix("[Errno 5] "))), replacing(tmp_path / "out"):
        raise error


def test_a_file_that_is_read_meanwhile_is_named_without_advice_for_one_that_is_written(tmp_path: Path) -> None:
    missing = tmp_path / "in.png"
    words = f"cannot use {missing}: No such file or directory"
    with pytest.raises(InputError, match=f"^{re.escape(words)}$"), replacing(tmp_path / "out"):
        missing.read_bytes()


def _large() -> bytes:
    """A product with 4 MB of weights."""
    side = 1000
    weights = numpy_helper.from_array(np.random.default_rng(0).random((side, side), np.float32), "w")
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, side]) for name in "xy")
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "g", [x], [y], [weights])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())
