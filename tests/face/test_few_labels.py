"""``medfm-compress few-labels``: curves, a model that export takes, and what is refused in one sentence."""

from __future__ import annotations

import json

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("timm")

from medfm_compress.__main__ import main  # noqa: E402
from medfm_compress.compress.few_labels.encoder import embed, open_encoder  # noqa: E402
from medfm_compress.compress.networks.build import build_model  # noqa: E402
from medfm_compress.compress.networks.model import load_model, save_model  # noqa: E402
from medfm_compress.data.open import open_study  # noqa: E402
from medfm_compress.export.cases import network_inputs  # noqa: E402
from medfm_compress.runtime.task import Task  # noqa: E402


def call(*arguments):
    """Exit code of one command."""
    with pytest.raises(SystemExit) as caught:
        main([str(argument) for argument in arguments])
    return caught.value.code


@pytest.fixture(scope="module")
def encoder(tmp_path_factory, discs_path):
    folder = tmp_path_factory.mktemp("few") / "encoder"
    assert call("finetune", "test_resnet", "--study", discs_path, "--image-size", 48, "--epochs", 0, "--out", folder,
                "--licence", "CC0", "-q") == 0  # fmt: skip
    return folder


def few(encoder, study, *more):
    return call("few-labels", encoder, "--study", study, "--draws", 3, "--resamples", 100, *more)


def test_curves_of_one_encoder(encoder, discs_path, capsys):
    assert few(encoder, discs_path, "--cases", "3,8,100", "--json") == 0
    curves = json.loads(capsys.readouterr().out)["curves"]
    assert [(point["classifier"], point["cases"]) for point in curves["points"]] == [
        ("prototypes", 3), ("prototypes", 8), ("linear-probe", 3), ("linear-probe", 8)
    ]  # fmt: skip
    assert (curves["judged"], curves["split"], curves["draws"]) == (24, "val", 3)
    assert curves["left_out"] == {"100": "the smallest class has 24 labelled training cases"}
    for point in curves["points"]:
        low, high = point["auroc"]["over_both"]
        assert 0 <= low <= point["auroc"]["mean"] <= high <= 1


def test_a_second_encoder_is_compared_with_the_first(encoder, discs_path, tmp_path, capsys):
    again = tmp_path / "again"
    again.mkdir()
    for file in ("model.json", "model.safetensors"):
        (again / file).write_bytes((encoder / file).read_bytes())
    assert few(encoder, discs_path, again, "--cases", "4") == 0
    text = capsys.readouterr().out
    assert f"AUROC − that of {encoder}" in text
    assert "+0.000  [+0.000, +0.000]" in " ".join(text.split()).replace("] [", "]  [").replace("+0.000 [", "+0.000  [")


@pytest.mark.parametrize("classifier", ["linear-probe", "prototypes"])
def test_the_classifier_as_a_model(encoder, discs_path, tmp_path, classifier, capsys):
    out = tmp_path / "model"
    assert few(encoder, discs_path, "--cases", "4", "--out", out, "--classifier", classifier) == 0
    assert f"next: medfm-compress export {out}" in capsys.readouterr().out
    model, study, before = load_model(out), open_study(discs_path), load_model(encoder)
    assert (model.task.labels, model.licence, model.spec) == (study.labels, "CC0", before.spec)
    assert model.provenance.steps[-1].startswith(f"{classifier} on the embeddings of test_resnet")
    state, old = model.module.state_dict(), before.module.state_dict()
    assert all(torch.equal(state[name], old[name]) for name in old if not name.startswith("fc."))
    inputs = network_inputs(study, study.split("test"), model.spec)
    with torch.inference_mode():
        logits = model.module(torch.from_numpy(inputs)).numpy()
    embeddings = embed(open_encoder(out), study, study.split("test"))
    np.testing.assert_allclose(logits, embeddings @ state["fc.weight"].numpy().T + state["fc.bias"].numpy(), atol=1e-3)
    assert call("export", out, "--study", discs_path, "--out", tmp_path / "m.medfm", "-q") == 0


