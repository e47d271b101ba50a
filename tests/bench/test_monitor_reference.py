"""A reference is of what the device would see: inputs, scores and typicality of each variant."""

from __future__ import annotations

import numpy as np
import pytest
import tiny_study

from medfm_compress.bench.monitor_reference import add_reference
from medfm_compress.export.build import BundleDraft, build_bundle
from medfm_compress.runtime import Bundle, Engine
from medfm_compress.runtime.bundle.manifest import Provenance
from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.monitor.reference import input_features, output_features, read_reference


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Path of a bundle that tells typicality, with a reference; the study."""
    folder = tmp_path_factory.mktemp("reference")
    study = tiny_study.make_study(train=80, val=60, test=30)
    draft = BundleDraft(
        name="tiny",
        spec=tiny_study.SPEC,
        task=tiny_study.TASK,
        provenance=Provenance(),
        intended_use="tests",
        false_refusal_rate=0.05,
    )
    build_bundle(tiny_study.make_module(), draft, folder / "plain.medfm", study=study)
    add_reference(Bundle.open(folder / "plain.medfm"), study, folder / "with.medfm")
    return folder / "with.medfm", study


def test_it_counts_what_the_engine_gives(made):
    path, study = made
    with Engine(path, threads=1, unverified=True, backend="onnxruntime") as engine:
        reference = read_reference(engine.bundle, engine.variant)
        known = reference.features(engine.variant.name)
        counts = {name: [0] * len(histogram.counts) for name, histogram in known.items()}
        for case in study.split("val"):
            pixels = study.source.read(case.image)
            image = np.asarray(pixels.values, dtype=pixels.values.dtype)
            prediction, seen = engine.predict_with_input(image, atypical="flag")
            values = input_features(seen, engine.manifest.image_spec) | output_features(prediction, seen)
            for name, histogram in known.items():
                counts[name][histogram.bin_of(values[name])] += 1
    findings = {f"score of {name}" for name in tiny_study.TASK.findings}
    assert set(known) == {"mean intensity", "spread of intensity", "typicality", *findings}
    for name, histogram in known.items():  # a value may stand on an edge that was rounded
        assert sum(abs(a - b) for a, b in zip(counts[name], histogram.counts, strict=True)) <= 2, name


def test_every_variant_has_its_own(made):
    reference = read_reference(Bundle.open(made[0]), Bundle.open(made[0]).manifest.variants[0])
    names = {variant.name for variant in Bundle.open(made[0]).manifest.variants}
    assert set(reference.scores) == set(reference.typicality) == names


def test_too_few_cases_write_nothing(made, tmp_path):
    with pytest.raises(InputError, match="at least 50"):
        add_reference(Bundle.open(made[0]), made[1], tmp_path / "out.medfm", split="test")
    assert not (tmp_path / "out.medfm").exists()


def test_what_was_trained_on_is_no_reference(made, tmp_path):
    with pytest.raises(InputError, match="the split is train"):
        add_reference(Bundle.open(made[0]), made[1], tmp_path / "out.medfm", split="train")
