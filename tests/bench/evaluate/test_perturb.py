"""Perturbed images: as strong as declared, the same for every model, at their own size."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
import tiny_study

from medfm_compress.bench.evaluate.perturb import perturb, perturbed_study
from medfm_compress.bench.types.perturbation import PERTURBATIONS, SEVERITIES, STRENGTHS
from medfm_compress.data.open import open_study
from medfm_compress.data.sources import Files, with_rules
from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.image_spec import DicomRules
from medfm_compress.runtime.images.pixels import Pixels

KEYS = ("a.png", "b.png", "c.png", "d.png", "e.png", "f.png")


def image(shape=(64, 48), dtype=np.uint16):
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    values = (np.sin(rows / 9) * np.cos(columns / 7) / 4 + 0.5) * np.iinfo(dtype).max
    return Pixels.from_integers((values if len(shape) == 2 else values[..., None] * np.ones(3)).astype(dtype), ("f",))


def plain(pixels):
    return (pixels.values - pixels.low) / (pixels.high - pixels.low)


@pytest.mark.parametrize("name", PERTURBATIONS)
@pytest.mark.parametrize("shape", [(64, 48), (64, 48, 3), (1, 1), (2, 500)])
def test_every_perturbation_keeps_size_range_and_flags(name, shape):
    for severity in SEVERITIES:
        changed = perturb(image(shape), name, severity, "a.png")
        assert changed.values.shape == shape and changed.values.dtype == np.float32 and changed.flags == ("f",)
        assert (changed.low, changed.high) == (0, 1) and 0 <= changed.values.min() <= changed.values.max() <= 1


@pytest.mark.parametrize("name", PERTURBATIONS)
def test_a_higher_severity_changes_more(name):
    sizes = [np.abs(perturb(image(), name, s, "a.png").values - plain(image())).mean() for s in SEVERITIES]
    assert 0 < sizes[0] < sizes[1] < sizes[2]


@pytest.mark.parametrize("name", PERTURBATIONS)
def test_the_key_alone_decides(name):
    one, again = (perturb(image(), name, 2, "a.png").values for _ in range(2))
    assert np.array_equal(one, again)
    variants = {perturb(image(), name, 2, key).values.tobytes() for key in KEYS}
    assert len(variants) == {"noise": 6, "contrast": 1, "jpeg": 1, "blur": 1}.get(name, len(variants))
    if name in ("exposure", "gamma", "rotation", "shift"):
        assert len(variants) >= 2  # both signs are met


def test_strengths_are_what_is_declared():
    flat = Pixels(np.full((200, 200), 0.5, np.float32), 0.0, 1.0)
    for severity in SEVERITIES:
        noise = perturb(flat, "noise", severity, "a").values - 0.5
        assert noise.std() == pytest.approx(STRENGTHS["noise"][severity - 1], rel=0.02) and abs(noise.mean()) < 1e-3
        exposed = perturb(flat, "exposure", severity, "a").values[0, 0] / 0.5
        assert abs(np.log2(exposed)) == pytest.approx(STRENGTHS["exposure"][severity - 1], rel=1e-5)
        power = np.log(perturb(flat, "gamma", severity, "a").values[0, 0]) / np.log(0.5)
        assert max(power, 1 / power) == pytest.approx(STRENGTHS["gamma"][severity - 1], rel=1e-5)


def test_a_blur_keeps_the_mean_and_has_its_width():
    point = np.zeros((401, 401), np.float32)
    point[200, 200] = 1
    blurred = perturb(Pixels(point, 0.0, 1.0), "blur", 3, "a").values.astype(np.float64)
    sigma = STRENGTHS["blur"][2] * 401
    spread = np.sqrt((blurred.sum(axis=1) * (np.arange(401) - 200) ** 2).sum() / blurred.sum())
    assert blurred.sum() == pytest.approx(1, abs=1e-4) and spread == pytest.approx(sigma, rel=0.03)


def test_a_shift_moves_by_so_many_pixels():
    changed = perturb(image((100, 200)), "shift", 2, "a").values
    original = plain(image((100, 200))).astype(np.float32)
    found = [
        (down, right)
        for down in (-5, 5)
        for right in (-10, 10)
        if np.allclose(np.roll(original, (down, right), (0, 1))[20:-20, 20:-20], changed[20:-20, 20:-20])
    ]
    assert len(found) == 1


def test_a_study_reads_perturbed_images_by_its_rules(tmp_path):
    pil = pytest.importorskip("PIL.Image")
    for number in range(2):
        pil.fromarray(plain(image()).__mul__(255).astype(np.uint8)).save(tmp_path / f"{number}.png")
    (tmp_path / "cases.csv").write_text("image,split,label\n0.png,test,a\n1.png,test,b\n")
    study = open_study(tmp_path)
    altered = perturbed_study(study, "contrast", 3)
    assert np.ptp(altered.source.read("0.png").values) < np.ptp(plain(study.source.read("0.png")))
    assert altered.source.content_sha256("0.png") != study.source.content_sha256("0.png")
    ruled = with_rules(altered.source, DicomRules(modalities=("DX",)))
    assert isinstance(ruled.source, Files) and ruled.source.rules.modalities == ("DX",)
    assert msgspec.structs.replace(altered, source=study.source) == study


@pytest.mark.parametrize(("name", "severity"), [("fog", 1), ("noise", 0), ("noise", 4)])
def test_what_is_not_there_is_refused(name, severity):
    with pytest.raises(InputError, match="perturbation"):
        perturbed_study(tiny_study.make_study(), name, severity)
