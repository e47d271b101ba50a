"""The one file against `Engine`: same probabilities, same findings, or nothing is written."""

import json

import msgspec
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from medfm_compress.export.self_contained import parity
from medfm_compress.export.self_contained.build import export_self_contained
from medfm_compress.export.self_contained.compose import compose
from medfm_compress.export.self_contained.options import SelfContainedOptions
from medfm_compress.export.self_contained.preprocessing import GraphForm
from medfm_compress.runtime.bundle.bundle import Bundle
from medfm_compress.runtime.engine import Engine
from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.image_spec import ColourRule, ImageSpec
from medfm_compress.runtime.task import OperatingPoint, Task

POINT = OperatingPoint(
    label="b", threshold=0.31, rule="youden", sensitivity=0.9, specificity=0.8, positives=4, negatives=6
)
TASKS = {
    "binary": Task(kind="binary", labels=("a", "b"), temperature=1.7, operating_points=(POINT,)),
    "multiclass": Task(kind="multiclass", labels=("a", "b", "c"), temperature=0.4),
    "multiclass with a point": Task(kind="multiclass", labels=("a", "b", "c"), operating_points=(POINT,)),
    "multilabel": Task(kind="multilabel", labels=("a", "b", "c"), temperature=2.0, operating_points=(POINT,)),
}


def write(tiny, path, task=TASKS["binary"], **options):
    model = tiny.network(len(task.labels))
    tiny.bundle(path / "a.medfm", task=task, model=model)
    return export_self_contained(Bundle.open(path / "a.medfm"), SelfContainedOptions(**options), path / "a.onnx")


def opened(path):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(str(path), options, ["CPUExecutionProvider"])


@pytest.mark.parametrize("resize", ["resize", "matmul"])
@pytest.mark.parametrize("kind", TASKS)
def test_it_says_what_the_engine_says(tiny, tmp_path, kind, resize):
    write(tiny, tmp_path, TASKS[kind], resize_with=resize)
    session, task = opened(tmp_path / "a.onnx"), TASKS[kind]
    random = np.random.default_rng(0)
    with Engine(tmp_path / "a.medfm") as engine:
        for shape in ((33, 48), (32, 32, 3), (97, 60), (200, 41, 3)):
            image = random.integers(0, 256, shape, dtype=np.uint8)
            prediction = engine.predict(image)
            pixels = image if image.ndim == 3 else image[..., None]
            logits, scores, called = session.run(None, {"pixels": pixels})
            assert logits.shape == (1, len(task.labels)) and logits.dtype == np.float32
            assert scores[0] == pytest.approx(list(prediction.probabilities.values()), abs=1e-6)
            measured = dict(zip(task.findings, called[0].tolist(), strict=True))
            assert {finding: measured[finding] for finding in engine_findings(prediction)} == engine_findings(
                prediction
            )


def engine_findings(prediction):
    return {finding: value for finding, value in prediction.findings.items() if value is not None}


def test_its_metadata_say_what_a_host_has_to_know(tiny, tmp_path):
    written = write(tiny, tmp_path)
    manifest = Bundle.open(tmp_path / "a.medfm").manifest
    text = opened(tmp_path / "a.onnx").get_modelmeta().custom_metadata_map
    assert text["medfm.model_digest"] == manifest.model_digest
    assert text["medfm.intended_use"] == manifest.intended_use
    assert (text["medfm.variant"], text["medfm.verdict"]) == (manifest.variants[0].name, "pass")
    assert json.loads(text["medfm.labels"]) == ["a", "b"] and json.loads(text["medfm.findings"]) == ["b"]
    assert json.loads(text["medfm.thresholds"]) == {"b": 0.31}
    assert msgspec.json.decode(text["medfm.image_spec"], type=ImageSpec) == manifest.image_spec
    assert json.loads(text["medfm.parity"]) == msgspec.to_builtins(written.parity)
    assert written.parity.relative_logit_error < 1e-5 and written.parity.cases == 6


def test_the_same_bundle_gives_the_same_file(tiny, tmp_path):
    write(tiny, tmp_path)
    first = (tmp_path / "a.onnx").read_bytes()
    write(tiny, tmp_path)
    assert (tmp_path / "a.onnx").read_bytes() == first


