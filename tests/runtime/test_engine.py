"""The engine predicts with what was verified, and with nothing else."""

from __future__ import annotations

import logging
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import msgspec
import numpy as np
import pytest

from medfm_compress.runtime import Bundle, Engine, Prediction
from medfm_compress.runtime.activation import probabilities
from medfm_compress.runtime.bundle.bundle import rewrite_bundle
from medfm_compress.runtime.errors import BundleRefused, ImageRefused, InputError, Refused
from medfm_compress.runtime.image_spec import ColourRule
from medfm_compress.runtime.preprocess import preprocess
from medfm_compress.runtime.read_image import read_image
from medfm_compress.runtime.sessions.onnxruntime import OnnxRuntimeSession, from_bytes
from medfm_compress.runtime.task import Task


@pytest.fixture(scope="module")
def passed(tiny, tmp_path_factory):
    return tiny.bundle(tmp_path_factory.mktemp("engine") / "tiny.medfm", (tiny.OV, tiny.ORT))


def test_a_prediction_is_the_network_on_the_one_preprocessing(tiny, passed):
    tensor = preprocess(read_image(tiny.image()), tiny.SPEC)
    logits = from_bytes([tiny.network()], 1).run({"image": tensor})["logits"]
    with Engine(passed, threads=1) as engine:
        prediction = engine.predict(tiny.image())
    expected = probabilities(logits, tiny.TASK)[0, 0]
    assert prediction.probabilities["opacity"] == pytest.approx(expected, abs=1e-5)
    assert prediction.findings == {"opacity": bool(expected >= 0.5)}
    assert prediction.label is None and prediction.flags == ()
    assert prediction.variant == "openvino-cpu-fp32"
    assert prediction.model_digest == Bundle.open(passed).model_digest
    assert prediction.intended_use == "tests only"
    assert prediction.elapsed_ms > 0
    assert msgspec.json.decode(msgspec.json.encode(prediction), type=Prediction) == prediction


def test_the_chosen_variants_own_temperature_and_threshold_decide(tiny, tmp_path):
    with Engine(tiny.bundle(tmp_path / "task.medfm", (tiny.OV, tiny.ORT)), threads=1) as engine:
        plain = engine.predict(tiny.image()).probabilities["opacity"]
    expected = 1 / (1 + (1 / plain - 1) ** 0.5)  # a temperature of 2 halves the logit
    answers = {}
    for threshold in (expected - 0.01, expected + 0.01):
        point = msgspec.structs.replace(tiny.POINT, threshold=threshold)
        own = msgspec.structs.replace(tiny.ORT, temperature=2.0, operating_points=(point,))
        path = tiny.bundle(tmp_path / "own.medfm", (tiny.OV, own))
        for backend in ("openvino", "onnxruntime"):
            with Engine(path, backend=backend, threads=1) as engine:
                assert engine.task == engine.manifest.task_of(engine.variant)
                answers[backend, threshold < expected] = engine.predict(tiny.image())
    own_called, own_not = answers["onnxruntime", True], answers["onnxruntime", False]
    assert own_called.probabilities["opacity"] == pytest.approx(expected, abs=1e-4)
    assert (own_called.findings, own_not.findings) == ({"opacity": True}, {"opacity": False})
    theirs = answers["openvino", True]
    assert theirs.probabilities["opacity"] == pytest.approx(plain, abs=1e-4)
    assert theirs.findings == answers["openvino", False].findings == {"opacity": plain >= tiny.POINT.threshold}


def test_files_bytes_and_arrays_give_the_same(tiny, passed, tmp_path):
    from PIL import Image

    path = tmp_path / "image.png"
    Image.fromarray(tiny.image()).save(path)
    with Engine(passed, threads=1) as engine:
        answers = [engine.predict(source) for source in (path, str(path), path.read_bytes(), tiny.image())]
    assert len({answer.probabilities["opacity"] for answer in answers}) == 1


