"""``medfm-compress prune`` on a small study: prune, recover, reload; and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("timm")
pytest.importorskip("torch_pruning")
typer = pytest.importorskip("typer")

from typer.testing import CliRunner  # noqa: E402

from medfm_compress.cli.prune import prune  # noqa: E402
from medfm_compress.compress.networks.build import build_model  # noqa: E402
from medfm_compress.compress.networks.model import load_model, save_model  # noqa: E402
from medfm_compress.runtime.errors import InputError, MedfmError, ModelError  # noqa: E402
from medfm_compress.runtime.task import Task  # noqa: E402

app = typer.Typer()
app.command()(prune)


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """A table of 24 tiny images: those with a finding are brighter."""
    from PIL import Image

    folder = tmp_path / "study"
    folder.mkdir()
    noise = np.random.default_rng(0)
    rows = ["image,split,label,patient"]
    for number in range(24):
        bright = number % 2
        pixels = noise.integers(0, 120, (48, 48), dtype=np.uint8) + np.uint8(100 * bright)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        rows.append(f"{number}.png,{'val' if number >= 16 else 'train'},{('normal', 'opacity')[bright]},p{number}")
    (folder / "cases.csv").write_text("\n".join(rows) + "\n")
    return folder


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """An untrained ResNet as a model folder."""
    torch.manual_seed(0)
    task = Task(kind="binary", labels=("normal", "opacity"))
    return save_model(build_model("test_resnet", task, size_px=48, colour="grey"), tmp_path / "model")


def invoke(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.mark.parametrize("importance", ["magnitude", "taylor"])
def test_prune_and_recover(study: Path, model: Path, tmp_path: Path, importance: str) -> None:
    before = (model / "model.safetensors").read_bytes()
    out = tmp_path / "out"
    options = (
        "--max-macs",
        0.5,
        "--epochs",
        1,
        "--importance",
        importance,
        "--precision",
        "fp32",
        "--device",
        "cpu",
        "--json",
        "--target",
        "",
    )
    done = invoke(model, "--study", study, "--out", out, *options)
    assert done.exit_code == 0, (done.output, done.exception)
    lines = json.loads(done.stdout)
    assert lines["macs_after"] <= 0.5 * lines["macs_before"]

    recovered = load_model(out)
    assert sum(parameter.numel() for parameter in recovered.module.parameters()) == lines["parameters_after"]
    assert [step.split()[0].strip(":") for step in recovered.provenance.steps] == ["prune", "distilled"]
    assert recovered.provenance.teacher.startswith("test_resnet@")
    assert (model / "model.safetensors").read_bytes() == before


def test_zero_epochs_only_prunes(study: Path, model: Path, tmp_path: Path) -> None:
    done = invoke(model, "--study", study, "--out", tmp_path / "out", "--max-macs", 0.5, "--target", "", "--epochs", 0)
    assert done.exit_code == 0, (done.output, done.exception)
    assert "MACs an image" in done.stdout
    assert load_model(tmp_path / "out").architecture.pruning


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ((), InputError, "one goal"),
        (("--max-macs", 0.5, "--min-speedup", 2), InputError, "one goal"),
        (("--min-speedup", 2), InputError, "needs a target"),
        (("--min-speedup", 1), InputError, "above 1"),
        (("--max-latency", "fast"), InputError, "give a number"),
        (("--max-size", "0MB"), InputError, "above 0"),
        (("--max-macs", 0.5, "--steps", 0), InputError, "steps"),
        (("--max-macs", 0), InputError, "above 0 and below 1"),
        (("--max-macs", 0.001), ModelError, "out of reach"),
        (("--max-macs", 0.5, "--round-to", -1), InputError, "--round-to is -1"),
        (("--max-macs", 0.5, "--importance", "size"), InputError, "magnitude"),
    ],
)
def test_what_cannot_be_done_is_refused_and_nothing_is_written(
    study: Path, model: Path, tmp_path: Path, options: tuple[object, ...], error: type[MedfmError], says: str
) -> None:
    done = invoke(model, "--study", study, "--out", tmp_path / "out", "--target", "", *options)
    assert isinstance(done.exception, error)
    assert says in str(done.exception)
    assert not (tmp_path / "out").exists()


def test_the_original_is_not_overwritten(study: Path, model: Path) -> None:
    done = invoke(model, "--study", study, "--out", model, "--max-macs", 0.5)
    assert isinstance(done.exception, InputError)