def test_the_test_split_is_logged(encoder, discs_path, tmp_path, capsys):
    assert few(encoder, discs_path, "--cases", "4", "--split", "test") == 2
    assert "give --log FOLDER" in capsys.readouterr().err
    assert few(encoder, discs_path, "--cases", "4", "--split", "test", "--log", tmp_path / "report") == 0
    (line,) = (tmp_path / "report" / "test-evaluations.jsonl").read_text().splitlines()
    assert json.loads(line)["model_digest"] == load_model(encoder).weights_sha256()


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (("--cases", "50"), "the smallest class has 24 labelled training cases, and --cases asks for 50"),
        (("--cases", "5,x"), "--cases is 'x'; give a whole number"),
        (("--cases", "1,5"), "cases is 1,5; give different numbers, each 2 or more"),
        (("--cases", "5,5"), "give different numbers"),
        (("--split", "train"), "the classifiers learn from train: give val, or test"),
        (("--split", "nowhere"), "no labelled case in split 'nowhere'; splits with labelled cases: train (48)"),
        (("--draws", "1"), "--draws is 1; it must be 2 to 1000"),
        (("--out", "."), "--out is empty"),
    ],
)
def test_what_cannot_be_drawn_is_said(encoder, discs_path, more, sentence, capsys):
    assert call("few-labels", encoder, "--study", discs_path, *more) == 2
    assert sentence in capsys.readouterr().err


def test_what_is_no_encoder_is_said(encoder, discs_path, tmp_path, capsys):
    assert few(tmp_path, discs_path) == 2
    assert "is no encoder: it has no model.json, backbone.json or encoder.json" in capsys.readouterr().err
    assert few(encoder, discs_path, encoder) == 2
    assert "one is given twice" in capsys.readouterr().err


def test_a_classifier_on_an_encoder_of_embed_is_refused_before_it_is_opened(discs_path, tmp_path, capsys, monkeypatch):
    def opened(*_):
        raise AssertionError("it was opened")

    monkeypatch.setattr("medfm_compress.compress.few_labels.encoder.open_encoders", opened)
    (tmp_path / "embedded").mkdir()
    (tmp_path / "embedded" / "encoder.json").write_text("{}")
    assert few(tmp_path / "embedded", discs_path, "--out", tmp_path / "model") == 2
    assert "is an encoder of 'embed', which has no classifier" in capsys.readouterr().err


def test_findings_that_do_not_exclude_each_other_are_refused(encoder, tmp_path, capsys):
    from PIL import Image

    rows = ["image,split,label:a,label:b"]
    for number in range(12):
        Image.new("L", (48, 48), 20 * number).save(tmp_path / f"{number}.png")
        rows.append(f"{number}.png,{'val' if number % 3 else 'train'},{number % 2},{number // 6}")
    (tmp_path / "cases.csv").write_text("\n".join(rows) + "\n")
    assert few(encoder, tmp_path, "--cases", "2") == 2
    assert "is a multilabel study; few labels are drawn class by class" in capsys.readouterr().err


def test_a_backbone_of_pretrain_is_an_encoder(discs_path, tmp_path, capsys):
    backbone = tmp_path / "backbone"
    assert call("pretrain", "test_resnet", "--study", discs_path, "--image-size", 64, "--epochs", 1, "--batch-size", 16,
                "--device", "cpu", "--precision", "fp32", "--out", backbone, "-q") == 0  # fmt: skip
    capsys.readouterr()
    assert few(backbone, discs_path, "--cases", "4", "--out", tmp_path / "model", "--json") == 0
    assert json.loads(capsys.readouterr().out)["model"] == str(tmp_path / "model")


def test_a_network_of_two_heads_has_curves_and_no_model(discs_path, tmp_path, capsys):
    torch.manual_seed(0)
    task = Task(kind="binary", labels=("0", "1"))
    model = build_model("deit_tiny_distilled_patch16_224", task, size_px=32, colour="grey")
    save_model(model, tmp_path / "deit")
    assert few(tmp_path / "deit", discs_path, "--cases", "4", "-q") == 0
    capsys.readouterr()
    assert few(tmp_path / "deit", discs_path, "--cases", "4", "--out", tmp_path / "model") == 2
    assert "is not one linear layer on its embedding of 192; leave --out away" in capsys.readouterr().err
    assert not (tmp_path / "model").exists()


def test_an_encoder_of_embed_has_curves_and_no_model(encoder, discs_path, tmp_path, capsys):
    distilled = tmp_path / "distilled"
    learn = ("--epochs", 1, "--length", 8, "--batch-size", 16, "--device", "cpu", "--precision", "fp32", "-q")
    assert call("embed", encoder, "--study", discs_path, "--student", "test_resnet", *learn, "--out", distilled) == 0
    capsys.readouterr()
    assert few(distilled, discs_path, "--cases", "4", "--json", "-q") == 0
    assert list(json.loads(capsys.readouterr().out)["curves"]["widths"].values()) == [8]
    assert few(distilled, discs_path, "--cases", "4", "--out", tmp_path / "model") == 2
    assert "which has no classifier of its own" in capsys.readouterr().err
