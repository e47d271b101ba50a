"""The graph against the Python path: every filter, mode, type and form, on images of awkward shapes."""

import numpy as np
import onnxruntime
import pytest

from medfm_compress.export.self_contained.preprocessing import GraphForm, preprocessing_model
from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.image_spec import ImageSpec
from medfm_compress.runtime.images.pixels import Pixels
from medfm_compress.runtime.preprocess import normalise, prepare

FILTERS = ("nearest", "bilinear", "bicubic")
SHAPES = ((1, 1), (1, 57), (61, 1), (7, 90), (33, 48), (48, 48), (64, 50), (97, 203), (320, 320), (9, 1200))
MODES = {
    "stretch": {"resize": "stretch"},
    "stretch and crop": {"resize": "stretch", "crop_fraction": 0.875},
    "shortest": {"resize": "shortest", "crop_fraction": 0.9},
    "shortest, not square": {"resize": "shortest", "height_px": 40, "width_px": 57, "crop_fraction": 0.95},
    "longest": {"resize": "longest"},
    "longest and crop": {"resize": "longest", "height_px": 31, "width_px": 56, "crop_fraction": 0.8},
}
LARGEST = 1e-3  # of the intensity range


def spec_of(colour="grey", **changes):
    channels = 1 if colour == "grey" else 3
    moments = {"mean": (0.485, 0.456, 0.406)[:channels], "std": (0.229, 0.224, 0.225)[:channels]}
    return ImageSpec(**{"height_px": 56, "width_px": 56, "colour": colour, "min_side_px": 1, **moments, **changes})


def open_graph(spec, **form):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    content = preprocessing_model(spec, GraphForm(**form))
    return onnxruntime.InferenceSession(content, options, ["CPUExecutionProvider"])


def image_of(shape, dtype, colour, seed=0):
    random = np.random.default_rng([seed, *shape])
    size = (*shape, 3) if colour == "rgb" else shape
    return random.integers(0, np.iinfo(dtype).max, size, dtype=dtype, endpoint=True)


def run(session, values, white=None):
    inputs = {"pixels": values if values.ndim == 3 else values[..., None]}
    if white is not None:
        inputs["white"] = np.array([white], np.float32)
    return session.run(None, inputs)[0]


def worst(session, pixels, spec, white=None):
    """Largest difference from the Python path, in units of the intensity range."""
    expected = normalise(prepare(pixels, spec)[None], spec)
    measured = run(session, pixels.values, white)
    assert measured.shape == expected.shape and measured.dtype == np.float32
    return float((np.abs(measured - expected) * np.reshape(spec.std, (1, -1, 1, 1))).max())


@pytest.mark.parametrize("form", ["resize", "matmul"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", FILTERS)
def test_every_filter_and_mode_of_every_shape_is_the_python_path(name, mode, form):
    for colour, dtype in (("grey", np.uint8), ("rgb", np.uint16)):
        spec = spec_of(colour, filter=name, **MODES[mode])
        session = open_graph(spec, pixels=np.dtype(dtype).name, resize=form)
        white = 65535 if dtype == np.uint16 else None
        for shape in SHAPES:
            for of_image in ("grey", "rgb"):
                pixels = Pixels.from_integers(image_of(shape, dtype, of_image))
                assert worst(session, pixels, spec, white) < LARGEST / 5, (shape, of_image, dtype)


@pytest.mark.parametrize("side", [48, 80, 120, 224, 320, 448, 600, 1344])
def test_nearest_takes_the_same_pixel_where_it_lies_on_a_border(side):
    spec = spec_of(filter="nearest", height_px=224, width_px=224)
    ramp = np.arange(side, dtype=np.uint16)
    values = ramp[:, None] + np.zeros_like(ramp) if side % 3 else ramp[None] + np.zeros_like(ramp)[:, None]
    session = open_graph(spec, pixels="uint16")
    assert worst(session, Pixels(values, 0.0, float(side)), spec, side) < 1e-6


def test_a_camera_of_twelve_bits_says_what_white_is():
    spec = spec_of()
    values = image_of((60, 70), np.uint16, "grey") >> 4
    session = open_graph(spec, pixels="uint16")
    assert worst(session, Pixels(values, 0.0, 4095.0), spec, 4095) < LARGEST
    reasons = {4000: "a pixel is above white", 0: "white is below 1", np.nan: "white is below 1", -np.inf: "below 1"}
    reasons |= dict.fromkeys((np.inf, 1e30, 65536), "white is above 65535")
    for white, reason in reasons.items():
        with pytest.raises(Exception, match=reason):
            run(session, values, white)
    assert np.isfinite(run(session, values, 65535)).all()


def test_what_the_python_path_refuses_fails_and_says_why():
    session = open_graph(spec_of(min_side_px=32))
    with pytest.raises(Exception, match="refused: the image's shorter side is below 32 px"):
        run(session, image_of((31, 90), np.uint8, "grey"))
    assert run(session, image_of((32, 90), np.uint8, "grey")).shape == (1, 1, 56, 56)
    with pytest.raises(Exception, match="not 1 or 3 channels"):
        run(session, np.zeros((40, 40, 2), np.uint8))
    elongated = open_graph(spec_of(resize="shortest", height_px=4096, width_px=4096))
    with pytest.raises(Exception, match="too elongated"):
        run(elongated, np.zeros((1, 40), np.uint8))


@pytest.mark.parametrize("name", ["bilinear", "bicubic"])
def test_an_older_opset_needs_the_matrices(name):
    spec = spec_of(filter=name)
    with pytest.raises(InputError, match=r"opset 17.*needs 18; choose the form 'matmul'"):
        preprocessing_model(spec, GraphForm(resize="resize"), 17)
    with pytest.raises(InputError, match=r"opset 12.*needs 13; export the network anew"):
        preprocessing_model(spec, GraphForm(resize="matmul"), 12)
    content = preprocessing_model(spec, GraphForm(resize="matmul"), 13)
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    assert worst(session, Pixels.from_integers(image_of((90, 77), np.uint8, "grey")), spec) < LARGEST


def test_the_same_spec_gives_the_same_bytes():
    assert preprocessing_model(spec_of()) == preprocessing_model(spec_of())
    assert preprocessing_model(spec_of()) != preprocessing_model(spec_of(filter="nearest"))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ["bilinear", "bicubic"])
def test_the_matrices_are_right_in_openvino_whose_resize_knows_no_antialias(name, mode):
    openvino = pytest.importorskip("openvino")
    spec = spec_of("rgb", filter=name, **MODES[mode])
    core, content = openvino.Core(), preprocessing_model(spec, GraphForm(resize="matmul"))
    compiled = core.compile_model(core.read_model(content, b""), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    for shape in ((97, 203), (33, 48)):
        pixels = Pixels.from_integers(image_of(shape, np.uint8, "rgb"))
        expected = normalise(prepare(pixels, spec)[None], spec)
        difference = np.abs(np.asarray(compiled([pixels.values])[0]) - expected) * np.reshape(spec.std, (1, -1, 1, 1))
        assert difference.max() < LARGEST / 5
