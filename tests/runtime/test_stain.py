"""Stain normalisation: against independent implementations, and what becomes of what has no stain."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
import tiny_bundle
from msgspec.structs import replace
from stained_image import UNIT, stained

from medfm_compress.runtime.bundle.bundle import Bundle
from medfm_compress.runtime.bundle.manifest import schema_of
from medfm_compress.runtime.errors import ImageRefused, InputError
from medfm_compress.runtime.image_spec import ImageSpec, MacenkoStain, ReinhardStain, Tiles
from medfm_compress.runtime.images.pixels import Pixels
from medfm_compress.runtime.preprocess import prepare, prepare_tile
from medfm_compress.runtime.stain import macenko, reinhard
from medfm_compress.runtime.stain.optical_density import optical_density
from medfm_compress.runtime.stain.table import normalise_stain

MACENKO = MacenkoStain(
    hematoxylin=tuple(UNIT[:, 0].tolist()), eosin=tuple(UNIT[:, 1].tolist()), concentrations=(1.9705, 1.0308)
)
REINHARD = ReinhardStain(mean=(-0.65, -0.23, 0.01), std=(0.27, 0.14, 0.02))
SPEC = ImageSpec(height_px=48, width_px=48, colour="rgb", mean=(0.0,) * 3, std=(1.0,) * 3, min_side_px=8)


def torchstain_like(image, reference, full):
    """Macenko as torchstain's numpy back end has it (Io 240, α 1, β 0.15), with eigenvectors turned to the positive."""
    od = -np.log((image.reshape(-1, 3).astype(float) + 1) / 240)
    kept = od[~np.any(od < 0.15, axis=1)]
    _, vectors = np.linalg.eigh(np.cov(kept.T))
    vectors = vectors[:, [1, 2]] * np.where(vectors[:, [1, 2]].sum(axis=0) < 0, -1, 1)
    projected = kept @ vectors
    phi = np.arctan2(projected[:, 1], projected[:, 0])
    ends = [vectors @ np.array([np.cos(q), np.sin(q)]) for q in np.percentile(phi, (1, 99))]
    ends.sort(key=lambda end: -end[0])
    he = np.stack(ends, axis=1)
    amounts = np.linalg.lstsq(he, od.T, rcond=None)[0]
    amounts *= (np.asarray(full) / np.percentile(amounts, 99, axis=1))[:, None]
    return np.clip(240 * np.exp(-reference @ amounts), 0, 255).T.reshape(image.shape)


@pytest.mark.parametrize("seed", range(4))
def test_macenko_is_what_another_implementation_gives(seed):
    image = stained(seed, scale=(1.0 + 0.3 * seed, 1.2))
    ours = macenko.normalise(image.reshape(-1, 3) / 255, MACENKO)
    theirs = torchstain_like(image, UNIT, MACENKO.concentrations).reshape(-1, 3)
    assert np.abs(255 * ours - np.clip(theirs - 1, 0, 255)).max() < 0.02  # the 1 that the density adds is taken off


def test_macenko_finds_the_dyes_that_an_image_was_made_of():
    measured = macenko.measure(optical_density(stained(side=96).reshape(-1, 3) / 255))
    cosines = (measured.matrix * UNIT).sum(axis=0)
    assert np.degrees(np.arccos(cosines)).max() < 3


def planes_of(image):
    return (image / 255).astype(np.float32).transpose(2, 0, 1)


def test_a_section_that_took_other_amounts_of_dye_becomes_alike():
    one, other = (planes_of(stained(3, scale=scale)) for scale in ((1.5, 0.8), (0.9, 1.3)))
    before = np.abs(one - other).mean()
    assert np.abs(normalise_stain(one, MACENKO) - normalise_stain(other, MACENKO)).mean() < 0.4 * before


def test_a_scanner_of_other_colour_is_brought_to_the_reference():
    thick = planes_of(stained(3, scale=(3.0, 2.0)))
    measured = reinhard.measure(thick.reshape(3, -1).T)
    rule = ReinhardStain(mean=tuple(measured.mean.tolist()), std=tuple(measured.std.tolist()))
    other = thick * np.float32([0.8, 0.9, 0.95])[:, None, None]
    seen = (thick < 0.7).all(axis=0)
    before, after = ((v - thick)[:, seen].mean(axis=1) for v in (other, normalise_stain(other, rule)))
    assert np.abs(after).max() < 0.4 * np.abs(before).max()


def lab_by_loops(pixels):
    """Reinhard's equations 4 and 6, written out a pixel."""
    rows = []
    for pixel in pixels:
        r, g, b = ((255 * value + 1) / 256 for value in pixel)
        lms = (
            0.3811 * r + 0.5783 * g + 0.0402 * b,
            0.1967 * r + 0.7244 * g + 0.0782 * b,
            0.0241 * r + 0.1288 * g + 0.8444 * b,
        )
        long, medium, short = (np.log10(value) for value in lms)
        rows.append(((long + medium + short) / 3**0.5, (long + medium - 2 * short) / 6**0.5, (long - medium) / 2**0.5))
    return np.array(rows)


def test_reinhard_gives_tissue_the_mean_and_spread_of_the_reference():
    pixels = stained(5, scale=(0.8, 0.5)).reshape(-1, 3) / 255
    seen = (optical_density(pixels) >= 0.15).all(axis=1)
    near = ReinhardStain(mean=(-0.6, -0.1, 0.01), std=(0.2, 0.03, 0.01))
    values = lab_by_loops(reinhard.normalise(pixels, near)[seen])
    assert np.allclose(values.mean(axis=0), near.mean, atol=0.01)
    assert np.allclose(values.std(axis=0), near.std, rtol=0.1)
    own = lab_by_loops(pixels[seen])
    measured = reinhard.measure(pixels)
    assert np.allclose(measured.mean, own.mean(axis=0)) and np.allclose(measured.std, own.std(axis=0))


