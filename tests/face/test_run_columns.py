"""``run`` and ``inspect`` of a bundle that takes columns beside the image."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import typer
from click.testing import Result
from msgspec.structs import replace
from PIL import Image
from typer.testing import CliRunner

from medfm_compress.cli.export import export
from medfm_compress.cli.inspect import inspect
from medfm_compress.cli.run import run
from medfm_compress.export.difference.explain import explain_difference
from medfm_compress.runtime import Engine
from medfm_compress.runtime.bundle.bundle import Bundle
from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.slides.scan import SlideFile, open_scan
from medfm_compress.runtime.slides.settings import SlideSettings
from tests.helpers import node_scene, tiny_bundle, tiny_columns

GIVEN = ("--column", "age=63", "--column", "sex=female", "--column", "view=AP")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tiny_columns.bundle(tmp_path / "columns.medfm")
    for number, name in enumerate(("a/one.png", "a/two.png", "b/one.png")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(tiny_bundle.image(number)).save(tmp_path / name)
    (tmp_path / "scan.dcm").write_bytes(node_scene.image(change={"ViewPosition": "PA"}))
    return tmp_path


def invoke(command, *arguments: object) -> Result:
    app = typer.Typer()
    app.command()(command)
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def probability(result: Result) -> list[float]:
    return [row["probabilities"]["opacity"] for row in json.loads(result.stdout)]


def table(folder: Path, text: str) -> Path:
    path = folder / "table.csv"
    path.write_text(text)
    return path


def test_values_of_the_command_line(folder: Path) -> None:
    result = invoke(run, folder / "columns.medfm", folder / "a/one.png", *GIVEN)
    assert result.exit_code == 0 and "(age argument, sex argument, view argument)" in result.stdout
    other = invoke(run, folder / "columns.medfm", folder / "a/one.png", *GIVEN[2:], "--column", "age=20", "--json")
    with Engine(folder / "columns.medfm") as engine:
        expected = engine.predict(folder / "a/one.png", columns={"age": 20, "sex": "female", "view": "AP"})
    assert probability(other) == [pytest.approx(expected.probabilities["opacity"], abs=1e-6)]


def test_values_of_a_dicom_file(folder: Path) -> None:
    result = invoke(run, folder / "columns.medfm", folder / "scan.dcm", "--json")
    assert result.exit_code == 0, result.stdout
    (row,) = json.loads(result.stdout)
    assert row["columns"] == {"age": "PatientAge", "sex": "PatientSex", "view": "ViewPosition"}
    assert "60" not in json.dumps(row["columns"])
    contradicting = invoke(run, folder / "columns.medfm", folder / "scan.dcm", "--column", "age=20")
    assert contradicting.exit_code == 4 and "PatientAge of the file says something else" in contradicting.stdout


def test_a_table_gives_each_image_its_own(folder: Path) -> None:
    rows = table(folder, "image,age,sex\na/one.png,30,male\ntwo.png,40,\nb/one.png,50,female\nelsewhere.png,1,male\n")
    result = invoke(run, folder / "columns.medfm", folder / "a", folder / "b", "--columns", rows, "--json")
    assert result.exit_code == 0, result.stdout
    given = [{"age": 30, "sex": "male"}, {"age": 40}, {"age": 50, "sex": "female"}]
    with Engine(folder / "columns.medfm") as engine:
        expected = [
            engine.predict(folder / name, columns=values).probabilities["opacity"]
            for name, values in zip(("a/one.png", "a/two.png", "b/one.png"), given, strict=True)
        ]
    assert probability(result) == pytest.approx(expected, abs=1e-6)
    assert "warning: 1 of 4 rows of table.csv are of none of the images (elsewhere.png); write" in result.stderr
    sources = [row["columns"]["sex"] for row in json.loads(result.stdout)]
    assert sources == ["argument", "missing", "argument"]


def test_rows_of_no_image_are_counted_and_the_first_named(folder: Path) -> None:
    names = ["one", "a/two", "three.png", "four.png"]
    rows = table(folder, "image,age\na/one.png,30\n" + "".join(f"{name},40\n" for name in names))
    result = invoke(run, folder / "columns.medfm", folder / "a/one.png", *GIVEN[2:], "--columns", rows)
    assert result.exit_code == 0
    assert "4 of 5 rows of table.csv are of none of the images (one, a/two, three.png, …)" in result.stderr
    rows.write_text("image,age\na/one.png,30\n")
    assert (
        "rows of"
        not in invoke(run, folder / "columns.medfm", folder / "a/one.png", *GIVEN[2:], "--columns", rows).stderr
    )


@pytest.mark.parametrize(
    ("text", "options", "reason"),
    [
        ("image,age\none.png,30\n", (), "'one.png' stands for .*write more of their paths"),
        ("image,Age\na/one.png,30\n", (), "names 'Age', which is no column of the bundle; it takes age, sex, view"),
        ("image,age\na/one.png,30\na/one.png,31\n", (), "line 3: an image a second time"),
        ("image,age\na/one.png,30\none.png,31\n", (), "two rows for|stands for"),
        ("image,age\na/one.png\n", (), "line 2: 1 cells"),
        ("file,age\na/one.png,3\n", (), "needs 'image' once"),
        ("image,age,age\na/one.png,3,4\n", (), "no name twice"),
        ("", (), "needs 'image' once"),
        ("image,age\na/one.png,30\n", ("--column", "age=4"), "comes from --column and from table.csv"),
        ("image,age\na/one.png,30\n", ("--column", "weight=4"), "--column names 'weight'"),
    ],
)
def test_a_table_that_cannot_be_used(folder: Path, text: str, options: tuple[str, ...], reason: str) -> None:
    result = invoke(
        run, folder / "columns.medfm", folder / "a", folder / "b", "--columns", table(folder, text), *options
    )
    assert isinstance(result.exception, InputError)
    with pytest.raises(InputError, match=reason):
        raise result.exception
    assert not result.stdout.count("opacity 0.")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ((), "age is missing"),
        (("--column", "age=old"), "give a number"),
        (("--column", "age=140"), "takes 0 to 110"),
        (("--column", "age=40", "--column", "sex=X"), "takes female, male"),
    ],
)
def test_an_image_without_a_usable_value_is_refused(folder: Path, options: tuple[str, ...], reason: str) -> None:
    result = invoke(run, folder / "columns.medfm", folder / "a/two.png", *options)
    assert result.exit_code == 4 and "refused: " in result.stdout and reason in result.stdout


def test_an_age_of_no_years_in_a_file(folder: Path) -> None:
    (folder / "scan.dcm").write_bytes(node_scene.image(change={"PatientAge": "000Y"}))
    result = invoke(run, folder / "columns.medfm", folder / "scan.dcm")
    assert result.exit_code == 4 and "PatientAge of the file is 0 years, which is no age" in result.stdout


def test_a_bundle_without_columns_takes_none(folder: Path) -> None:
    tiny_bundle.bundle(folder / "plain.medfm")
    result = invoke(run, folder / "plain.medfm", folder / "a/one.png", "--column", "age=3")
    assert isinstance(result.exception, InputError) and "takes an image alone" in str(result.exception)


def test_inspect_shows_them(folder: Path) -> None:
    text = invoke(inspect, folder / "columns.medfm", "--verify").stdout
    assert "column 1:" in text and "age, 0 to 110 years, from PatientAge; no answer without it" in text
    assert "sex, one of female, male, from PatientSex; may be missing" in text
    assert "view, one of AP, PA, from ViewPosition; imputed as PA" in text and "agrees" in text


@pytest.mark.parametrize(
    ("number", "changes", "said"),
    [
        (0, {"dicom": "PatientName"}, "may identify a patient"),
        (0, {"dicom": "NoSuch"}, "no DICOM keyword"),
        (0, {"unit": "parsecs"}, "parsecs"),
        (1, {"codes": {}}, "PatientSex"),
    ],
)
def test_columns_that_no_engine_opens_with_do_not_agree(tmp_path: Path, number: int, changes: dict, said: str) -> None:
    columns = list(tiny_columns.COLUMNS)
    columns[number] = replace(columns[number], **changes)
    path = tiny_columns.bundle(tmp_path / "altered.medfm", columns=tuple(columns))
    result = invoke(inspect, path, "--verify", "--json")
    assert result.exit_code == 4
    assert said in json.loads(result.stdout)["variants"][0]["verification"]


def test_what_takes_no_columns_says_so(folder: Path) -> None:
    out = folder / "self.onnx"
    result = invoke(export, folder / "columns.medfm", "--self-contained", "--out", out)
    assert "takes columns beside the image (age, sex, view)" in str(result.exception) and not out.exists()
    heat = invoke(run, folder / "columns.medfm", folder / "a/one.png", *GIVEN, "--heatmap", folder / "maps")
    assert "takes columns beside the image" in str(heat.exception) and "'medfm-compress view'" in str(heat.exception)
    assert "--heat-map" not in str(heat.exception), "which refuses columns"
    pair = ("onnxruntime-cpu-fp32", "other")
    with pytest.raises(InputError, match="layers are compared of networks of the image alone"):
        explain_difference(Bundle.open(folder / "columns.medfm"), pair, np.zeros((1, 1, 32, 32), np.float32))
    scan = SlideFile(folder / "slide.tif", None, "")
    with (
        Engine(folder / "columns.medfm") as engine,
        pytest.raises(InputError, match="a slide is read without any"),
        open_scan(engine, scan, SlideSettings(tile_um_per_px=1), folder / "slide"),
    ):
        pass
