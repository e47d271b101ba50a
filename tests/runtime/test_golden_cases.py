"""Golden cases, and the error measure that decides on them."""

from __future__ import annotations

import io

import msgspec
import numpy as np
import pytest
from msgspec.structs import replace

from medfm_compress.runtime import Engine
from medfm_compress.runtime import golden_cases as goldens
from medfm_compress.runtime.bundle.bundle import Bundle, rewrite_bundle, write_bundle
from medfm_compress.runtime.errors import BundleRefused, InputError
from medfm_compress.runtime.image_spec import ImageSpec
from medfm_compress.runtime.task import Task

RGB = ImageSpec(height_px=24, width_px=40, colour="rgb", mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
MULTILABEL = Task(kind="multilabel", labels=("a", "b", "c"))
MULTICLASS = Task(kind="multiclass", labels=("a", "b", "c"))


def npy(values, **options):
    buffer = io.BytesIO()
    np.save(buffer, values, **options)
    return buffer.getvalue()


def test_they_are_smooth_seeded_and_use_the_whole_range():
    drawn = goldens.make_goldens(RGB, count=3, seed=7)
    assert drawn.shape == (3, 3, 24, 40) and drawn.dtype == np.float32
    assert np.array_equal(drawn, goldens.make_goldens(RGB, count=3, seed=7))
    assert not np.array_equal(drawn, goldens.make_goldens(RGB, count=3, seed=8))
    unit = drawn * np.reshape(RGB.std, (3, 1, 1)) + np.reshape(RGB.mean, (3, 1, 1))
    assert unit.min() == pytest.approx(0, abs=1e-6) and unit.max() == pytest.approx(1, abs=1e-6)
    noise = np.abs(np.diff(np.random.default_rng(0).random((24, 40)))).mean()
    assert np.abs(np.diff(unit, axis=-1)).mean() < noise / 2


@pytest.mark.parametrize("count", [0, 65])
def test_their_number_is_bounded(count):
    with pytest.raises(InputError, match="1 to 64"):
        goldens.make_goldens(RGB, count=count)


def test_stored_inputs_come_back_exactly(tiny, tmp_path):
    bundle = Bundle.open(tiny.bundle(tmp_path / "a.medfm"))
    assert np.array_equal(goldens.read_golden_inputs(bundle), goldens.make_goldens(tiny.SPEC, count=2))


def test_inputs_of_another_spec_or_bad_logits_are_not_stored(tiny):
    inputs = goldens.make_goldens(RGB)
    with pytest.raises(InputError, match="same image spec"):
        goldens.golden_files(inputs + 0.001, {}, RGB)
    with pytest.raises(InputError, match="'v' must be finite"):
        goldens.golden_files(inputs, {"v": np.full((4, 2), np.nan)}, RGB)
    with pytest.raises(InputError, match="one row for each"):
        goldens.golden_files(inputs, {"v": np.zeros((3, 2))}, RGB)


@pytest.mark.parametrize(
    ("member", "content", "words"),
    [
        ("inputs", npy(np.zeros((2, 1, 32, 32), np.float32)), "must hold uint8"),
        ("inputs", npy(np.zeros((2, 1, 32, 31), np.uint8)), r"shape \(2, 1, 32, 31\)"),
        ("inputs", npy(np.zeros((0, 1, 32, 32), np.uint8)), "shape"),
        ("inputs", npy(np.zeros((65, 1, 32, 32), np.uint8)), "shape"),
        ("inputs", npy(np.array([{}]), allow_pickle=True), "not an array"),
        ("inputs", b"", "not an array"),
        ("inputs", b"\x93NUMPY\x01\x00\xff\xff{", "not an array"),
        ("onnxruntime-cpu-fp32", npy(np.zeros((2, 3), np.float32)), "do not fit"),
        ("onnxruntime-cpu-fp32", npy(np.zeros((0, 2), np.float32)), "do not fit"),
        ("onnxruntime-cpu-fp32", npy(np.array(1.0, np.float32)), "do not fit"),
        ("inputs", npy(np.array(1, np.uint8)), "shape"),
        ("onnxruntime-cpu-fp32", npy(np.full((2, 2), np.inf, np.float32)), "do not fit"),
        ("onnxruntime-cpu-fp32", npy(np.zeros((3, 2), np.float32)), r"its goldens have \(3, 2\)"),
        ("onnxruntime-cpu-fp32", npy(np.zeros((2, 2), np.float32)), "computes something else"),
    ],
)
def test_goldens_that_do_not_fit_are_refused(tiny, tmp_path, member, content, words):
    path = tiny.bundle(tmp_path / "a.medfm")
    rewrite_bundle(path, path, files={f"goldens/{member}.npy": content})
    bundle = Bundle.open(path)
    from medfm_compress.runtime.sessions.table import open_variant

    with pytest.raises(BundleRefused, match=words):
        goldens.replay_goldens(bundle, tiny.ORT, open_variant(bundle, tiny.ORT, 1))


def test_the_error_follows_its_formula():
    random = np.random.default_rng(0)
    z, z_q = random.normal(size=(50, 3)), random.normal(size=(50, 3))
    expected = np.linalg.norm(z_q - z) / np.linalg.norm(z - z.mean(axis=0))
    assert goldens.relative_logit_error(z_q, z) == pytest.approx(expected)
    assert goldens.relative_logit_error(z_q, z, MULTILABEL) == pytest.approx(expected)
    assert goldens.relative_logit_error(z, z) == 0


def test_softmax_tasks_ignore_a_shift_of_all_logits_of_a_case():
    random = np.random.default_rng(0)
    z = random.normal(size=(50, 3))
    shifted = z + random.normal(size=(50, 1))
    assert goldens.relative_logit_error(shifted, z, MULTICLASS) == pytest.approx(0, abs=1e-12)
    assert goldens.relative_logit_error(shifted, z, MULTILABEL) > 0.3


def test_rounding_is_no_error_where_the_reference_hardly_varies():
    z = np.full((4, 3), 5.0) + np.arange(3)
    assert goldens.relative_logit_error(z * (1 + 1e-7), z) < 1e-4
    assert goldens.relative_logit_error(z * 1.1, z) > 1
    assert goldens.relative_logit_error(z[:1] * 1.1, z[:1]) > 1
    assert goldens.relative_logit_error(np.zeros((4, 3)), np.zeros((4, 3))) == 0
    assert goldens.relative_logit_error(np.full((4, 3), 0.01), np.zeros((4, 3))) > 1


def test_what_is_not_finite_is_infinitely_wrong():
    z = np.eye(3)
    for bad in (np.nan, np.inf):
        assert goldens.relative_logit_error(np.full((3, 3), bad), z) == np.inf
        assert goldens.relative_logit_error(z, np.full((3, 3), bad)) == np.inf
    with pytest.raises(InputError, match="cannot be compared"):
        goldens.relative_logit_error(z, z[:2])


def test_the_error_of_a_part_is_by_the_spread_of_all(tiny, tmp_path):
    """Each case a tenth of the spread off: so is any part of them, though one case alone has no spread."""

    class Off:
        input_names, output_names = ("image",), ("logits",)

        def run(self, _):
            self.index = getattr(self, "index", -1) + 1
            return {"logits": moved[self.index : self.index + 1]}

    path = tiny.bundle(tmp_path / "a.medfm")
    bundle = Bundle.open(path)
    stored = goldens.read_golden_logits(bundle, tiny.ORT)
    difference = stored - stored.mean(axis=1, keepdims=True)
    spread = np.linalg.norm(difference - difference.mean(axis=0))
    step = np.array([[1, -1]]) * 0.1 * spread / np.sqrt(2 * len(stored))
    moved = (stored + step).astype(np.float32)
    lenient = msgspec.structs.replace(tiny.ORT, golden_tolerance=0.2)
    for count in (None, 1, 2):
        assert goldens.replay_goldens(bundle, lenient, Off(), count) == pytest.approx(0.1, rel=1e-2)
    moved[0] = np.nan
    with pytest.raises(BundleRefused, match="relative logit error inf"):
        goldens.replay_goldens(bundle, lenient, Off(), 1)


def test_an_outlier_among_the_goldens_does_not_switch_the_replay_of_the_others_off(tiny, tmp_path):
    """One case of logits of 1e30 made the spread so large that the case before it passed with any logits."""
    path = tiny.bundle(tmp_path / "a.medfm", outcome=None)
    stored = goldens.read_golden_logits(Bundle.open(path), tiny.ORT).copy()
    stored[1] = (1e30, -1e30)
    rewrite_bundle(path, path, files={"goldens/onnxruntime-cpu-fp32.npy": npy(stored)})
    with pytest.raises(BundleRefused, match="computes something else"):
        Engine(path, threads=1, unverified=True)


class Answering:
    """A session that gives the logits it was made with, case by case."""

    input_names, output_names = ("image",), ("logits",)

    def __init__(self, logits):
        self.logits = iter(np.asarray(logits, np.float32))

    def run(self, inputs):
        return {"logits": next(self.logits)[None]}


@pytest.mark.parametrize(
    ("threshold", "refused"),
    [(0.52, True), (0.47, False), (0.56, False)],
    ids=["crossed", "called by both", "called by neither"],
)
def test_a_golden_that_is_decided_otherwise_is_refused(tiny, tmp_path, threshold, refused):
    loose = replace(tiny.ORT, golden_tolerance=0.25)
    task = replace(tiny.TASK, operating_points=(replace(tiny.POINT, threshold=threshold),))
    stored, moved = [[0.0, 0.0], [0.0, 4.0]], [[0.0, 0.2], [0.0, 4.0]]  # probability of the first: 0.5, then 0.55
    inputs = goldens.make_goldens(tiny.SPEC, count=2)
    files = {"model.onnx": tiny.network()} | goldens.golden_files(inputs, {loose.name: np.array(stored)}, tiny.SPEC)
    write_bundle(tmp_path / "a.medfm", tiny.draft((loose,), task), files)
    bundle = Bundle.open(tmp_path / "a.medfm")
    assert goldens.replay_goldens(bundle, loose, Answering(stored)) == 0
    if refused:
        with pytest.raises(
            BundleRefused, match=r"decides otherwise .* golden case 1, opacity, probability 0\.550 .* 0\.5"
        ):
            goldens.replay_goldens(bundle, loose, Answering(moved))
    else:
        assert goldens.replay_goldens(bundle, loose, Answering(moved)) < 0.1


def test_a_golden_on_its_threshold_may_fall_either_way(tiny, tmp_path):
    loose = replace(tiny.ORT, golden_tolerance=0.25)
    inputs = goldens.make_goldens(tiny.SPEC, count=2)
    logits = {loose.name: np.array([[0.0, 0.001], [0.0, 4.0]])}
    files = {"model.onnx": tiny.network()} | goldens.golden_files(inputs, logits, tiny.SPEC)
    write_bundle(tmp_path / "a.medfm", tiny.draft((loose,)), files)
    goldens.replay_goldens(Bundle.open(tmp_path / "a.medfm"), loose, Answering([[0.0, -0.001], [0.0, 4.0]]))


@pytest.mark.parametrize("scale", [1e140, 1e160, 1e300])
def test_the_error_is_the_same_at_every_scale_that_float64_has(scale):
    z = np.random.default_rng(0).normal(size=(20, 3))
    z_q = z + 0.01
    z_q[0] = 1
    assert goldens.relative_logit_error(z_q * scale, z * scale) == pytest.approx(goldens.relative_logit_error(z_q, z))
    assert goldens.relative_logit_error(z * scale, z) > 1e3
    assert goldens.relative_logit_error(z, z * scale) == pytest.approx(1, rel=0.2)
