"""A bundle with a reference, and a device that runs it."""

from __future__ import annotations

import numpy as np
import pytest
from released_bundle import as_release

from medfm_compress.runtime import Bundle, DeviceFolder, Engine
from medfm_compress.runtime.bundle.bundle import rewrite_bundle
from medfm_compress.runtime.device.options import DeviceOptions
from medfm_compress.runtime.monitor.reference import input_features, make_reference, reference_member


def images(count, seed, shift=0.0):
    """Grey images whose brightness varies."""
    random = np.random.default_rng(seed)
    for _ in range(count):
        level = random.normal(110 + shift, 15)
        yield random.normal(level, 30, (40, 36)).clip(0, 255).astype(np.uint8)


def add_reference(path, target, spacing=None):
    bundle = Bundle.open(path)
    inputs, scores = [], []
    with Engine(path, threads=1) as engine:
        for image in images(150, seed=1):
            prediction, seen = engine.predict_with_input(image)
            inputs.append(input_features(seen._replace(spacing_mm=spacing), engine.manifest.image_spec))
            scores.append(prediction.probabilities["opacity"])
    reference = make_reference(bundle, "val", inputs, {"onnxruntime-cpu-fp32": {"opacity": scores}})
    rewrite_bundle(bundle, target, files=reference_member(reference))
    return target


@pytest.fixture(scope="session")
def watched(tiny, tmp_path_factory):
    """Path of a passed bundle of release 1 with a reference."""
    folder = tmp_path_factory.mktemp("watched")
    plain = tiny.bundle(folder / "plain.medfm", (tiny.ORT,))
    return as_release(add_reference(plain, folder / "with.medfm"), folder / "watched.medfm", 1)


@pytest.fixture
def make_images():
    """``make_images(count, seed, shift) -> iterator of images``."""
    return images


@pytest.fixture
def device(watched, tmp_path):
    """A device that runs the bundle with a reference."""
    device = DeviceFolder(tmp_path / "device", options=DeviceOptions(backend="onnxruntime", threads=1, trial=0))
    device.install(watched)
    device.activate()
    return device
