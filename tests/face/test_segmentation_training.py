"""``finetune`` and ``distill`` of a study with masks, from the command line: what they need to be told, and refuse."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("segmentation_models_pytorch")

from drawn_discs import DISC, write_discs
from safetensors.torch import save_file

from medfm_compress.__main__ import main
from medfm_compress.compress.networks.model import load_model

ENCODER = "tu-mobilenetv3_small_050"
NETWORK = f"smp:unet/{ENCODER}"
FAST = (
    *("--epochs", "1", "--batch-size", "8", "--precision", "fp32", "--device", "cpu", "--ema", "0.8"),
    *("--image-size", "32", "--modality", "dermoscopy"),
)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Discs, and a label of every image besides, so that masks have to be asked for."""
    folder = tmp_path_factory.mktemp("discs")
    rows = write_discs(folder, counts=(16, 4, 2)).read_text().splitlines()
    named = [rows[0].replace(f"mask:{DISC}", "mask") + ",label"]
    named += [f"{row},{('a', 'b')[number % 2]}" for number, row in enumerate(rows[1:])]
    (folder / "both.csv").write_text("\n".join(named) + "\n")
    return folder / "both.csv"


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as caught:
        main([str(word) for word in words])
    printed = capsys.readouterr()
    return int(caught.value.code or 0), printed.out, printed.err


def test_a_structure_is_asked_for_and_its_model_carries_it_on(
    capsys: pytest.CaptureFixture[str], table: Path, tmp_path: Path
) -> None:
    widths = ("--network-argument", "decoder_channels=32,16,16,16,16")
    teacher, student = tmp_path / "teacher", tmp_path / "student"
    code, out, error = run(
        capsys, "finetune", NETWORK, "--study", table, "--structure", DISC, "--out", teacher, *widths, *FAST
    )
    assert code == 0, error
    assert "validation Dice" in out
    assert "--student smp:unet/" in out
    model = load_model(teacher)
    assert model.task.labels == (DISC,)
    assert model.architecture.arguments["decoder_channels"] == [32, 16, 16, 16, 16]
    # the teacher says that the study is one of masks
    code, out, error = run(
        *(capsys, "distill", teacher, "--student", f"smp:linknet/{ENCODER}", "--study", table, "--out", student),
        *("--views", "1", *FAST),
    )
    assert code == 0, error
    assert "teacher: Dice" in error
    assert load_model(student).task == model.task
    assert json.loads((student / "model.json").read_text())["architecture"]["library"] == "smp"


def test_a_state_dict_of_the_library_teaches_as_its_description_says(
    capsys: pytest.CaptureFixture[str], table: Path, tmp_path: Path
) -> None:
    run(capsys, "finetune", NETWORK, "--study", table, "--structure", DISC, "--out", tmp_path / "t", *FAST)
    save_file(load_model(tmp_path / "t").module.state_dict(), tmp_path / "net.safetensors")
    (tmp_path / "spec.yaml").write_text(
        "height_px: 32\nwidth_px: 32\ncolour: rgb\nmean: [0.5, 0.5, 0.5]\nstd: [0.5, 0.5, 0.5]\nresize: stretch\n"
        f"filter: bilinear\nlabels: [{DISC}]\narchitecture: {{arguments: {{decoder_channels: [16, 16, 16, 16, 16]}}}}\n"
    )
    words = ("distill", NETWORK, "--student", f"smp:linknet/{ENCODER}", "--study", table, "--structure", DISC)
    told = ("--teacher-weights", tmp_path / "net.safetensors", "--teacher-spec", tmp_path / "spec.yaml")
    code, _, error = run(capsys, *words, *told, "--out", tmp_path / "s", "--views", "1", *FAST)
    assert code == 2  # the description says other widths than the weights have
    assert "architecture: arguments" in error
    text = (tmp_path / "spec.yaml").read_text().replace("[16, 16, 16, 16, 16]", "[32, 32, 16, 16, 16]")
    (tmp_path / "spec.yaml").write_text(text[: text.index("architecture")])
    code, _, error = run(capsys, *words, *told, "--out", tmp_path / "s", "--views", "1", *FAST)
    assert code in (0, 2)
    assert code == 0 or "worse than chance" in error, error


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("finetune", "resnet18", "--structure", DISC), "gives one answer an image and the study has masks"),
        (("finetune", NETWORK), "answers for every pixel and the task is binary"),
        (("finetune", "smp:unet/tu-mobilenetv3_smal", "--structure", DISC), "timm has no model"),
        (("finetune", NETWORK, "--structure", DISC, "--image-size", "48", "--label-loss", "focal"), "dice-ce"),
        (("finetune", NETWORK, "--structure", DISC, "--network-argument", "decoder_channels=a,b"), "with commas"),
        (("finetune", NETWORK, "--structure", DISC, "--network-argument", "encoder_weights=imagenet"), "no argument"),
    ],
)
def test_what_does_not_go_together_is_refused_in_a_sentence(
    capsys: pytest.CaptureFixture[str], table: Path, tmp_path: Path, words: tuple[str, ...], said: str
) -> None:
    sized = () if "--image-size" in words else ("--image-size", "32")
    code, _, error = run(capsys, *words, *sized, "--study", table, "--out", tmp_path / "out")
    assert code == 2, error
    assert said in error
    assert not (tmp_path / "out" / "model.json").exists()
