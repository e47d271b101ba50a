"""Fitting: what is abnormal scores higher, a saved model is the same again, and what cannot be fitted is said."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import onnxruntime
import pytest
import torch

from medfm_compress.bench.stats.auroc import auroc
from medfm_compress.compress.anomaly.fit import fit_anomaly_model
from medfm_compress.compress.anomaly.nearest_cases import FILE, load_nearest_cases
from medfm_compress.compress.anomaly.open_encoder import OpenedEncoder, open_encoder
from medfm_compress.compress.anomaly.options import AnomalyFit, EncoderSource
from medfm_compress.compress.networks.build import build_model
from medfm_compress.compress.networks.model import Model, load_model, save_model
from medfm_compress.data.fingerprint import content_hashes
from medfm_compress.data.normal_labels import normal_cases
from medfm_compress.data.open import open_study
from medfm_compress.data.study import Study
from medfm_compress.export.cases import network_inputs
from medfm_compress.export.module_outputs import module_outputs
from medfm_compress.runtime.errors import InputError, ModelError, StudyError
from medfm_compress.runtime.task import Task

SCORERS = ("knn", "mahalanobis", "patches")


@pytest.fixture(scope="module")
def study(anomaly_folder: Path) -> Study:
    return open_study(anomaly_folder, normal=("normal",))


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier with random weights: its features tell stripes from squares all the same."""
    torch.manual_seed(0)
    task = Task(kind="binary", labels=("no", "yes"))
    model = build_model("resnet10t", task, size_px=64, colour="grey")
    return save_model(model, tmp_path_factory.mktemp("classifier"))


def opened(classifier: Path, study: Study) -> OpenedEncoder:
    return open_encoder(EncoderSource(encoder=str(classifier)), study)


@pytest.fixture(scope="module")
def fitted(classifier: Path, study: Study, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Model, Path]]:
    folder = tmp_path_factory.mktemp("fitted")
    models = {}
    for name in SCORERS:
        storage = "int8" if name == "patches" else "float16"
        options = AnomalyFit(scorer=name, length=16, memory_rows=300, storage=storage)
        model = fit_anomaly_model(study, opened(classifier, study), options, folder / name, lambda _: None)
        assert "fitted" in model.provenance.steps[-1]
        models[name] = (model, folder / name)
    return models


@pytest.mark.parametrize("scorer", SCORERS)
def test_more_neighbours_than_rows_are_refused_before_an_image_is_read(scorer: str) -> None:
    if scorer == "mahalanobis":  # which has no memory
        AnomalyFit(scorer=scorer, neighbours=5, memory_rows=3)
        return
    with pytest.raises(InputError, match="5 neighbours are taken and the memory has at most 3 rows"):
        AnomalyFit(scorer=scorer, neighbours=5, memory_rows=3)


def test_what_is_abnormal_scores_higher_and_the_usual_normal_image_scores_0(
    fitted: dict[str, tuple[Model, Path]], study: Study
) -> None:
    for name, (model, _) in fitted.items():
        outputs = module_outputs(model.module)
        cases = study.split("test")
        scores = outputs(network_inputs(study, cases, model.spec))["logits"][:, 0]
        assert auroc(scores, np.array([case.target[0] for case in cases])) > 0.95, name
        val = outputs(network_inputs(study, normal_cases(study, "val"), model.spec))["logits"]
        assert abs(float(np.median(val))) < 0.7, name
        assert model.task == Task(kind="anomaly", labels=("abnormal",), normal=("normal",))


def test_a_saved_model_answers_alike(fitted: dict[str, tuple[Model, Path]]) -> None:
    images = np.random.default_rng(0).normal(size=(2, 1, 64, 64)).astype(np.float32)
    for model, folder in fitted.values():
        again = load_model(folder)
        assert (again.task, again.architecture) == (model.task, model.architecture)
        one, other = (module_outputs(module)(images) for module in (model.module, again.module))
        assert list(one) == list(other)
        for name, values in one.items():
            np.testing.assert_array_equal(values, other[name])


def test_a_training_image_is_nearest_to_itself(fitted: dict[str, tuple[Model, Path]], study: Study) -> None:
    train = normal_cases(study, "train")
    hashes = content_hashes(study.source, [case.image for case in train])
    for name in ("knn", "patches"):
        model, folder = fitted[name]
        assert load_nearest_cases(folder) == tuple(hashes)
        nearest = module_outputs(model.module)(network_inputs(study, train[:6], model.spec))["nearest"]
        assert nearest.shape == (6, 5)
        if name == "knn":
            assert nearest[:, 0].tolist() == [0, 1, 2, 3, 4, 5]
        assert set(nearest.flatten().tolist()) <= set(map(float, range(len(train))))
    assert load_nearest_cases(fitted["mahalanobis"][1]) == ()


