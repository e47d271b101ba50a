"""``run``: a line for each image, and an exit code that a program can trust."""

from __future__ import annotations

import json

import msgspec
import numpy as np
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from medfm_compress.cli.run import run
from medfm_compress.runtime.errors import BundleRefused, InputError
from medfm_compress.runtime.image_spec import ColourRule
from medfm_compress.runtime.task import Task


@pytest.fixture
def folder(tiny, tmp_path):
    tiny.bundle(tmp_path / "tiny.medfm", (tiny.OV, tiny.ORT))
    for name in ("one.png", "two.png"):
        Image.fromarray(tiny.image()).save(tmp_path / name)
    (tmp_path / "bad.png").write_text("no image")
    return tmp_path


def invoke(*arguments):
    app = typer.Typer()
    app.command()(run)
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_a_line_for_each_image(folder):
    result = invoke(folder / "tiny.medfm", folder / "one.png", folder / "two.png", "--threads", 1)
    lines = result.stdout.splitlines()
    assert result.exit_code == 0, result
    assert [line.split(":")[0] for line in lines] == ["one.png", "two.png"]
    assert "opacity 0." in lines[0] and "(not called)" in lines[0]


def test_a_refused_image_does_not_stop_the_others(folder):
    result = invoke(
        folder / "tiny.medfm", folder / "bad.png", folder / "absent.png", folder / "two.png", "--threads", 1
    )
    first, second, third = result.stdout.splitlines()
    assert result.exit_code == 4
    assert first.startswith("bad.png: refused: ") and second.startswith("absent.png: refused: ")
    assert third.startswith("two.png: opacity")
    assert [line.count(name) for line, name in ((first, "bad.png"), (second, "absent.png"))] == [1, 1]


def test_json_is_one_document(folder):
    result = invoke(folder / "tiny.medfm", folder / "one.png", folder / "bad.png", "--json", "--backend", "onnxruntime")
    single, bad = json.loads(result.stdout)
    assert result.exit_code == 4
    assert single["image"].endswith("one.png") and 0 <= single["probabilities"]["opacity"] <= 1
    assert single["variant"] == "onnxruntime-cpu-fp32" and single["findings"] == {"opacity": False}
    assert bad["exit_code"] == 4 and "error" in bad


def test_a_bundle_without_a_verdict_needs_the_flag(tiny, folder):
    path = tiny.bundle(folder / "new.medfm", outcome=None)
    refused = invoke(path, folder / "one.png").exception
    assert isinstance(refused, BundleRefused) and "be used without (--unverified)" in str(refused)
    result = invoke(path, folder / "one.png", "--unverified", "--threads", 1)
    assert result.exit_code == 0 and "[unverified-model]" in result.stdout


def test_compiled_models_are_kept_where_the_user_says(folder):
    for _ in range(2):
        result = invoke(folder / "tiny.medfm", folder / "one.png", "--threads", 1, "--cache", folder / "models")
        assert result.exit_code == 0 and len(list((folder / "models").iterdir())) == 1


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--threads", "0", "threads is 0"),
        ("--backend", "abacus", "no backend 'abacus'"),
        ("--cache", "", "--cache is empty"),
    ],
)
def test_unusable_options(folder, option, value, words):
    result = invoke(folder / "tiny.medfm", folder / "one.png", option, value)
    assert isinstance(result.exception, InputError) and words in str(result.exception)


def test_of_many_classes_the_most_probable_are_shown(tiny, folder):
    labels = tuple(f"class{i}" for i in range(8))
    task = Task(kind="multiclass", labels=labels)
    path = tiny.bundle(folder / "many.medfm", model=tiny.network(labels=8), task=task)
    line = invoke(path, folder / "one.png", "--threads", 1).stdout.splitlines()[0]
    shown = [float(part.split()[1]) for part in line.split(": ")[1].split(", ")]
    assert len(shown) == 5 and shown == sorted(shown, reverse=True)
    assert "(called)" in line.split(", ")[0] and line.count("(called)") == 1


def test_an_image_of_the_other_kind_of_colour_is_flagged_in_words_and_in_json(tiny, folder):
    values = np.random.default_rng(0).integers(0, 255, (48, 48, 3), dtype=np.uint8)
    Image.fromarray(values).save(folder / "photograph.png")
    spec = msgspec.structs.replace(tiny.SPEC, colour_rule=ColourRule(images="grey"))
    path = tiny.bundle(folder / "grey.medfm", spec=spec)
    result = invoke(path, folder / "one.png", folder / "photograph.png", "--threads", 1)
    grey, photograph = result.stdout.splitlines()
    assert result.exit_code == 0
    assert "[" not in grey and photograph.endswith("[colour-image-for-grey-model]")
    (answer,) = json.loads(invoke(path, folder / "photograph.png", "--threads", 1, "--json").stdout)
    assert answer["flags"] == ["colour-image-for-grey-model"]


def test_an_image_of_the_other_kind_of_colour_is_refused_by_rule(tiny, folder):
    values = np.random.default_rng(0).integers(0, 255, (48, 48, 3), dtype=np.uint8)
    Image.fromarray(values).save(folder / "photograph.png")
    spec = msgspec.structs.replace(tiny.SPEC, colour_rule=ColourRule(images="grey", others="refuse"))
    result = invoke(tiny.bundle(folder / "strict.medfm", spec=spec), folder / "photograph.png", folder / "one.png")
    first, second = result.stdout.splitlines()
    assert result.exit_code == 4
    assert first.startswith("photograph.png: refused: the image is in colour") and second.startswith("one.png: opacity")