@pytest.mark.parametrize("pixels", ["uint16", "dicom"])
def test_other_pixels_have_inputs_of_their_own(tiny, tmp_path, pixels):
    written = write(tiny, tmp_path, pixels=pixels)
    names = {value.name for value in opened(tmp_path / "a.onnx").get_inputs()}
    assert names >= ({"pixels", "white"} if pixels == "uint16" else {"pixels", "rescale_slope", "window_width"})
    assert written.parity.relative_logit_error < 1e-5


@pytest.mark.parametrize("images", ["grey", "colour"])
@pytest.mark.parametrize("pixels", ["uint8", "uint16", "dicom"])
def test_a_bundle_that_refuses_images_of_the_other_colour_is_written(tiny, tmp_path, images, pixels):
    spec = msgspec.structs.replace(tiny.SPEC, colour_rule=ColourRule(images=images, others="refuse"))
    bundle = Bundle.open(tiny.bundle(tmp_path / "a.medfm", spec=spec))
    if (images, pixels) == ("colour", "dicom"):
        with pytest.raises(InputError, match="takes grey images, and the bundle refuses them"):
            export_self_contained(bundle, SelfContainedOptions(pixels=pixels), tmp_path / "a.onnx")
        assert not (tmp_path / "a.onnx").exists()
        return
    written = export_self_contained(bundle, SelfContainedOptions(pixels=pixels), tmp_path / "a.onnx")
    shapes = [case.values.ndim for case, _ in parity._cases(spec, pixels)]
    assert written.parity.cases == len(shapes) and written.parity.relative_logit_error < 1e-5
    both = [2] if pixels == "dicom" else [2, 3]
    assert shapes == 3 * (both if images == "grey" else [3])


def test_a_bundle_without_a_verdict_is_written_and_says_so(tiny, tmp_path):
    tiny.bundle(tmp_path / "a.medfm", outcome=None)
    written = export_self_contained(Bundle.open(tmp_path / "a.medfm"), SelfContainedOptions(), tmp_path / "a.onnx")
    assert written.verdict == "none"
    assert opened(tmp_path / "a.onnx").get_modelmeta().custom_metadata_map["medfm.verdict"] == "none"


@pytest.mark.parametrize("outcome", ["fail", "inconclusive"])
def test_a_bundle_that_failed_is_refused(tiny, tmp_path, outcome):
    tiny.bundle(tmp_path / "a.medfm", outcome=outcome)
    with pytest.raises(InputError, match=f"has the verdict {outcome}"):
        export_self_contained(Bundle.open(tmp_path / "a.medfm"), SelfContainedOptions(), tmp_path / "a.onnx")
    assert not (tmp_path / "a.onnx").exists()


def foreign(model):
    """``model`` with an operator of ONNX Runtime's own."""
    proto = onnx.load_model_from_string(model)
    proto.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    node = helper.make_node("QuickGelu", ["raw"], ["logits"], domain="com.microsoft")
    proto.graph.node[-1].output[0] = "raw"
    proto.graph.node.append(node)
    return proto.SerializeToString()


def test_operators_that_are_not_onnxs_own_are_refused_by_name_and_passed_over_without(tiny, tmp_path):
    own = msgspec.structs.replace(tiny.ORT, name="fused", files=("fused.onnx",))
    files = tiny.contents((own,), foreign(tiny.network()))
    with pytest.raises(InputError, match=r"fused has operators of com\.microsoft, which are not ONNX's own"):
        tiny.write(tmp_path / "a.medfm", (own,), files)
        export_self_contained(Bundle.open(tmp_path / "a.medfm"), SelfContainedOptions(), tmp_path / "a.onnx")
    tiny.write(tmp_path / "b.medfm", (own, tiny.ORT), files | tiny.contents((tiny.ORT,)))
    bundle = Bundle.open(tmp_path / "b.medfm")
    assert export_self_contained(bundle, SelfContainedOptions(), tmp_path / "a.onnx").variant == tiny.ORT.name
    with pytest.raises(InputError, match=r"variant fused of b\.medfm has operators of com\.microsoft"):
        export_self_contained(bundle, SelfContainedOptions(variant="fused"), tmp_path / "c.onnx")
    with pytest.raises(InputError, match="has no variant 'other'"):
        export_self_contained(bundle, SelfContainedOptions(variant="other"), tmp_path / "c.onnx")


