"""Typicality: distances as the formula says, p-values that keep their rate, and findings withheld."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
import tiny_study
from scipy import stats
from typer.testing import CliRunner

from medfm_compress.cli.app import build_app
from medfm_compress.export.build import BundleDraft, build_bundle
from medfm_compress.export.typicality import fit_gaussian, least_validation_cases, why_not
from medfm_compress.runtime.bundle.arrays import to_npy
from medfm_compress.runtime.bundle.bundle import Bundle, rewrite_bundle, typicality_member
from medfm_compress.runtime.bundle.manifest import Provenance
from medfm_compress.runtime.engine import NOT_RELIABLE_FLAG, Engine
from medfm_compress.runtime.errors import BundleRefused, InputError
from medfm_compress.runtime.typicality import UNLIKE, describe_pixels

RATE = 0.05


def write(path, *, train=80, val=60, rate=RATE):
    draft = BundleDraft(
        name="tiny",
        spec=tiny_study.SPEC,
        task=tiny_study.TASK,
        provenance=Provenance(),
        intended_use="tests",
        false_refusal_rate=rate,
    )
    study = tiny_study.make_study(train=train, val=val, test=60)
    return build_bundle(tiny_study.make_module(), draft, path, study=study), study


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    path = tmp_path_factory.mktemp("typicality") / "a.medfm"
    write(path)
    return path


@pytest.fixture(scope="module")
def engine(bundle):
    with Engine(bundle, threads=1, unverified=True, backend="onnxruntime") as engine:
        yield engine


def usual(number):
    source = tiny_study.NotedSource()
    return np.asarray(source.read(f"test-{number}").values, dtype=np.uint8).reshape(tiny_study.SIDE, tiny_study.SIDE)


def test_the_distance_is_mahalanobis_where_every_direction_is_kept():
    random = np.random.default_rng(0)
    x = (random.normal(size=(400, 3)) * (3, 2.5, 2) + 5).astype(np.float32)
    gaussian = fit_gaussian(x)
    assert len(gaussian.basis) == 3
    covariance = np.cov(x.astype(np.float64).T, bias=True)
    y = x[:20].astype(np.float64) - x.mean(axis=0)
    expected = np.einsum("ni,ij,nj->n", y, np.linalg.inv(covariance), y)
    assert gaussian.strangeness(x[:20]) * gaussian.unit == pytest.approx(expected, rel=1e-3)


def test_the_likelihood_is_that_of_probabilistic_pca():
    """log N(x; μ, B(Λ − σ²)Bᵀ + σ²) differs from −d²/2 by a constant."""
    random = np.random.default_rng(1)
    x = (random.normal(size=(300, 4)) @ random.normal(size=(4, 12)) + random.normal(0, 0.3, (300, 12))).astype("f4")
    gaussian = fit_gaussian(x)
    basis, rest = gaussian.basis.astype(np.float64), float(gaussian.variances[-1])
    covariance = basis.T @ np.diag(gaussian.variances[:-1] - rest) @ basis + rest * np.eye(12)
    density = stats.multivariate_normal(gaussian.mean, covariance).logpdf(x[:50])
    shifted = density + gaussian.strangeness(x[:50]) * gaussian.unit / 2
    assert np.ptp(shifted) < 1e-2 and np.ptp(density) > 1


def test_false_refusals_keep_their_rate(engine):
    """At most α on average over draws; of 400 images as many as a binomial allows, and as the 60 cases may be off."""
    refused = sum(bool(engine.predict(usual(10_000 + number)).not_reliable) for number in range(400))
    assert refused / 400 <= RATE + 4 * np.sqrt(RATE * (1 - RATE) * (1 / 60 + 1 / 400))


@pytest.mark.parametrize(
    "unlike",
    [
        lambda image: 255 - image,
        np.zeros_like,
        lambda image: np.random.default_rng(0).integers(0, 256, image.shape).astype(np.uint8),
        lambda image: (image // 4).astype(np.uint8),
    ],
    ids=["inverted", "black", "noise", "dark"],
)
def test_an_unlike_image_gets_no_finding_and_a_reason(engine, unlike):
    prediction = engine.predict(unlike(usual(20_000)))
    assert prediction.probabilities == prediction.findings == {} and prediction.label is None
    assert prediction.typicality <= RATE and prediction.not_reliable in UNLIKE.values()
    assert NOT_RELIABLE_FLAG in prediction.flags


def test_a_usual_image_keeps_its_finding(engine):
    prediction = engine.predict(usual(20_002))
    assert set(prediction.probabilities) == {"spot"} and prediction.typicality > RATE
    assert prediction.not_reliable == "" and NOT_RELIABLE_FLAG not in prediction.flags


def test_flagged_instead_of_withheld(bundle):
    with Engine(bundle, threads=1, unverified=True) as engine:
        prediction = engine.predict(np.zeros((32, 32), np.uint8), atypical="flag")
    assert prediction.probabilities and prediction.not_reliable and NOT_RELIABLE_FLAG in prediction.flags


def test_every_variant_tells(bundle):
    for variant in Bundle.open(bundle).manifest.variants:
        with Engine(bundle, threads=1, unverified=True, backend=variant.backend) as engine:
            assert engine.predict(np.zeros((32, 32), np.uint8)).not_reliable
            assert engine.predict(usual(20_002)).typicality > RATE


@pytest.mark.parametrize(("train", "val", "what"), [(20, 60, "20 training cases"), (80, 10, "10 validation cases")])
def test_too_small_a_study_stores_nothing_and_says_so(tmp_path, train, val, what):
    manifest, study = write(tmp_path / "a.medfm", train=train, val=val)
    assert manifest.typicality is msgspec.UNSET and manifest.schema_version < 5
    assert what in why_not(study, RATE) and any(what in step for step in manifest.provenance.steps)
    with Engine(tmp_path / "a.medfm", threads=1, unverified=True) as engine:
        prediction = engine.predict(np.zeros((32, 32), np.uint8))
    assert prediction.typicality is None and prediction.probabilities


def test_the_rate_needs_as_many_validation_cases():
    for rate, least in ((0.05, 19), (0.01, 99), (0.5, 1)):
        assert least_validation_cases(rate) == least
        assert 1 / (least + 1) <= rate < 1 / least


def test_statistics_are_part_of_the_model(bundle, tmp_path):
    opened = Bundle.open(bundle)
    other = to_npy(np.full(60, 1e9, np.float32))
    member = typicality_member(opened.manifest.variants[0].name)
    assert rewrite_bundle(opened, tmp_path / "b.medfm", files={member: other}).model_digest != opened.model_digest


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("features-directions", np.zeros((3, 5), np.float32)),
        ("features-directions", np.zeros((0, 32), np.float32)),
        ("features-directions", np.zeros((1, 32), np.float32)),
        ("features-variances", np.full(4, -1, np.float32)),
        ("pixels-directions", np.full((2, 20), np.nan, np.float32)),
        ("onnxruntime-cpu-fp32", np.zeros((2, 2), np.float32)),
        ("onnxruntime-cpu-fp32", np.zeros(60, np.float64)),
    ],
)
def test_statistics_that_do_not_fit_are_refused(bundle, tmp_path, name, values):
    files = {typicality_member(name): to_npy(values)}
    if len(values) < 2 and "directions" in name:
        files[typicality_member(name.replace("directions", "variances"))] = to_npy(np.ones(len(values) + 1, np.float32))
    rewrite_bundle(bundle, tmp_path / "b.medfm", files=files)
    with pytest.raises(BundleRefused):
        Engine(tmp_path / "b.medfm", threads=1, unverified=True, backend="onnxruntime")


def test_an_unknown_way_of_dealing_with_it_is_refused(engine):
    with pytest.raises(InputError, match="withhold"):
        engine.predict(usual(20_002), atypical="ignore")


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 3, 2, 5), (1, 3, 224, 224), (1, 1, 512, 40)])
def test_pixels_are_described_at_any_size(shape):
    described = describe_pixels(np.random.default_rng(0).random(shape, dtype=np.float32))
    assert described.shape == (shape[0], 26 if shape[1] == 3 else 20) and np.isfinite(described).all()


def test_cases_are_described_one_by_one_as_together():
    x = np.random.default_rng(0).random((5, 3, 40, 30), dtype=np.float32)
    alone = np.concatenate([describe_pixels(x[i : i + 1]) for i in range(5)])
    assert describe_pixels(x) == pytest.approx(alone, abs=1e-5)


def test_inspect_verifies_it_too(bundle, tmp_path):
    rewrite_bundle(
        bundle,
        tmp_path / "b.medfm",
        files={typicality_member("onnxruntime-cpu-fp32"): to_npy(np.zeros(60, np.float64))},
    )
    shown = CliRunner().invoke(build_app(), ["inspect", str(tmp_path / "b.medfm"), "--verify", "--json"])
    rows = {row["name"]: row["verification"] for row in msgspec.json.decode(shown.stdout)["variants"]}
    assert "typicality" in rows["onnxruntime-cpu-fp32"] and rows["openvino-cpu-fp32"] == "agrees"
