"""The one preprocessing, against timm's and torchvision's evaluation transforms and against plain numpy."""

from __future__ import annotations

import numpy as np
import pytest

from medfm_compress.runtime.errors import ImageRefused, InputError
from medfm_compress.runtime.image_spec import ImageSpec
from medfm_compress.runtime.images.pixels import Pixels
from medfm_compress.runtime.preprocess import normalise, prepare, preprocess
from medfm_compress.runtime.timm_spec import spec_from_timm

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def make_spec(colour="rgb", **changes):
    channels = 3 if colour == "rgb" else 1
    settings = {"height_px": 64, "width_px": 64, "mean": (0.5,) * channels, "std": (0.25,) * channels, "min_side_px": 8}
    return ImageSpec(colour=colour, **{**settings, **changes})


def smooth_image(height, width, seed=0):
    """Smooth 8-bit RGB: rounding aside, every antialiased resampler agrees on it."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(y / rng.uniform(5, 15)) * np.cos(x / rng.uniform(5, 15)) for _ in range(3)]
    return np.rint(127.5 + 100 * np.stack(waves, -1)).astype(np.uint8)


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear", "nearest"])
@pytest.mark.parametrize("crop_mode", ["center", "squash"])
@pytest.mark.parametrize("size", [(64, 64), (48, 80)])
@pytest.mark.parametrize("shape", [(97, 131), (211, 140), (40, 75)])
def test_it_is_timms_evaluation_transform_up_to_its_rounding_to_8_bits(interpolation, crop_mode, size, shape):
    transforms = pytest.importorskip("timm.data.transforms_factory")
    from PIL import Image

    config = {"interpolation": interpolation, "crop_pct": 0.9, "crop_mode": crop_mode, "mean": (0.4, 0.5, 0.6)}
    config["std"] = (0.2, 0.3, 0.25)
    image = smooth_image(*shape)
    peer = transforms.transforms_imagenet_eval(img_size=size, **config)(Image.fromarray(image)).numpy()
    spec = spec_from_timm(config, height_px=size[0], width_px=size[1])
    ours = preprocess(Pixels.from_integers(image), spec)[0]
    # The peer rounds to 8 bits after each of its two passes: 0.5, amplified by up to 1.25 by a cubic, and 0.5 again.
    in_unit = np.abs(ours - peer) * np.array(config["std"])[:, None, None]
    assert in_unit.max() <= 1.2 / 255


def test_bicubic_is_the_antialiased_kernel_with_a_of_minus_one_half():
    rng = np.random.default_rng(3)
    row = rng.random(96).astype(np.float32)
    image = np.repeat(row[None], 24, axis=0)
    spec = make_spec("grey", height_px=24, width_px=32, mean=(0.0,), std=(1.0,))
    scale = 96 / 32

    def kernel(t, a=-0.5):
        t = np.abs(t)
        near = ((a + 2) * t - (a + 3)) * t * t + 1
        return np.where(t < 1, near, np.where(t < 2, (((t - 5) * t + 8) * t - 4) * a, 0.0))

    centres = (np.arange(32) + 0.5) * scale - 0.5
    weights = kernel((np.arange(96)[None] - centres[:, None]) / scale)
    expected = np.clip((weights / weights.sum(1, keepdims=True)) @ row, 0, 1)
    result = prepare(Pixels(image, 0.0, 1.0), spec)
    np.testing.assert_allclose(result[0, 5], expected, atol=1e-6)


@pytest.mark.parametrize("resize", ["stretch", "shortest", "longest"])
@pytest.mark.parametrize("colour", ["grey", "rgb"])
def test_the_result_is_contiguous_float32_in_range_whatever_the_shape(resize, colour):
    noise = np.random.default_rng(1).integers(0, 2, (61, 173)).astype(np.uint16) * 65535  # makes bicubic overshoot
    spec = make_spec(colour, resize=resize, height_px=40, width_px=56, crop_fraction=0.8)
    result = prepare(Pixels.from_integers(noise), spec)
    assert result.shape == spec.shape[1:]
    assert result.dtype == np.float32
    assert result.flags.c_contiguous
    assert result.min() >= 0 and result.max() <= 1
    batch = preprocess(Pixels.from_integers(noise), spec)
    assert batch.shape == spec.shape and batch.flags.c_contiguous and batch.dtype == np.float32


def test_a_longest_side_leaves_black_bars_above_and_below():
    result = prepare(Pixels.from_integers(np.full((32, 64), 255, np.uint8)), make_spec("grey", resize="longest"))
    assert (result[0, 16:48] == 1).all()
    assert (result[0, :16] == 0).all() and (result[0, 48:] == 0).all()


def test_an_8_bit_image_and_its_16_bit_copy_give_the_same_bits():
    image = smooth_image(90, 70)
    for spec in (make_spec(), make_spec("grey")):
        a = preprocess(Pixels.from_integers(image), spec)
        b = preprocess(Pixels.from_integers(image.astype(np.uint16) * 257), spec)
        np.testing.assert_array_equal(a, b)


def test_16_bits_are_kept():
    ramp = np.tile(np.arange(64, dtype=np.uint16) + 30_000, (64, 1))
    result = prepare(Pixels.from_integers(ramp), make_spec("grey"))
    np.testing.assert_array_equal(np.rint(result[0] * 65535), ramp)


def test_low_and_high_are_black_and_white():
    values = np.tile(np.linspace(10, 20, 64, dtype=np.float32), (64, 1))
    result = prepare(Pixels(values, 10.0, 20.0), make_spec("grey"))
    assert result.min() == 0 and result.max() == 1


def test_colour_becomes_bt601_luma_and_grey_is_repeated():
    image = np.zeros((64, 64, 3), np.uint8)
    image[..., 1] = 255
    assert prepare(Pixels.from_integers(image), make_spec("grey"))[0, 0, 0] == pytest.approx(0.587)
    grey = smooth_image(64, 64)[..., 0]
    result = prepare(Pixels.from_integers(grey), make_spec())
    assert (result[0] == result[1]).all() and (result[0] == result[2]).all()
    as_rgb = prepare(Pixels.from_integers(np.repeat(grey[..., None], 3, -1)), make_spec("grey"))
    np.testing.assert_allclose(as_rgb, result[:1], atol=1e-6)


def test_normalise_takes_any_leading_axes_and_leaves_its_input():
    spec = make_spec(mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 0.125))
    stack = np.random.default_rng(0).random((2, 5, 3, 8, 9), dtype=np.float32)
    before = stack.copy()
    result = normalise(stack, spec)
    np.testing.assert_array_equal(stack, before)
    np.testing.assert_allclose(result[1, 4, 2], (stack[1, 4, 2] - 0.3) / 0.125, rtol=1e-5, atol=1e-6)
    assert result.dtype == np.float32
    with pytest.raises(InputError, match="needs"):
        normalise(np.zeros((1, 8, 9), np.float32), spec)


def test_small_and_elongated_images_are_refused():
    with pytest.raises(ImageRefused, match="40×20 px; its shorter side must be at least 32"):
        prepare(Pixels.from_integers(np.zeros((20, 40), np.uint8)), make_spec("grey", min_side_px=32))
    with pytest.raises(ImageRefused, match="too elongated"):
        prepare(
            Pixels.from_integers(np.zeros((8, 60_000), np.uint8)),
            make_spec("grey", resize="shortest", height_px=512, width_px=512),
        )


def test_a_timm_configuration_becomes_a_spec_with_timms_defaults():
    spec = spec_from_timm({}, height_px=128, width_px=96)
    assert (spec.mean, spec.std) == IMAGENET
    assert (spec.resize, spec.filter, spec.crop_fraction) == ("shortest", "bicubic", 0.875)
    grey = spec_from_timm({"mean": (0.3, 0.4, 0.5), "std": [0.5]}, height_px=128, width_px=128, colour="grey")
    assert grey.mean == pytest.approx((0.4,)) and grey.std == (0.5,)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"interpolation": "lanczos"}, "lanczos"),
        ({"interpolation": "random"}, "random"),
        ({"crop_mode": "border"}, "border"),
        ({"crop_mode": "corner"}, "corner"),
        ({"mean": (0.5, 0.5)}, "mean has 2"),
        ({"std": (0.0, 0.0, 0.0)}, "std"),
        ({"crop_pct": 1.2}, "crop_fraction"),
    ],
)
def test_a_configuration_that_cannot_be_expressed_is_refused(config, words):
    with pytest.raises(InputError, match=words):
        spec_from_timm(config, height_px=64, width_px=64)