def test_both_backends_agree(tiny, passed):
    answers = {}
    for backend in ("openvino", "onnxruntime"):
        with Engine(passed, backend=backend, threads=1) as engine:
            assert engine.info.backend == engine.variant.backend == backend
            answers[backend] = engine.predict(tiny.image()).probabilities["opacity"]
    assert answers["openvino"] == pytest.approx(answers["onnxruntime"], abs=1e-5)


def test_eight_threads_get_what_one_gets(tiny, passed):
    images = [tiny.image(seed) for seed in range(8)]
    for backend in ("openvino", "onnxruntime"):
        with Engine(passed, backend=backend, threads=1) as engine:
            alone = [engine.predict(image).probabilities for image in images]
            with ThreadPoolExecutor(8) as pool:
                assert list(pool.map(lambda image: engine.predict(image).probabilities, images * 10)) == alone * 10


@pytest.mark.parametrize(
    ("outcome", "advice"),
    [
        ("fail", "on it is fail. The report says which check failed: have another bundle made"),
        (
            "inconclusive",
            "the report says what was missing: bench it on more cases and run the gate again, or say that",
        ),
        (None, "run the gate, or say that it may be used without (unverified=True)"),
    ],
)
def test_without_a_passing_verdict_there_is_no_engine(tiny, tmp_path, outcome, advice):
    path = tiny.bundle(tmp_path / "a.medfm", (tiny.OV, tiny.ORT), outcome=outcome)
    with pytest.raises(BundleRefused) as info:
        Engine(path, threads=1)
    assert "openvino-cpu-fp32: " in str(info.value) and "onnxruntime-cpu-fp32: " in str(info.value)
    assert advice in str(info.value)
    assert ("unverified=True" in str(info.value)) == (outcome != "fail")
    with Engine(path, threads=1, unverified=True) as engine:
        assert engine.predict(tiny.image()).flags == ("unverified-model",)


@pytest.mark.parametrize("source", [None, 3, {"a": 1}])
def test_what_is_no_image_is_named_and_what_is_one(tiny, passed, source):
    with Engine(passed, threads=1) as engine:
        with pytest.raises(InputError) as info:
            engine.predict(source)
        assert str(info.value).startswith(f"no image can be read from a value of type {type(source).__name__}; give ")
        assert "a pydicom Dataset, or a numpy array [H, W]" in str(info.value)


def test_it_passes_over_what_cannot_run_and_says_why(tiny, tmp_path, caplog):
    alien = msgspec.structs.replace(tiny.OV, instruction_set=("warp_drive",))
    path = tiny.bundle(tmp_path / "a.medfm", (alien, tiny.ORT))
    with caplog.at_level(logging.INFO, "medfm_compress.runtime"), Engine(path, threads=1) as engine:
        assert engine.variant == tiny.ORT
    assert "onnxruntime-cpu-fp32" in caplog.text and "warp_drive" in caplog.text
    with pytest.raises(BundleRefused, match="warp_drive"):
        Engine(path, backend="openvino", threads=1)


def test_a_failed_variant_is_not_used_where_another_passed(tiny, tmp_path):
    path = tiny.bundle(tmp_path / "a.medfm", (tiny.OV, tiny.ORT))
    rewrite_bundle(path, path, verdicts=[tiny.verdict(path, tiny.OV.name, "fail")])
    with Engine(path, threads=1) as engine:
        assert engine.variant == tiny.ORT


def test_another_model_under_the_same_goldens_is_refused(tiny, tmp_path):
    path = tiny.bundle(tmp_path / "a.medfm", outcome=None)
    rewrite_bundle(path, path, files={"model.onnx": tiny.network(seed=1)})
    with pytest.raises(BundleRefused, match="computes something else"):
        Engine(path, threads=1, unverified=True)


