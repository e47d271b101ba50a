"""``slide``: one sentence and an exit code, whatever is given; a folder of results that goes on."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("tifffile")
slide_scene = pytest.importorskip("slide_scene")

from medfm_compress.cli.main import run  # noqa: E402
from medfm_compress.data.stain_fit import with_stain  # noqa: E402
from medfm_compress.recipe import Recipe, resolved  # noqa: E402
from medfm_compress.runtime.errors import InputError  # noqa: E402
from medfm_compress.runtime.image_spec import MacenkoStain  # noqa: E402
from medfm_compress.runtime.strict_json import encode  # noqa: E402
from medfm_compress.step_settings import DistillStep, FinetuneStep  # noqa: E402


@pytest.fixture
def folder(tmp_path, capsys):
    slide_scene.classifier(tmp_path / "tiny.medfm")
    slide_scene.segmenter(tmp_path / "dense.medfm")
    slide_scene.write_deflate(tmp_path / "slide.tif", slide_scene.picture())
    slide_scene.write_deflate(tmp_path / "plain.tif", slide_scene.picture(), um_per_px=None)
    (tmp_path / "no.tif").write_text("no slide")
    assert run(["slide", "settings", "--tile-um-per-px", "1", "--out", str(tmp_path / "s.json")]) == 0
    capsys.readouterr()
    return tmp_path


def call(folder, *words):
    return run(["slide", *(str(folder / word[1:]) if word.startswith("@") else word for word in words)])


def test_a_slide_and_what_is_written(folder, capsys):
    assert call(folder, "run", "@tiny.medfm", "@slide.tif", "--settings", "@s.json", "--out", "@out") == 0
    said = capsys.readouterr().out
    assert "show tissue" in said and "opacity: 0." in said and "MB of memory" in said
    assert sorted(path.name for path in (folder / "out").iterdir()) == [
        "heat-opacity.tif", "overlay-opacity.png", "result.json", "tiles.csv", "top-opacity.png",
    ]  # fmt: skip
    assert call(folder, "run", "@tiny.medfm", "@slide.tif", "--settings", "@s.json", "--out", "@out") == 2
    assert "--overwrite" in capsys.readouterr().err
    again = ("run", "@tiny.medfm", "@slide.tif", "--settings", "@s.json", "--out", "@out", "--overwrite", "--json")
    assert call(folder, *again) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["seconds"] > 0 and document["peak_mb"] > 0 and document["tiles"]["unread"] == 0


def test_a_segmentation(folder, capsys):
    words = ("run", "@dense.medfm", "@slide.tif", "--settings", "@s.json", "--out", "@out", "--unverified")
    assert call(folder, *words) == 0
    assert "mm²" in capsys.readouterr().out and (folder / "out" / "labels.tif").exists()


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (("@tiny.medfm", "@plain.tif"), 4, "--um-per-px"),
        (("@tiny.medfm", "@no.tif"), 4, "no slide that can be read"),
        (("@tiny.medfm", "@absent.tif"), 4, "give the file of a slide"),
        (("@tiny.medfm", "@slide.tif", "--um-per-px", "3"), 4, "never enlarged"),
        (("@tiny.medfm", "@slide.tif", "--um-per-px", "-1"), 2, "--um-per-px is -1"),
        (("@tiny.medfm", "@slide.tif", "--reader", "magic"), 4, "openslide, tifffile, pillow, picture"),
        (("@slide.tif", "@slide.tif"), 4, "slide.tif"),
    ],
)
def test_what_cannot_be_is_said_in_one_sentence(folder, capsys, words, code, sentence):
    assert call(folder, "run", *words, "--settings", "@s.json", "--out", "@out") == code
    error = capsys.readouterr().err
    assert sentence in error and "Traceback" not in error and not (folder / "out" / "result.json").exists()


def test_a_label_that_is_withheld_exits_with_4(folder, capsys):
    slide_scene.damage_tile(folder / "slide.tif", 5, level=1)
    settings = ("settings", "--tile-um-per-px", "1", "--unread", "refuse", "--out", "@strict.json")
    assert call(folder, *settings) == 0
    assert call(folder, "run", "@tiny.medfm", "@slide.tif", "--settings", "@strict.json", "--out", "@out") == 4
    said = capsys.readouterr().out
    assert "no label:" in said and "not read: 64×64 px at" in said
    assert json.loads((folder / "out" / "result.json").read_text())["probabilities"] == {}


def test_settings_that_are_none_are_refused(folder, capsys):
    (folder / "bad.json").write_text('{"tile_um_per_px": 1, "colour": "red"}')
    assert call(folder, "run", "@tiny.medfm", "@slide.tif", "--settings", "@bad.json", "--out", "@out") == 2
    assert "colour" in capsys.readouterr().err
    assert call(folder, "settings", "--tile-um-per-px", "0", "--out", "@t.json") == 2
    assert "above 0" in capsys.readouterr().err


def test_validation_slides_choose(folder, capsys):
    with (folder / "cases.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["image", "split", "label", "patient"])
        for number in range(4):
            slide_scene.write_deflate(folder / f"{number}.tif", slide_scene.picture(300, 500, seed=number))
            rows.writerow([f"{number}.tif", "val", ("normal", "opacity")[number % 2], number])
    words = (
        "choose",
        "@tiny.medfm",
        "@cases.csv",
        "--settings",
        "@s.json",
        "--out",
        "@chosen.json",
        "--cache",
        "@cache",
    )
    assert call(folder, *words) == 0
    assert "AUROC" in capsys.readouterr().out
    chosen = json.loads((folder / "chosen.json").read_text())
    assert set(chosen["thresholds"]) == {"opacity"} and chosen["tile_um_per_px"] == 1
    assert len(list((folder / "cache").iterdir())) == 4


def test_stains_of_a_study(tmp_path, capsys):
    from stained_image import stained

    with (tmp_path / "cases.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["image", "split", "label"])
        for number in range(6):
            Image.fromarray(stained(number)).save(tmp_path / f"{number}.png")
            rows.writerow([f"{number}.png", "train", ("a", "b")[number % 2]])
    for method in ("macenko", "reinhard"):
        assert call(tmp_path, "fit-stain", "@cases.csv", "--method", method, "--out", f"@{method}.json") == 0
    rule = json.loads((tmp_path / "macenko.json").read_text())
    assert np.linalg.norm(rule["hematoxylin"]) == pytest.approx(1, abs=1e-4)
    Image.fromarray(np.full((40, 40, 3), 240, np.uint8)).save(tmp_path / "white.png")
    (tmp_path / "cases.csv").write_text("image,split,label\nwhite.png,train,a\n0.png,val,a\n1.png,other,b\n")
    capsys.readouterr()
    assert call(tmp_path, "fit-stain", "@cases.csv", "--out", "@white.json") == 2
    assert "no stains that can be told" in capsys.readouterr().err


def test_a_stain_file_becomes_part_of_the_spec_or_is_refused(tmp_path):
    rule = MacenkoStain(hematoxylin=(0.65, 0.76, 0.0), eosin=(0.09, 0.98, 0.17), concentrations=(2.8, 3.3))
    (tmp_path / "stain.json").write_bytes(encode(rule))
    assert with_stain(slide_scene.SPEC, str(tmp_path / "stain.json")).stain == rule
    assert with_stain(slide_scene.SPEC, "") == slide_scene.SPEC
    for content in (b"{}", b'{"method": "vahadane"}', b"no json"):
        (tmp_path / "stain.json").write_bytes(content)
        with pytest.raises(InputError, match="stain"):
            with_stain(slide_scene.SPEC, str(tmp_path / "stain.json"))


def test_a_recipe_names_its_stain_relative_to_itself(tmp_path):
    step = FinetuneStep(model="resnet10t", stain="stain.json")
    recipe = Recipe(
        name="x", study="study", policy="policy.yaml", teacher=step, distill=DistillStep(student="resnet10t")
    )
    assert resolved(recipe, tmp_path).teacher.stain == str(tmp_path / "stain.json")