def test_the_map_has_its_greatest_value_as_the_score_and_points_at_the_square(
    fitted: dict[str, tuple[Model, Path]], study: Study
) -> None:
    model, _ = fitted["patches"]
    cases = [case for case in study.split("test") if case.target == (1,)]
    inputs = network_inputs(study, cases, model.spec)
    answers = module_outputs(model.module)(inputs)
    maps = answers["anomaly_map"]
    assert maps.shape == (len(cases), 1, 8, 8)
    np.testing.assert_allclose(maps.max((1, 2, 3)), answers["logits"][:, 0], rtol=1e-6)
    pixels = np.abs(inputs - np.median(inputs, axis=(2, 3), keepdims=True)) > 1.5
    for anomaly_map, wrong in zip(maps[:, 0], pixels[:, 0], strict=True):
        row, column = np.unravel_index(anomaly_map.argmax(), anomaly_map.shape)
        around = wrong[max(0, 8 * row - 8) : 8 * row + 16, max(0, 8 * column - 8) : 8 * column + 16]
        assert around.any()


def test_it_traces_to_operators_of_onnx_that_compute_the_same(
    fitted: dict[str, tuple[Model, Path]], study: Study, tmp_path: Path
) -> None:
    inputs = network_inputs(study, study.split("test")[:4], fitted["knn"][0].spec)
    for name, (model, _) in fitted.items():
        path = tmp_path / f"{name}.onnx"
        torch.onnx.export(
            model.module, (torch.zeros(1, 1, 64, 64),), path, dynamo=True, verbose=False,
            input_names=["image"], output_names=list(model.module.output_names),  # type: ignore[arg-type]
        )  # fmt: skip
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        expected = module_outputs(model.module)(inputs)
        for number in range(len(inputs)):
            for output, value in zip(expected, session.run(None, {"image": inputs[number : number + 1]}), strict=True):
                np.testing.assert_allclose(value[0], expected[output][number], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("options", "error", "sentence"),
    [
        (AnomalyFit(memory_budget_mb=1e-5), InputError, "need .* MB and the budget is 1e-05 MB"),
        (AnomalyFit(scorer="mahalanobis", memory_budget_mb=1e-3), InputError, "smaller --length"),
        (AnomalyFit(neighbours=30), InputError, "30 neighbours are taken and the memory has 24 rows"),
        (AnomalyFit(length=4000), ModelError, "the length is 4000; the encoder's embedding has"),
    ],
)
def test_what_cannot_be_fitted_is_said_and_nothing_is_written(
    options: AnomalyFit, error: type[Exception], sentence: str, classifier: Path, study: Study, tmp_path: Path
) -> None:
    with pytest.raises(error, match=sentence):
        fit_anomaly_model(study, opened(classifier, study), options, tmp_path / "out", lambda _: None)
    assert not (tmp_path / "out" / "model.json").exists()


def test_a_budget_is_kept_by_choosing_fewer_rows(classifier: Path, study: Study, tmp_path: Path) -> None:
    options = AnomalyFit(scorer="patches", length=16, memory_budget_mb=0.002, neighbours=3)
    model = fit_anomaly_model(study, opened(classifier, study), options, tmp_path, lambda _: None)
    buffers = model.module.scorer.memory.buffers()  # type: ignore[union-attr,operator]
    assert 1900 < sum(buffer.nbytes for buffer in buffers) <= 2000


def test_too_few_normal_cases_are_refused(classifier: Path, study: Study, tmp_path: Path) -> None:
    few = msgspec.structs.replace(study, cases=tuple(c for c in study.cases if c.split != "val"))
    with pytest.raises(StudyError, match="0 normal cases in split 'val'; at least 8"):
        fit_anomaly_model(few, opened(classifier, study), AnomalyFit(), tmp_path, lambda _: None)
    plain = open_study(study.root)
    with pytest.raises(StudyError, match="names no normal labels"):
        fit_anomaly_model(plain, opened(classifier, study), AnomalyFit(), tmp_path, lambda _: None)


def test_other_files_than_its_own_are_refused(
    fitted: dict[str, tuple[Model, Path]], classifier: Path, study: Study
) -> None:
    model, folder = fitted["knn"]
    with pytest.raises(ModelError, match="is a model of kind anomaly"):
        open_encoder(EncoderSource(encoder=str(folder)), study)
    with pytest.raises(ModelError, match="leave --image-size out"):
        open_encoder(EncoderSource(encoder=str(classifier), image_size=64), study)
    with pytest.raises(ModelError, match="resnet10t has no weights"):
        open_encoder(EncoderSource(encoder="resnet10t"), study)
    with pytest.raises(ModelError, match="has feature maps 0 to 4"):
        open_encoder(EncoderSource(encoder=str(classifier), level=(2, 9)), study)
    text = (folder / FILE).read_text()
    (folder / FILE).write_text(text.replace(model.weights_sha256(), "0" * 64))
    with pytest.raises(ModelError, match="belongs to another model"):
        load_nearest_cases(folder)
    (folder / FILE).write_text(text)
