"""Heat maps from the run that gave the finding: evidence, geometry, the engine, the command."""

from __future__ import annotations

import numpy as np
import pytest
import tiny_study
from PIL import Image
from typer.testing import CliRunner

from medfm_compress.cli.app import build_app
from medfm_compress.export.build import BundleDraft, build_bundle
from medfm_compress.runtime.bundle.bundle import Bundle
from medfm_compress.runtime.bundle.manifest import Provenance
from medfm_compress.runtime.class_activation import ClassActivation, on_image, on_input
from medfm_compress.runtime.engine import Engine
from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.heat_map import heat_map
from medfm_compress.runtime.image_spec import ImageSpec
from medfm_compress.runtime.occlusion import log_odds
from medfm_compress.runtime.task import Task


def write(path, *, heat_map, module=None):
    draft = BundleDraft(
        name="tiny",
        spec=tiny_study.SPEC,
        task=tiny_study.TASK,
        provenance=Provenance(),
        intended_use="tests",
        false_refusal_rate=0,
        heat_map=heat_map,
    )
    build_bundle(module or tiny_study.make_module(), draft, path)
    return path


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    folder = tmp_path_factory.mktemp("activation")
    return {wanted: write(folder / f"{wanted}.medfm", heat_map=wanted) for wanted in (True, False)}


def image(tmp_path, size=(50, 40)):
    values = np.random.default_rng(0).integers(0, 255, size, dtype=np.uint8)
    path = tmp_path / "a.png"
    Image.fromarray(values).save(path)
    return path


@pytest.mark.parametrize("kind", ["binary", "multiclass", "multilabel"])
def test_evidence_is_what_a_place_adds_to_the_log_odds(kind):
    random = np.random.default_rng(0)
    labels = ("a", "b") if kind == "binary" else ("a", "b", "c")
    task = Task(kind=kind, labels=labels)
    maps, logits = random.normal(size=(len(labels), 3, 4)), random.normal(size=len(labels))
    finding, step = task.findings[-1], 1e-5
    evidence = ClassActivation(maps, logits).evidence(task, finding)
    for row, column in ((0, 0), (2, 3)):
        moved = logits + step * maps[:, row, column]
        slope = (log_odds(moved[None], task, finding)[0] - log_odds(logits[None], task, finding)[0]) / step
        assert evidence[row, column] == pytest.approx(slope, abs=1e-3)
    with pytest.raises(InputError, match="choose of"):
        ClassActivation(maps, logits).evidence(task, "z")


@pytest.mark.parametrize("resize", ["stretch", "longest", "shortest"])
@pytest.mark.parametrize("size", [(60, 100), (100, 60), (32, 32)])
def test_a_map_lies_where_the_network_saw_it(resize, size):
    """A map of the network's own brightness, laid on the image, is the image where it was seen."""
    from medfm_compress.runtime.images.pixels import Pixels
    from medfm_compress.runtime.preprocess import prepare

    spec = ImageSpec(
        height_px=32, width_px=32, colour="grey", mean=(0.5,), std=(0.25,), resize=resize, filter="bilinear",
        crop_fraction=1.0 if resize == "longest" else 0.8,
    )  # fmt: skip
    y, x = np.mgrid[: size[0], : size[1]]
    values = (y / size[0] * 100 + x / size[1] * 100 + 50).astype(np.uint8)
    seen = prepare(Pixels.from_integers(values), spec)[0]
    laid = on_image(seen, spec, *size)
    known = laid != 0
    if resize == "longest":  # what lies beside the image reaches into it by half a place
        known = np.zeros(size, bool)
        known[4:-4, 4:-4] = True
    assert 0.3 < known.mean() <= 1
    assert np.abs(laid - values / 255)[known].max() < 0.06
    if resize == "shortest" and size[0] != size[1]:
        assert not known.all()


def test_a_place_is_its_cell():
    spec = ImageSpec(height_px=32, width_px=64, colour="grey", mean=(0.5,), std=(0.25,))
    places = np.zeros((4, 8), np.float32)
    places[1, 6] = 1
    heat = on_input(places, spec)
    assert heat.shape == (32, 64) and heat.max() == heat[11:13, 51:53].max()


