"""``medfm-compress pretrain``: images alone are enough, and what is wrong is said in one sentence."""

from __future__ import annotations

import json

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("timm")

from medfm_compress.__main__ import main  # noqa: E402
from medfm_compress.compress.networks.backbone import find_start  # noqa: E402

FAST = ("--epochs", "1", "--batch-size", "8", "--precision", "fp32", "--device", "cpu")


def draw(folder, count):
    from PIL import Image

    folder.mkdir(parents=True)
    noise = np.random.default_rng(0)
    for number in range(count):
        Image.fromarray(noise.integers(0, 255, (40, 40, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    return folder


@pytest.fixture
def unlabelled(tmp_path):
    """A table of images that has no column of labels."""
    folder = draw(tmp_path / "study", 20)
    rows = "".join(f"{number}.png,unlabelled\n" for number in range(20))
    (folder / "cases.csv").write_text("image,split\n" + rows)
    return folder


def run(study, *arguments, model="test_vit"):
    """Exit code of one command."""
    with pytest.raises(SystemExit) as caught:
        main(["pretrain", model, "--study", *(str(argument) for argument in (study, *arguments))])
    return caught.value.code


def test_images_without_a_column_of_labels(unlabelled, tmp_path, capsys):
    out = tmp_path / "out"
    assert run(unlabelled, "--image-size", 32, "--out", out, "--mask-ratio", 0.5, *FAST, "--json") == 0
    lines = json.loads(capsys.readouterr().out)
    assert (lines["images"], lines["masking"]) == (18, {"method": "mae", "ratio": 0.5, "patch_px": 16})
    card = find_start(out).card
    assert (card.spec.colour, card.score) == ("rgb", lines["score"])
    assert lines["steps"] == list(card.provenance.steps)


def test_a_folder_of_images_and_further_ones(unlabelled, tmp_path, capsys):
    plain = draw(tmp_path / "plain", 12)
    out = tmp_path / "out"
    assert run(plain, "--more", unlabelled, "--image-size", 32, "--out", out, "--method", "simmim", *FAST) == 0
    assert "simmim, 60% hidden in squares of 4 px, 30 images, 1 epochs" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--method", "mae", "test_resnet"), "mae does not apply to test_resnet"),
        (("--mask-ratio", "1"), "--mask-ratio is 1; it must be above 0 and below 1"),
        (("--mask-ratio", "0"), "--mask-ratio is 0"),
        (("--method", "dino"), "must be auto, mae or simmim"),
        (("--image-size", "40"), "cannot take 40 px whole"),
        (("--image-size", "48", "test_resnet"), "no multiple of 32 px"),
        (("--epochs", "0"), "at least one epoch"),
        (("--mask-patch", "5"), "mask patch is 5 px"),
        (("test_vitt",), "timm has no model"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(unlabelled, tmp_path, capsys, options, says):
    out = tmp_path / "out"
    model = options[-1] if options[-1].startswith("test_") else "test_vit"
    options = [option for option in options if option != model]
    assert run(unlabelled, "--image-size", 32, "--out", out, *FAST, *options, model=model) == 2
    lines = capsys.readouterr().err
    assert says in lines
    assert lines.count("error:") == 1
    assert not (out / "backbone.json").exists()


def test_a_study_for_testing_only_is_refused(unlabelled, tmp_path, capsys):
    table = unlabelled / "cases.csv"
    table.write_text(table.read_text().replace("unlabelled", "elsewhere"))
    assert run(unlabelled, "--image-size", 32, "--out", tmp_path / "out", *FAST) == 2
    assert "no image in split 'train' or 'unlabelled' to learn from; its splits: elsewhere" in capsys.readouterr().err