def test_one_golden_case_is_replayed_at_the_start(tiny, tmp_path, monkeypatch):
    path = tiny.bundle(tmp_path / "a.medfm")
    runs = []
    run = OnnxRuntimeSession.run
    monkeypatch.setattr(OnnxRuntimeSession, "run", lambda self, inputs: runs.append(1) or run(self, inputs))
    with Engine(path, threads=1) as engine:
        assert len(runs) == 1 and 0 <= engine.golden_error < 1e-5


def test_only_the_chosen_variants_files_are_hashed_and_those_always_are(tiny, tmp_path):
    other = msgspec.structs.replace(tiny.OV, files=("other.onnx",))
    path = tmp_path / "a.medfm"
    files = {**tiny.contents((tiny.ORT,)), **tiny.contents((other,)), "other.onnx": tiny.network()}
    tiny.write(path, (tiny.ORT, other), files)
    whole = path.read_bytes()
    first, second = whole.index(tiny.network()), whole.rindex(tiny.network())
    for start, backend, refused in (
        (first, "onnxruntime", True),
        (first, "openvino", False),
        (second, "onnxruntime", False),
        (second, "openvino", True),
    ):
        damaged = bytearray(whole)
        damaged[start + 100] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(BundleRefused, match="does not match its sha256"):
            Bundle.open(path)
        if refused:
            with pytest.raises(BundleRefused, match="does not match its sha256"):
                Engine(path, backend=backend, threads=1, unverified=True)
        else:
            with Engine(path, backend=backend, threads=1, unverified=True) as engine:
                assert engine.variant.backend == backend


def test_a_model_with_other_tensors_is_refused(tiny, tmp_path):
    path = tiny.bundle(tmp_path / "a.medfm", outcome=None)
    renamed = tiny.network().replace(b"logits", b"l0gits")
    rewrite_bundle(path, path, files={"model.onnx": renamed})
    with pytest.raises(BundleRefused, match="l0gits"):
        Engine(path, threads=1, unverified=True)


def test_an_output_that_is_not_finite_is_no_result(tiny, tmp_path):
    path = tiny.bundle(tmp_path / "a.medfm", model=tiny.fragile_network())
    dark, bright = np.full((2, 40, 40), 10, np.uint8) + np.arange(40, dtype=np.uint8), tiny.image()
    with Engine(path, threads=1) as engine:
        with pytest.raises(Refused, match="not finite"):
            engine.predict(dark[0])
        assert 0 <= engine.predict(bright).probabilities["opacity"] <= 1


@pytest.mark.parametrize("score", [np.nan, -0.01, 1.01])
def test_a_probability_that_is_none_is_no_result(tiny, passed, monkeypatch, score):
    with Engine(passed, threads=1) as engine:
        monkeypatch.setattr("medfm_compress.runtime.activation._activated", lambda *_: np.full((1, 1), score))
        with pytest.raises(Refused, match="not a number in"):
            engine.predict(tiny.image())


def test_a_closed_engine_a_bad_image_and_bad_options(tiny, passed, tmp_path):
    engine = Engine(passed, threads=1)
    (tmp_path / "not.png").write_text("no image")
    with pytest.raises(ImageRefused):
        engine.predict(tmp_path / "not.png")
    with pytest.raises(InputError, match=r"takes \(1, 1, 32, 32\)"):
        engine.logits(np.zeros((1, 1, 8, 8), np.float32))
    engine.close()
    engine.close()
    with pytest.raises(InputError, match="closed"):
        engine.predict(tiny.image())
    with pytest.raises(InputError, match="no backend 'abacus'"):
        Engine(passed, backend="abacus")
    with pytest.raises(InputError, match="threads is 0"):
        Engine(passed, threads=0)