def test_it_is_exported_on_demand_alone(bundles):
    with_maps, without = (Bundle.open(bundles[wanted]).manifest for wanted in (True, False))
    assert with_maps.schema_version == 7 and with_maps.cam.shape == (1, 2, 8, 8)
    assert without.schema_version < 7 and without.cam is None and len(without.outputs) == 1
    assert any("class activation maps of 8 × 8" in step for step in with_maps.provenance.steps)


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_an_engine_gives_it_with_the_finding(bundles, backend, tmp_path):
    if backend == "openvino":
        pytest.importorskip("openvino")
    with Engine(bundles[True], backend=backend, threads=1, unverified=True) as engine:
        prediction, seen = engine.predict_with_input(image(tmp_path))
        heat = heat_map(engine, seen.tensor, prediction)
    with Engine(bundles[False], backend=backend, threads=1, unverified=True) as plain:
        same, unseen = plain.predict_with_input(image(tmp_path))
        occluded = heat_map(plain, unseen.tensor, same)
    assert same.probabilities == pytest.approx(prediction.probabilities, abs=1e-6) and unseen.activation is None
    assert heat.method == "class activation" and occluded.method == "occlusion"
    assert heat.evidence.shape == heat.picture.shape[:2] == (32, 32)
    assert seen.activation.maps.shape == (2, 8, 8)


def test_the_command_draws_it_at_the_images_own_size(bundles, tmp_path):
    out = tmp_path / "maps"
    source = image(tmp_path)
    arguments = ["run", str(bundles[True]), str(source), str(source), "--unverified", "--heatmap", str(out)]
    done = CliRunner().invoke(build_app(), arguments)
    assert done.exit_code == 0 and "2 heat maps" in done.output, done.output
    assert sorted(path.name for path in out.iterdir()) == ["a-2.png", "a.png"]
    with Image.open(out / "a.png") as picture:
        assert picture.size[0] >= 40 and picture.size[1] > 90 and picture.mode == "RGB"  # the image, and a legend
        pixels = np.asarray(picture).astype(int)
        assert np.ptp(pixels[:50, :40], axis=2).max() > 20  # in colour somewhere
        assert pixels[:50, 40:].max() == 0 and pixels[50:].max() == 255  # the legend touches no pixel of the image
    again = CliRunner().invoke(build_app(), arguments)
    assert isinstance(again.exception, InputError) and "new or empty folder" in str(again.exception)


def test_a_bundle_without_says_how_to_get_one(bundles, tmp_path):
    arguments = [
        "run",
        str(bundles[False]),
        str(image(tmp_path)),
        "--unverified",
        "--heatmap",
        str(tmp_path / "m"),
    ]
    done = CliRunner().invoke(build_app(), arguments)
    assert isinstance(done.exception, InputError) and "--heat-map" in str(done.exception)
    assert not (tmp_path / "m").exists()


@pytest.fixture(scope="module")
def of_class_token(tmp_path_factory):
    """A bundle of a ViT that reads its class token."""
    timm = pytest.importorskip("timm")
    import torch

    torch.manual_seed(0)
    sizes = {"img_size": 32, "patch_size": 8, "in_chans": 1, "embed_dim": 32, "depth": 2, "num_heads": 2}
    module = timm.create_model("vit_tiny_patch16_224", num_classes=2, **sizes).eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return write(tmp_path_factory.mktemp("token") / "vit.medfm", heat_map=True, module=module)


def test_every_engine_gives_a_class_tokens_map_and_calls_it_one(of_class_token, tmp_path):
    manifest = Bundle.open(of_class_token).manifest
    assert (manifest.cam.name, manifest.cam.shape) == ("class_token_cam", (1, 2, 4, 4))
    assert any("class token in the last attention, of 4 × 4 places" in step for step in manifest.provenance.steps)
    evidence = []
    for variant in manifest.variants:
        with Engine(of_class_token, backend=variant.backend, threads=1, unverified=True) as engine:
            prediction, seen = engine.predict_with_input(image(tmp_path))
            heat = heat_map(engine, seen.tensor, prediction)
        assert heat.method == "class token attention" and heat.evidence.shape == (32, 32)
        evidence.append(heat.evidence)
    assert np.ptp(evidence[0]) > 0
    for other in evidence[1:]:
        assert other == pytest.approx(evidence[0], abs=0.02 * float(np.abs(evidence[0]).max()))


def test_the_legend_of_a_class_tokens_map_names_its_method():
    from medfm_compress.runtime.heat_map import HeatMap
    from medfm_compress.runtime.heat_map_legend import legend_lines

    evidence = np.array([[0.0, 2.0]], np.float32)
    heat = HeatMap("spot", evidence, np.zeros((1, 2, 3), np.uint8), "class token attention")
    assert legend_lines(heat, "spot", 0.75) == [
        "spot: probability 0.75",
        "AI heat map (class token attention): what patches add to its log-odds on average in the last attention, "
        "at most 2.00",
    ]
