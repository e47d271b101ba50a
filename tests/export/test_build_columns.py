"""A network that takes columns beside the image, from the module to a bundle that predicts from its named inputs."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
import tiny_study
import torch
from torch import Tensor, nn

from medfm_compress.bench.evaluate.evaluate import evaluate
from medfm_compress.data.study import Study
from medfm_compress.export.build import BundleDraft, build_bundle
from medfm_compress.export.cases import case_inputs
from medfm_compress.export.onnx_export import export_onnx
from medfm_compress.export.parity import check_parity, module_logits
from medfm_compress.runtime import Engine
from medfm_compress.runtime.bundle.bundle import Bundle
from medfm_compress.runtime.bundle.manifest import Provenance
from medfm_compress.runtime.columns import CategoricalColumn, Column, NumericColumn
from medfm_compress.runtime.errors import InputError, ModelError, StudyError
from medfm_compress.runtime.golden_cases import replay_goldens
from medfm_compress.runtime.sessions.table import open_session_from_bytes, open_variant

AGE = NumericColumn(name="age", unit="years", minimum=0, maximum=110, mean=50, standard_deviation=20)
SEX = CategoricalColumn(name="sex", categories=("F", "M"), missing="category", dicom="PatientSex")
COLUMNS: tuple[Column, ...] = (AGE, SEX)


class Fused(nn.Module):
    """An encoder, and a head that reads its embedding and the columns side by side, or scaled by them."""

    def __init__(self, *, film: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder = nn.Sequential(nn.Conv2d(1, 16, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.film = film
        self.scale = nn.Linear(4, 16)
        self.head = nn.Linear(16 if film else 20, 2)

    def forward(self, image: Tensor, *columns: Tensor) -> Tensor:
        embedding, beside = self.encoder(image), torch.cat(columns, dim=1)
        if self.film:
            return self.head(embedding * (1 + self.scale(beside)))
        return self.head(torch.cat((embedding, beside), dim=1))


def study_with_columns(**sizes: int) -> Study:
    study = tiny_study.make_study(**sizes)
    cases = tuple(
        msgspec.structs.replace(case, subgroups={"age": str(20 + number % 60), "sex": ("F", "M", "")[number % 3]})
        for number, case in enumerate(study.cases)
    )
    return msgspec.structs.replace(study, cases=cases)


def draft(**changes: object) -> BundleDraft:
    plain = BundleDraft(
        name="fused",
        spec=tiny_study.SPEC,
        task=tiny_study.TASK,
        provenance=Provenance(teacher="tiny@0", teacher_licence="Apache-2.0"),
        intended_use="testing",
        columns=COLUMNS,
    )
    return msgspec.structs.replace(plain, **changes)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    path = tmp_path_factory.mktemp("fused") / "fused.medfm"
    study = study_with_columns(train=72, val=110)
    build_bundle(Fused(), draft(), path, study=study)
    return path, study


def test_every_engine_has_the_columns_as_inputs_and_computes_what_the_module_does(built) -> None:
    path, study = built
    bundle = Bundle.open(path)
    manifest = bundle.manifest
    assert manifest.schema_version == 8 and manifest.columns == COLUMNS
    assert [(t.name, t.role, t.shape) for t in manifest.inputs][1:] == [
        ("age", "column", (1, 1)),
        ("sex", "column", (1, 3)),
    ]
    inputs = case_inputs(study, study.split("test"), tiny_study.SPEC, COLUMNS)
    expected = module_logits(Fused())(inputs)
    for variant in manifest.variants:
        session = open_variant(bundle, variant, 1)
        assert replay_goldens(bundle, variant, session) < 1e-5
        answers = evaluate(
            session, study, study.split("test"), tiny_study.SPEC, manifest.task, name="x", columns=COLUMNS
        )
        np.testing.assert_allclose(answers.logits, expected, atol=2e-2 if variant.backend == "openvino" else 1e-4)
    assert {variant.backend for variant in manifest.variants} >= {"onnxruntime"}


def test_how_usual_an_image_is_does_not_hang_on_its_columns(built) -> None:
    path, study = built
    image = study.source.read("test-2001").values
    with Engine(path, unverified=True) as engine:
        assert engine.manifest.outputs[1].shape == (1, 16)
        answers = [engine.predict(image, columns={"age": age, "sex": sex}) for age, sex in ((3, "F"), (99, None))]
    assert answers[0].typicality == answers[1].typicality is not None
    assert answers[0].probabilities != answers[1].probabilities


@pytest.mark.parametrize("film", [False, True], ids=["concatenation", "film"])
def test_parity_of_named_inputs(film: bool) -> None:
    module = Fused(film=film).eval()
    exported = export_onnx(module, tiny_study.SPEC, tiny_study.TASK, columns=COLUMNS, features=True)
    names = [value.name for value in onnx.load_model_from_string(exported.content).graph.input]
    assert names == ["image", "age", "sex"] and exported.exporter == "dynamo"
    session = open_session_from_bytes("onnxruntime", [exported.content], 1, "fp32")
    assert session.output_names == ("logits", "features")
    parity = check_parity(module_logits(module), session, tiny_study.SPEC, tiny_study.TASK, columns=COLUMNS)
    assert parity.relative_logit_error < 1e-5
    with pytest.raises(InputError, match="does not compute"):
        check_parity(module_logits(Fused(film=not film)), session, tiny_study.SPEC, tiny_study.TASK, columns=COLUMNS)


def test_a_column_that_the_network_does_not_read() -> None:
    class Deaf(Fused):
        def forward(self, image: Tensor, *columns: Tensor) -> Tensor:
            return super().forward(image, columns[0], torch.zeros(1, 3))

    with pytest.raises(ModelError, match="'sex'"):
        export_onnx(Deaf(), tiny_study.SPEC, tiny_study.TASK, columns=COLUMNS)


def test_columns_of_other_widths_than_the_module_takes() -> None:
    with pytest.raises(ModelError, match=r"\(1, 1, 32, 32\) and \(1, 1\)"):
        export_onnx(Fused(), tiny_study.SPEC, tiny_study.TASK, columns=(AGE,))


def test_a_study_without_the_column_or_with_an_unknown_category(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="no column 'age'"):
        build_bundle(Fused(), draft(), tmp_path / "a.medfm", study=tiny_study.make_study())
    study = study_with_columns()
    odd = tuple(msgspec.structs.replace(case, subgroups={"age": "40", "sex": "X"}) for case in study.cases)
    with pytest.raises(StudyError, match="takes F, M"):
        build_bundle(Fused(), draft(), tmp_path / "a.medfm", study=msgspec.structs.replace(study, cases=odd))
    assert not list(tmp_path.iterdir())


def test_an_attribute_that_identifies_is_refused_before_anything_is_exported(tmp_path: Path) -> None:
    named = msgspec.structs.replace(SEX, dicom="PatientID")
    with pytest.raises(InputError, match="may identify a patient"):
        build_bundle(Fused(), draft(columns=(AGE, named)), tmp_path / "a.medfm")


def test_class_activation_maps_are_not_given_and_said(tmp_path: Path) -> None:
    manifest = build_bundle(Fused(), draft(heat_map=True), tmp_path / "a.medfm")
    assert manifest.cam is None
    assert any("no heat map: the classifier reads columns" in step for step in manifest.provenance.steps)
