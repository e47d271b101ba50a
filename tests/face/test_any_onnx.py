"""Anybody's ONNX file in one line, by command: what is asked for, what comes out, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tiny_onnx

typer = pytest.importorskip("typer")

from typer.testing import CliRunner  # noqa: E402

from medfm_compress.cli import ready_file  # noqa: E402
from medfm_compress.cli.export import export  # noqa: E402
from medfm_compress.cli.model_summary import print_unlabelled  # noqa: E402
from medfm_compress.cli.quantize import quantize  # noqa: E402
from medfm_compress.runtime.bundle.bundle import Bundle  # noqa: E402
from medfm_compress.runtime.engine import Engine  # noqa: E402
from medfm_compress.runtime.errors import InputError  # noqa: E402

app = typer.Typer()
app.command()(export)
app.command()(quantize)
QUICK = ("--target", "onnxruntime:cpu", "--time-budget", 0, "--rounds", 5, "--no-optimised", "--no-reduced-range")


def invoke(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def message(*arguments: object) -> str:
    """The one sentence of a command that refuses."""
    done = invoke(*arguments)
    assert isinstance(done.exception, InputError), (done.output, done.exception)
    assert done.exception.exit_code == 2
    return str(done.exception)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that the command runs in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def study(here: Path) -> Path:
    """Labelled images in three classes: half of them train."""
    folder = tiny_onnx.draw_images(here / "study", 36)
    rows = [f"{n:02}.png,{'val' if n % 2 else 'train'},{'abc'[n // 2 % 3]}" for n in range(36)]
    (folder / "cases.csv").write_text("\n".join(["image,split,label", *rows]) + "\n")
    return folder


def test_images_without_labels_in_two_lines(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny_onnx.write(here / "net.onnx", tiny_onnx.make(ending=("Softmax",)), spec=None)
    images = tiny_onnx.draw_images(here / "images", 18)
    (images / "broken.png").write_text("no image")
    (images / "cases.csv").write_text("image,label\n00.png,a\n")
    words = ("quantize", "net.onnx", "--images", images, "--out", "small.medfm", *QUICK)
    said = message(*words)
    assert said.startswith("net does not say how its images are prepared, and a wrong guess")
    assert said.endswith("give it with --teacher-spec net.spec.yaml")
    assert not (here / "small.medfm").exists()
    ready = (here / "net.spec.yaml").read_text()
    assert message(*words) == said  # nothing piles up
    assert message(*words, "--teacher-spec", "net.spec.yaml").endswith("fill in what the network was trained with")
    for key, value in (("mean", "[0.4, 0.5, 0.6]"), ("std", "[0.2, 0.2, 0.3]"), ("resize", "stretch")):
        ready = ready.replace(f"\n{key}: TODO", f"\n{key}: {value}")
    (here / "net.spec.yaml").write_text(ready.replace("\nfilter: TODO", "\nfilter: bilinear"))
    done = invoke(*words, "--teacher-spec", "net.spec.yaml", "--json")
    assert done.exit_code == 0, (done.output, done.exception)
    document = json.loads(done.stdout)
    assert document["labelled"] is False and document["calibration_cases"] == 12
    assert done.stderr.count("left out 1 image") == done.stderr.count("labels in cases.csv count with") == 1
    assert "took 18 images below images: 12 calibrate, 6 judge\n" in done.stderr.replace(f"{here}/", "")
    assert "training" not in done.stderr and "validation" not in done.stderr
    assert document["judged_by"].startswith("no labels: judged by relative logit error and agreement")
    assert all("changed_decisions" in candidate for candidate in document["candidates"])
    manifest = Bundle.open(here / "small.medfm").manifest
    assert manifest.task.labels == ("output-0", "output-1", "output-2")
    assert any("no labels: judged by" in step and "on 6 images" in step for step in manifest.provenance.steps)
    assert "quantize: calibrated on 12 images, seed 0" in manifest.provenance.steps
    assert not any("training case" in step or "validation case" in step for step in manifest.provenance.steps)
    assert any("its softmax taken off" in step for step in manifest.provenance.steps)
    print_unlabelled(manifest)
    assert capsys.readouterr().out.startswith(
        "no labels: judged by relative logit error and agreement of decisions alone"
    )


def test_where_nothing_can_be_written_the_message_says_what_to_write(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise InputError("read-only")

    monkeypatch.setattr(ready_file, "write_atomically", refuse)
    tiny_onnx.write(here / "net.onnx", tiny_onnx.make(ending=("Softmax",)), spec=None)
    said = message("quantize", "net.onnx", "--images", here, "--out", "x.medfm")
    assert 'write a file such as {"height_px":16' in said and said.endswith("give it with --teacher-spec")


def test_a_labelled_study_gives_the_bundle_that_the_file_predicts(here: Path, study: Path) -> None:
    path = tiny_onnx.write(here / "net.onnx", tiny_onnx.make(ending=("Softmax",), nhwc=True))
    words = ("export", "net.onnx", "--study", study, "--teacher-spec", here / "net.spec.json")
    done = invoke(*words, "--teacher-labels", "b,a,c", "--out", "net.medfm", "--json")
    assert done.exit_code == 0, (done.output, done.exception)
    import onnxruntime
    from PIL import Image

    image = np.full((40, 40, 3), 90, np.uint8)
    Image.fromarray(image).save(here / "one.png")
    with Engine(here / "net.medfm", unverified=True) as engine:
        prediction = engine.predict(here / "one.png")
        temperature = engine.manifest.task.temperature if hasattr(engine, "manifest") else None
    manifest = Bundle.open(here / "net.medfm").manifest
    assert manifest.task.labels == ("a", "b", "c") and temperature in (None, manifest.task.temperature)
    normal = (np.full((1, 16, 16, 3), 90 / 255) - tiny_onnx.SPEC.mean) / np.array(tiny_onnx.SPEC.std)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    p = np.log(session.run(None, {"x": normal.astype(np.float32)})[0][0]) / manifest.task.temperature
    expected = np.exp(p) / np.exp(p).sum()
    for label, value in zip("bac", expected, strict=True):
        assert prediction.probabilities[label] == pytest.approx(value, abs=1e-3)


def test_one_file_asks_for_labels_of_the_study_as_well(here: Path, study: Path) -> None:
    tiny_onnx.write(here / "net.onnx", spec=None)
    said = message("export", "net.onnx", "--study", study, "--out", "net.medfm")
    assert "how its images are prepared and what its 3 output(s) mean" in said
    assert "the study's are a, b, c" in (here / "net.spec.yaml").read_text()


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (("quantize", "net.onnx", "--out", "x.medfm"), "one of --study"),
        (("quantize", "net.onnx", "--images", "few", "--study", "few", "--out", "x.medfm"), "one of --study"),
        (("quantize", "net.onnx", "--study", "few", "--out", "x.medfm"), "few has no labels; give --images FOLDER"),
        (("export", "net.onnx", "--study", "few", "--out", "x.medfm"), "few has no labels; give --images FOLDER"),
        (("quantize", "net.onnx", "--images", "few", "--out", "x.medfm"), "has 3 images that can be used"),
        (("quantize", "net.onnx", "--images", "none", "--out", "x.medfm"), "has 0 images that can be used"),
        (("quantize", "net.onnx", "--images", "nowhere", "--out", "x.medfm"), "is no folder"),
        (("quantize", "gone.onnx", "--images", "few", "--out", "x.medfm"), "cannot read model gone.onnx"),
        (("quantize", "text.onnx", "--images", "few", "--out", "x.medfm"), "is not an ONNX file"),
        (("quantize", "zero.onnx", "--images", "few", "--out", "x.medfm"), "zero.onnx is empty; give"),
        (("quantize", "bare.onnx", "--images", "few", "--out", "x.medfm"), "bare.onnx holds no ONNX graph; give"),
        (("export", "net.onnx", "--out", "x.medfm"), "one of --study"),
    ],
)
def test_bad_input_is_one_sentence_and_leaves_nothing(here: Path, words: tuple[str, ...], part: str) -> None:
    tiny_onnx.write(here / "net.onnx", tiny_onnx.make(ending=("Softmax",)))
    (here / "text.onnx").write_text("this is text")
    (here / "zero.onnx").touch()
    (here / "bare.onnx").write_bytes(b"\x08\x08")  # a version of the format, and nothing else
    tiny_onnx.draw_images(here / "few", 3)
    (here / "none").mkdir()
    assert part in message(*words, "--teacher-spec", "net.spec.json")
    assert not (here / "x.medfm").exists()


def test_what_is_said_of_a_bundle_must_not_be(here: Path) -> None:
    for option, value in (("--teacher-spec", "x.json"), ("--teacher-labels", "a,b"), ("--teacher-outputs", "logits")):
        said = message("quantize", "x.medfm", "--images", here, "--out", "y.medfm", option, value)
        assert f"{option} goes with an .onnx file" in said


def test_a_file_that_was_quantized_is_sent_to_the_comparison(here: Path) -> None:
    from onnxruntime.quantization import quantize_dynamic

    tiny_onnx.write(here / "net.onnx")
    quantize_dynamic(here / "net.onnx", here / "q.onnx")
    onnx.checker.check_model(onnx.load(here / "q.onnx"))
    tiny_onnx.draw_images(here / "images", 12)
    said = message("quantize", "q.onnx", "--images", "images", "--out", "x.medfm", "--teacher-spec", "net.spec.json")
    assert "quantized already" in said and "--against q.onnx" in said