def test_multiclass_gives_a_label_and_multilabel_no_call_without_a_point(tiny, tmp_path):
    model = tiny.network(labels=3)
    for kind in ("multiclass", "multilabel"):
        task = Task(kind=kind, labels=("a", "b", "c"))
        path = tiny.bundle(tmp_path / f"{kind}.medfm", model=model, task=task)
        with Engine(path, threads=1) as engine:
            answer = engine.predict(tiny.image())
        best = max(answer.probabilities, key=answer.probabilities.__getitem__)
        if kind == "multiclass":
            assert answer.label == best
            assert answer.findings == {name: name == best for name in task.labels}
            assert sum(answer.probabilities.values()) == pytest.approx(1)
        else:
            assert answer.label is None
            assert answer.findings == dict.fromkeys(task.labels)


def test_predicting_from_a_png_loads_only_what_it_needs(tiny, passed, tmp_path):
    from PIL import Image

    Image.fromarray(tiny.image()).save(tmp_path / "image.png")
    code = (
        "import sys\n"
        "from medfm_compress.runtime import Engine\n"
        f"with Engine({str(passed)!r}, backend='onnxruntime', threads=1) as engine:\n"
        f"    engine.predict({str(tmp_path / 'image.png')!r})\n"
        "heavy = {'pydicom', 'openvino', 'torch', 'typer', 'yaml', 'scipy', 'zipfile'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=60)


def test_importing_the_runtime_is_cheap():
    code = (
        "import sys, time; start = time.process_time(); import medfm_compress.runtime as r; "
        "assert time.process_time() - start < 0.35; assert 'numpy' not in sys.modules; "
        "assert {'Engine', 'Bundle'} <= set(dir(r)); assert not hasattr(r, 'nope')"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.fixture(scope="module")
def photograph():
    """Colour that does not follow from brightness, ``[48, 48, 3]``."""
    return np.random.default_rng(3).integers(0, 255, (48, 48, 3), dtype=np.uint8)


def test_an_image_of_the_other_kind_of_colour_is_flagged(tiny, tmp_path, photograph, make_dicom):
    grey_rule = msgspec.structs.replace(tiny.SPEC, colour_rule=ColourRule(images="grey"))
    with Engine(tiny.bundle(tmp_path / "grey.medfm", spec=grey_rule), threads=1) as engine:
        assert engine.predict(photograph).flags == ("colour-image-for-grey-model",)
        undeclared = "dicom-kind-not-declared"  # for the bundle names no modality
        assert engine.predict(make_dicom(photograph)).flags == (undeclared, "colour-image-for-grey-model")
        equal = np.repeat(photograph[..., :1], 3, axis=2)
        assert engine.predict(equal).flags == engine.predict(photograph[..., 0]).flags == ()
        assert "colour-image-for-grey-model" not in engine.predict(make_dicom(photograph[..., 0])).flags
    colour_rule = msgspec.structs.replace(tiny.SPEC, colour_rule=ColourRule(images="colour"))
    path = tiny.bundle(tmp_path / "colour.medfm", spec=colour_rule, outcome=None)
    with Engine(path, threads=1, unverified=True) as engine:
        assert engine.predict(photograph).flags == ("unverified-model",)
        assert engine.predict(photograph[..., 0]).flags == ("grey-image-for-colour-model", "unverified-model")


def test_an_image_of_the_other_kind_of_colour_is_refused_by_rule(tiny, tmp_path, photograph):
    spec = msgspec.structs.replace(tiny.SPEC, colour_rule=ColourRule(images="grey", others="refuse"))
    with Engine(tiny.bundle(tmp_path / "strict.medfm", spec=spec), threads=1) as engine:
        with pytest.raises(ImageRefused, match="the image is in colour, and the network was made for grey images"):
            engine.predict(photograph)
        assert engine.predict(photograph[..., 0]).flags == ()


def test_a_bundle_that_states_no_kind_of_colour_flags_nothing(tiny, passed, photograph):
    with Engine(passed, threads=1) as engine:
        assert engine.predict(photograph).flags == engine.predict(photograph[..., 0]).flags == ()