def colours():
    rng = np.random.default_rng(0)
    noise = rng.integers(-3, 4, (48, 48, 3))
    return {
        "white": np.full((48, 48, 3), 255),
        "glass": 243 + noise,
        "black": np.zeros((48, 48, 3)),
        "one colour": np.full((48, 48, 3), (150, 60, 140)),
        "a corner of tissue": np.where(np.arange(48)[:, None, None] < 2, stained(0), 245),
    }


@pytest.mark.parametrize("name", list(colours()))
@pytest.mark.parametrize("rule", [MACENKO, REINHARD])
def test_what_has_no_stain_is_kept_or_refused(name, rule):
    image = np.clip(colours()[name], 0, 255).astype(np.uint8)
    pixels = Pixels.from_integers(image)
    plain = prepare(pixels, SPEC)
    assert np.array_equal(prepare(pixels, replace(SPEC, stain=rule)), plain)
    with pytest.raises(ImageRefused, match="too little tissue"):
        prepare(pixels, replace(SPEC, stain=replace(rule, others="refuse")))


@pytest.mark.parametrize("direction", [(0.1, 0.2, 0.97), (0.95, 0.3, 0.05), (0.27, 0.57, 0.78)])
def test_other_dyes_are_not_made_hematoxylin_and_eosin(direction):
    """Ink and diaminobenzidine: more than 30 degrees from what they would be taken for."""
    first = np.asarray(direction) / np.linalg.norm(direction)
    second = np.roll(first, 1)
    image = stained(0, matrix=np.stack([first, second], axis=1))
    assert macenko.normalise(image.reshape(-1, 3) / 255, MACENKO) is None


def test_preparing_normalises_what_was_resized_and_pads_with_black_afterwards():
    image = stained(1, side=96)
    wide = Pixels.from_integers(image[:48])
    spec = replace(SPEC, resize="longest", stain=MACENKO)
    prepared, plain = prepare(wide, spec), prepare(wide, replace(spec, stain=msgspec.UNSET))
    expected = normalise_stain(plain[:, 12:36], MACENKO)
    assert (prepared[:, :12] == 0).all() and (prepared[:, 36:] == 0).all()
    assert np.allclose(prepared[:, 12:36], expected, atol=0.03)  # clipped before or after
    assert np.abs(prepared - plain).mean() > 0.01


def test_tiles_of_a_sliding_window_are_normalised_one_by_one():
    spec = replace(SPEC, tiles=Tiles(), stain=MACENKO)
    pixels = Pixels.from_integers(stained(1, side=96))
    tile = prepare_tile(pixels, spec, 30, -8)
    seen = prepare_tile(pixels, replace(spec, stain=msgspec.UNSET), 30, -8)[:, :, 8:]
    assert np.array_equal(tile[:, :, 8:], normalise_stain(seen, MACENKO)) and (tile[:, :, :8] == 0).all()
    assert np.abs(tile[:, :, 8:] - seen).mean() > 0.01


def test_a_grey_image_for_a_colour_network_is_kept():
    grey = Pixels.from_integers(stained(1)[..., 1])
    assert np.array_equal(prepare(grey, replace(SPEC, stain=MACENKO)), prepare(grey, SPEC))


def test_the_rule_stands_in_the_bundle_and_older_digests_hold(tmp_path):
    plain = tiny_bundle.draft((tiny_bundle.ORT,), spec=SPEC)
    assert b"stain" not in msgspec.json.encode(plain)
    ruled = tiny_bundle.draft((tiny_bundle.ORT,), spec=replace(SPEC, stain=MACENKO))
    assert schema_of(plain) < 7 == schema_of(ruled)
    decoded = msgspec.json.decode(msgspec.json.encode(ruled.image_spec), type=ImageSpec)
    assert decoded == ruled.image_spec and decoded.stain == MACENKO
    reinhards = replace(SPEC, stain=REINHARD)
    assert msgspec.json.decode(msgspec.json.encode(reinhards), type=ImageSpec) == reinhards


@pytest.mark.parametrize(
    "change",
    [{"hematoxylin": (1.0, 1.0, 0.0)}, {"eosin": (-0.6, 0.8, 0.0)}, {"eosin": MACENKO.hematoxylin},
     {"concentrations": (0.0, 1.0)}, {"concentrations": (float("nan"), 1.0)}],
)  # fmt: skip
def test_references_that_are_none_are_refused(change):
    with pytest.raises(InputError):
        replace(MACENKO, **change)


def test_a_grey_network_has_no_stain():
    with pytest.raises(InputError, match="in rgb alone"):
        replace(tiny_bundle.SPEC, stain=REINHARD)
    with pytest.raises(InputError, match="above 0"):
        replace(REINHARD, std=(0.0, 1.0, 1.0))


def test_no_self_contained_file(tmp_path):
    pytest.importorskip("onnx")
    from slide_scene import colour_classifier

    from medfm_compress.export.self_contained.build import export_self_contained
    from medfm_compress.export.self_contained.options import SelfContainedOptions

    path = colour_classifier(tmp_path / "stained.medfm", stain=MACENKO)
    assert Bundle.open(path).manifest.schema_version == 7
    with pytest.raises(InputError, match="normalises the stain"):
        export_self_contained(Bundle.open(path), SelfContainedOptions(), tmp_path / "alone.onnx")
    assert not (tmp_path / "alone.onnx").exists()
