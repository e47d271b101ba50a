"""An ONNX file with inputs beside the image as a teacher: each is a column of its name and width, or it is refused."""

from __future__ import annotations

from pathlib import Path

import msgspec
import onnx
import pytest
import torch

from medfm_compress.compress.networks.inputs import Columned
from medfm_compress.compress.teachers.from_onnx import open_onnx
from medfm_compress.compress.teachers.source import TeacherSource
from medfm_compress.runtime.columns import Column
from medfm_compress.runtime.errors import InputError, ModelError
from medfm_compress.runtime.sessions.table import open_session_from_bytes
from medfm_compress.runtime.task import Task
from tests.helpers import tiny_bundle, tiny_columns

STUDY = Task(kind="binary", labels=("normal", "opacity"))


def source_of(folder: Path, content: bytes, columns: tuple[Column, ...] = tiny_columns.COLUMNS) -> TeacherSource:
    (folder / "net.onnx").write_bytes(content)
    spec = msgspec.to_builtins(tiny_bundle.SPEC)
    described = [msgspec.to_builtins(column) for column in columns]
    values = {name: spec[name] for name in ("height_px", "width_px", "colour", "mean", "std", "resize", "filter")}
    (folder / "net.yaml").write_bytes(msgspec.json.encode(values | {"columns": described} if described else values))
    source = TeacherSource(
        source=str(folder / "net.onnx"), spec=str(folder / "net.yaml"), labels=STUDY.labels, outputs="logits"
    )
    return source.described()


def test_it_answers_as_the_file_does(tmp_path: Path) -> None:
    content = tiny_columns.network()
    teacher = open_onnx(source_of(tmp_path, content), STUDY)
    assert teacher.card.told == tiny_columns.COLUMNS
    torch.manual_seed(0)
    columns = {c.name: torch.eye(c.width)[[0, c.width - 1]] for c in reversed(tiny_columns.COLUMNS)}
    given = Columned(torch.rand(2, *tiny_bundle.SPEC.shape[1:]), {**columns, "unread": torch.zeros(2, 1)})
    session = open_session_from_bytes("onnxruntime", [content], 1, "fp32")
    mean, std = (torch.tensor(values).reshape(1, -1, 1, 1) for values in (tiny_bundle.SPEC.mean, tiny_bundle.SPEC.std))
    for case in (0, 1):
        fed = {name: rows[case : case + 1].numpy() for name, rows in columns.items()}
        fed["image"] = ((given.images[case : case + 1] - mean) / std).numpy()
        expected = torch.from_numpy(session.run(fed)["logits"])
        torch.testing.assert_close(teacher.answer(given).logits[case : case + 1], expected)
    with pytest.raises(InputError, match="takes the column 'age'"):
        teacher.answer(given.images)


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ((), "nothing says what they are"),
        (tiny_columns.COLUMNS[:2], "columns described are age, sex; each input needs a column"),
        (
            (*tiny_columns.COLUMNS[:1], msgspec.structs.replace(tiny_columns.SEX, missing="refuse"), tiny_columns.VIEW),
            r"takes 3 number\(s\) as 'sex', and the column described gives 2",
        ),
    ],
)
def test_columns_that_are_not_the_file_s_inputs(tmp_path: Path, columns: tuple[Column, ...], said: str) -> None:
    with pytest.raises(ModelError, match=said):
        open_onnx(source_of(tmp_path, tiny_columns.network(), columns), STUDY)


def test_two_inputs_of_one_name(tmp_path: Path) -> None:
    proto = onnx.load_model_from_string(tiny_columns.network())
    proto.graph.input[2].name = "age"
    with pytest.raises(ModelError, match=r"two inputs called 'age'|[Dd]uplicate"):
        open_onnx(source_of(tmp_path, proto.SerializeToString()), STUDY)


def test_a_number_s_mean_is_not_guessed(tmp_path: Path) -> None:
    source_of(tmp_path, tiny_columns.network())
    text = (tmp_path / "net.yaml").read_text().replace('"mean":50.0,', "")
    (tmp_path / "net.yaml").write_text(text)
    with pytest.raises(ModelError, match="does not say mean of the column 'age'"):
        TeacherSource(source=str(tmp_path / "net.onnx"), spec=str(tmp_path / "net.yaml")).given_columns()


def test_columns_for_a_file_that_takes_none(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"inputs beside the image \(none\)"):
        open_onnx(source_of(tmp_path, tiny_columns.network(()), (tiny_columns.AGE,)), STUDY)