def test_what_runs_on_openvino_or_on_some_cpus_only_is_passed_over(tiny, tmp_path):
    int8 = msgspec.structs.replace(
        tiny.ORT, name="int8", files=("int8.onnx",), precision="int8", instruction_set=("sse2|asimd",)
    )
    files = tiny.contents((tiny.OV,)) | tiny.contents((int8,), tiny.quantized_network())
    tiny.write(tmp_path / "a.medfm", (tiny.OV, int8), files)
    bundle = Bundle.open(tmp_path / "a.medfm")
    with pytest.raises(InputError, match=r"openvino-cpu-fp32 runs on openvino.*int8 needs CPU instructions sse2"):
        export_self_contained(bundle, SelfContainedOptions(), tmp_path / "a.onnx")
    export_self_contained(bundle, SelfContainedOptions(variant="int8"), tmp_path / "a.onnx")
    text = opened(tmp_path / "a.onnx").get_modelmeta().custom_metadata_map
    assert json.loads(text["medfm.instruction_set"]) == ["sse2|asimd"]


def test_a_file_that_says_something_else_is_not_written(tiny, tmp_path, monkeypatch):
    tiny.bundle(tmp_path / "a.medfm")
    real = parity.preprocess
    monkeypatch.setattr(parity, "preprocess", lambda *arguments: real(*arguments) * 1.05)
    with pytest.raises(InputError, match=r"relative logit error .*nothing was written"):
        export_self_contained(Bundle.open(tmp_path / "a.medfm"), SelfContainedOptions(), tmp_path / "a.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["a.medfm"]


def test_thresholds_that_are_not_the_runtimes_are_found(tiny, tmp_path, monkeypatch):
    tiny.bundle(tmp_path / "a.medfm")
    monkeypatch.setattr(parity, "decisions", lambda scores, task: np.full(scores.shape, 2))
    with pytest.raises(InputError, match="decides otherwise than the runtime"):
        export_self_contained(Bundle.open(tmp_path / "a.medfm"), SelfContainedOptions(), tmp_path / "a.onnx")


def test_a_logit_that_is_not_finite_gives_no_result(tiny, tmp_path):
    tiny.bundle(tmp_path / "a.medfm", model=tiny.fragile_network())
    export_self_contained(Bundle.open(tmp_path / "a.medfm"), SelfContainedOptions(), tmp_path / "a.onnx")
    session = opened(tmp_path / "a.onnx")
    assert session.run(["findings"], {"pixels": np.full((40, 40, 1), 200, np.uint8)})
    for output in ("logits", "probabilities", "findings"):
        with pytest.raises(Exception, match="refused: a logit is not finite"):
            session.run([output], {"pixels": np.zeros((40, 40, 1), np.uint8)})


def test_names_of_the_network_may_be_any(tiny):
    info = helper.make_tensor_value_info
    nodes = [helper.make_node("ReduceMean", ["pixels", "medfm/axes"], ["probabilities"], keepdims=0)]
    axes = onnx.numpy_helper.from_array(np.array([2, 3]), "medfm/axes")
    ends = info("pixels", TensorProto.FLOAT, [1, 3, 32, 32]), info("probabilities", TensorProto.FLOAT, [1, 3])
    graph = helper.make_graph(nodes, "g", [ends[0]], [ends[1]], [axes])
    network = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    spec = ImageSpec(height_px=32, width_px=32, colour="rgb", mean=(0.0,) * 3, std=(1.0,) * 3)
    model = compose(network.SerializeToString(), spec, TASKS["multilabel"], GraphForm())
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    logits = session.run(["logits"], {"pixels": np.full((32, 32, 1), 51, np.uint8)})[0]
    assert logits == pytest.approx(0.2, abs=1e-6)
