"""The graph of a grey DICOM image's stored values against `runtime.dicom.grey`, attribute by attribute."""

import numpy as np
import onnxruntime
import pytest
from pydicom import Dataset

from medfm_compress.export.self_contained.dicom_values import VOI_FUNCTIONS
from medfm_compress.export.self_contained.preprocessing import GraphForm, preprocessing_model
from medfm_compress.runtime.dicom.checks import Layout
from medfm_compress.runtime.dicom.grey import p_value_table
from medfm_compress.runtime.errors import ImageRefused
from medfm_compress.runtime.image_spec import DicomRules, ImageSpec
from medfm_compress.runtime.images.pixels import Pixels
from medfm_compress.runtime.preprocess import preprocess

SIZE = (40, 48)


def spec_of(rules):
    return ImageSpec(height_px=40, width_px=48, colour="grey", mean=(0.0,), std=(1.0,), filter="nearest", dicom=rules)


def open_graph(spec):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(preprocessing_model(spec, GraphForm(pixels="dicom")), options)


def inputs_of(stored, bits, signed, mono1=False, **changes):
    values = {"slope": 1.0, "intercept": 0.0, "center": 0.0, "width": 0.0, "function": 0, "padding": (1, 0), **changes}
    return {
        "pixels": stored.astype(np.int32)[..., None],
        "bits_stored": np.array([bits]),
        "is_signed": np.array([signed]),
        "is_monochrome1": np.array([mono1]),
        "rescale_slope": np.array([values["slope"]], np.float64),
        "rescale_intercept": np.array([values["intercept"]], np.float64),
        "window_center": np.array([values["center"]], np.float64),
        "window_width": np.array([values["width"]], np.float64),
        "voi_lut_function": np.array([values["function"]]),
        "padding_first": np.array([values["padding"][0]]),
        "padding_last": np.array([values["padding"][1]]),
    }


def run(session, inputs):
    names = {value.name for value in session.get_inputs()}
    return session.run(None, {name: value for name, value in inputs.items() if name in names})[0]


def expected(stored, bits, signed, rules, mono1=False, **changes):
    ds = Dataset()
    if "slope" in changes:
        ds.RescaleSlope, ds.RescaleIntercept = changes["slope"], changes["intercept"]
    if "width" in changes:
        ds.WindowCenter, ds.WindowWidth = changes["center"], changes["width"]
        ds.VOILUTFunction = VOI_FUNCTIONS[changes.get("function", 0)]
    if "padding" in changes:
        ds.add_new("PixelPaddingValue", "SS" if signed else "US", changes["padding"][0])
        ds.add_new("PixelPaddingRangeLimit", "SS" if signed else "US", changes["padding"][1])
    layout = Layout(*SIZE, 1, 16, bits, signed, "MONOCHROME1" if mono1 else "MONOCHROME2")
    table, _ = p_value_table(ds, layout, rules, "case")
    return preprocess(Pixels.from_integers(table[stored & (2**bits - 1)]), spec_of(rules))


CASES = {
    "no window": {},
    "slope and intercept": {"slope": 0.37, "intercept": -1024.0},
    "negative slope": {"slope": -2.0, "intercept": 5.5},
    "linear": {"center": 300.5, "width": 411.0},
    "linear, a step": {"center": 300.0, "width": 1.0},
    "exact": {"center": 300.0, "width": 0.5, "function": 1},
    "sigmoid": {"center": -20.0, "width": 333.3, "function": 2},
    "all": {"slope": 1.5, "intercept": -200.0, "center": 90.0, "width": 700.0, "function": 1, "padding": (-5, 12)},
    "padding": {"padding": (3, 40)},
}
RULES = {
    "file": DicomRules(),
    "full range": DicomRules(window="full_range"),
    "fixed": DicomRules(window="fixed", window_center=100.0, window_width=900.0),
}


@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize("case", CASES)
def test_p_values_are_the_runtimes(case, rules):
    session = open_graph(spec_of(RULES[rules]))
    changes = CASES[case]
    for bits, signed in ((8, False), (12, False), (12, True), (16, True), (16, False)):
        if not signed and changes.get("padding", (0, 0))[0] < 0:
            continue
        half = 2 ** (bits - 1)
        ends = (-half, half - 1) if signed else (0, 2 * half - 1)
        stored = np.random.default_rng(bits).integers(*ends, SIZE, endpoint=True)
        for mono1 in (False, True):
            inputs = inputs_of(stored, bits, signed, mono1, **changes)
            try:
                wanted = expected(stored, bits, signed, RULES[rules], mono1, **changes)
            except ImageRefused:  # of 8 bits, with a window beyond them
                with pytest.raises(Exception, match="leave a single grey"):
                    run(session, inputs)
                continue
            measured = run(session, inputs)
            assert np.abs(measured - wanted).max() <= 1 / 65535, (bits, signed, mono1)


def test_only_a_files_own_window_is_an_input():
    names = {name: [value.name for value in open_graph(spec_of(rules)).get_inputs()] for name, rules in RULES.items()}
    assert {"window_center", "window_width", "voi_lut_function"} <= set(names["file"])
    assert not any("window" in name for name in names["full range"] + names["fixed"])


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"slope": 0.0}, "leave a single grey"),
        ({"slope": np.nan}, "leave a single grey"),
        ({"center": 1e6, "width": 10.0}, "leave a single grey"),
        ({"center": np.nan, "width": 10.0}, "leave a single grey"),
        ({"center": 5.0, "width": 0.5}, "below 1 with LINEAR"),
        ({"center": 5.0, "width": -3.0}, "window_width is below 0"),
        ({"center": 5.0, "width": np.nan}, "window_width is below 0"),
        ({"center": 5.0, "width": 9.0, "function": 3}, "voi_lut_function is not 0, 1 or 2"),
    ],
)
def test_attributes_that_the_runtime_refuses_fail_and_say_why(changes, reason):
    session = open_graph(spec_of(DicomRules()))
    stored = np.zeros(SIZE, np.int64)
    with pytest.raises(Exception, match=f"refused: .*{reason}"):
        run(session, inputs_of(stored, 12, False, **changes))


def test_pixels_beyond_the_bits_stored_and_odd_depths_fail():
    session = open_graph(spec_of(DicomRules()))
    for value, bits, signed in ((4096, 12, False), (-1, 12, False), (2048, 12, True)):
        with pytest.raises(Exception, match="a pixel exceeds the bits stored"):
            run(session, inputs_of(np.full(SIZE, value), bits, signed))
    for bits in (0, -1, 17):
        with pytest.raises(Exception, match="bits_stored is not 1 to 16"):
            run(session, inputs_of(np.zeros(SIZE), bits, False))


def test_what_is_refused_here_is_refused_there():
    for changes in ({"slope": 0.0, "intercept": 0.0}, {"center": 1e6, "width": 10.0}, {"center": 5.0, "width": 0.5}):
        with pytest.raises(ImageRefused):
            expected(np.zeros(SIZE, np.int64), 12, False, DicomRules(), **changes)
