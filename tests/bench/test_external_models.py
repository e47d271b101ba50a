"""External models: ONNX files of other tools, bundles of others, and files that are neither or worse."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import msgspec
import numpy as np
import pytest

from medfm_compress.bench.external_models import external_model
from medfm_compress.bench.measure.latency import ModelUnderTest, Plan, measure
from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.task import Task

QUICK = Plan(rounds=1, turn_ms=1, min_calls=2, max_calls=2, warm_up_s=0.1)


def graph(
    shape: tuple[object, ...] = (1, 1, 32, 32),
    labels: int = 2,
    kind: int = 1,
    tail: tuple[str, ...] = (),
    inputs: int = 1,
) -> bytes:
    """ONNX of a pooled linear model with any input shape and type, ended by the operators ``tail``."""
    pytest.importorskip("onnx")
    from onnx import helper, numpy_helper

    last = ["logits", *(f"t{number}" for number in range(len(tail)))]
    nodes = [
        helper.make_node("Cast", ["image"], ["x"], to=1),
        helper.make_node("GlobalAveragePool", ["x"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("MatMul", ["f", "W"], ["logits"]),
        *(helper.make_node(name, [last[n]], [last[n + 1]]) for n, name in enumerate(tail)),
    ]
    channels = 3 if shape[1] == 3 else 1
    weights = np.random.default_rng(0).normal(size=(channels, labels)).astype(np.float32)
    made = helper.make_graph(
        nodes,
        "external model",
        [helper.make_tensor_value_info(f"image{n or ''}", kind, shape) for n in range(inputs)],
        [helper.make_tensor_value_info(last[-1], 1, ["n", labels])],
        [numpy_helper.from_array(weights, "W")],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=9).SerializeToString()


@pytest.fixture
def refuse(tiny: ModuleType, tmp_path: Path):
    def make(content: bytes, match: str, task: Task = tiny.TASK, name: str = "external.onnx") -> None:
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(InputError, match=match) as caught:
            external_model(path, tiny.SPEC, task, 1)
        assert "\n" not in str(caught.value)

    return make


@pytest.mark.parametrize("shape", [(1, 1, 32, 32), ("n", 1, 32, 32), ("n", 1, "h", "w"), ("n", "c", "h", "w")])
def test_a_float_network_runs_beside_the_others(tiny: ModuleType, tmp_path: Path, shape: tuple[object, ...]) -> None:
    path = tmp_path / "external.onnx"
    path.write_bytes(graph(shape))
    external = external_model(path, tiny.SPEC, tiny.TASK, 1)
    assert (external.name, external.spec, external.size_bytes) == ("external", tiny.SPEC, path.stat().st_size)
    assert (external.task.labels, external.task.operating_points) == (tiny.TASK.labels, ())
    assert measure([external], QUICK)[0].target == "onnxruntime:cpu:fp32:1"


def test_a_quantized_network_says_int8(tiny: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "external.onnx"
    path.write_bytes(tiny.quantized_network())
    assert measure([external_model(path, tiny.SPEC, tiny.TASK, 1)], QUICK)[0].target == "onnxruntime:cpu:int8:1"


def test_another_models_temperature_and_thresholds_are_not_assumed(tiny: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "external.onnx"
    path.write_bytes(graph())
    warm = msgspec.structs.replace(tiny.TASK, temperature=2.5)
    assert external_model(path, tiny.SPEC, warm, 1).task.temperature == 1.0


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ({"shape": (4, 1, 32, 32)}, r"input is float32 \[4, 1, 32, 32\], needed is float32 \[1, 1, 32, 32\]"),
        ({"shape": (1, 3, 32, 32)}, r"input is float32 \[1, 3, 32, 32\]"),
        ({"shape": (1, 1, 64, 64)}, r"input is float32 \[1, 1, 64, 64\]"),
        ({"shape": (1, 1, 32)}, r"input is float32 \[1, 1, 32\]"),
        ({"kind": 2}, r"input is uint8 \[1, 1, 32, 32\], .* without preprocessing inside"),
        ({"kind": 10}, r"input is float16 "),
        ({"inputs": 2}, "has 2 inputs, one is allowed"),
        ({"labels": 3}, r"first output is \[1, 3\] for one image, needed is \[1, 2\], .* normal, opacity"),
        ({"labels": 1}, r"first output is \[1, 1\] for one image"),
        ({"tail": ("Sigmoid",)}, "ends in a sigmoid for each label"),
        ({"tail": ("Sigmoid", "Abs")}, "external.onnx#logits, external.onnx#softmax, external.onnx#sigmoid"),
    ],
)
def test_what_does_not_fit_is_said(refuse, content: dict[str, object], match: str) -> None:
    refuse(graph(**content), match)


def logits_of(external: ModelUnderTest, image: np.ndarray) -> np.ndarray:
    session = external.session.open()
    return session.run({session.input_names[0]: image})[session.output_names[0]]


@pytest.mark.parametrize(
    ("tail", "said", "kind"),
    [
        (("Softmax",), "", "binary"),
        (("Softmax", "Abs"), "#softmax", "binary"),
        (("Sigmoid",), "", "multilabel"),
        (("Sigmoid", "Abs"), "#sigmoid", "multilabel"),
        (("Sigmoid", "Abs"), "#logits", "multilabel"),
    ],
)
def test_probabilities_are_read_as_what_they_are(
    tiny: ModuleType, tmp_path: Path, tail: tuple[str, ...], said: str, kind: str
) -> None:
    """An ``Abs`` changes no probability and hides the operator."""
    path, plain = tmp_path / "external.onnx", tmp_path / "plain.onnx"
    path.write_bytes(graph(tail=tail))
    plain.write_bytes(graph())
    task = Task(kind=kind, labels=("opacity", "nodule"))  # type: ignore[arg-type]
    image = np.random.default_rng(0).normal(size=(1, 1, 32, 32)).astype(np.float32) + 0.5
    got = logits_of(external_model(f"{path}{said}", tiny.SPEC, task, 1), image).astype(np.float64)
    logits = logits_of(external_model(f"{plain}#logits", tiny.SPEC, task, 1), image)
    if said == "#logits":
        assert ((got > 0) & (got < 1)).all(), "they stay as they are, for the user says so"
    else:
        shift = (got - logits).mean() if kind == "binary" else 0  # a softmax does not change with a common shift
        np.testing.assert_allclose(got - shift, logits, atol=1e-4)


def test_a_softmax_is_no_external_model_of_independent_findings(refuse, tiny: ModuleType, tmp_path: Path) -> None:
    task = Task(kind="multilabel", labels=("opacity", "nodule"))
    refuse(graph(tail=("Softmax",)), "ends in a softmax", task=task)
    with pytest.raises(InputError, match=r"#logits cannot be so: .* always add up to 1"):
        external_model(f"{tmp_path / 'external.onnx'}#logits", tiny.SPEC, task, 1)


@pytest.mark.parametrize(("said", "match"), [("#softmax", r"reach from .* on noise"), ("#odds", "must be one of")])
def test_what_is_said_behind_a_path_is_checked(tiny: ModuleType, tmp_path: Path, said: str, match: str) -> None:
    (tmp_path / "external.onnx").write_bytes(graph((1, 3, 32, 32)))
    spec = msgspec.structs.replace(tiny.SPEC, colour="rgb", mean=(0.5,) * 3, std=(0.001,) * 3)
    with pytest.raises(InputError, match=match):
        external_model(f"{tmp_path / 'external.onnx'}{said}", spec, tiny.TASK, 1)


@pytest.mark.parametrize("keep", [0.0, 0.3, 0.9])
def test_a_truncated_file_is_refused(refuse, keep: float) -> None:
    whole = graph()
    refuse(whole[: int(keep * len(whole))], "external.onnx")


def test_noise_is_refused(refuse) -> None:
    refuse(np.random.default_rng(0).bytes(4096), "external.onnx")


def test_flipped_bytes_never_escape_as_another_error(tiny: ModuleType, tmp_path: Path) -> None:
    random, path = np.random.default_rng(1), tmp_path / "external.onnx"
    for _ in range(4):
        damaged = bytearray(graph())
        for place in random.integers(0, len(damaged), 4):
            damaged[place] ^= 0xFF
        path.write_bytes(damaged)
        try:
            assert external_model(path, tiny.SPEC, tiny.TASK, 1).name == "external"
        except InputError:
            continue


def test_weights_in_another_file_are_refused(refuse, tiny: ModuleType) -> None:
    """They could point anywhere on the machine."""
    onnx = pytest.importorskip("onnx")
    model = onnx.load_from_string(graph())
    weights = model.graph.initializer[0]
    onnx.external_data_helper.set_external_data(weights, "../../etc/passwd")
    weights.ClearField("raw_data")
    weights.data_location = 1
    refuse(model.SerializeToString(), "keeps weights in another file")


def test_a_variant_of_another_bundle(tiny: ModuleType, tmp_path: Path) -> None:
    path = tiny.bundle(tmp_path / "other.medfm", outcome=None)
    other = Task(kind="binary", labels=("healthy", "ill"))
    for address in (path, f"{path}#onnxruntime-cpu-fp32"):
        external = external_model(address, tiny.SPEC, other, 1)
        assert external.name == "other (onnxruntime-cpu-fp32)"
        assert external.task == tiny.TASK
        assert measure([external], QUICK)[0].target == "onnxruntime:cpu:fp32:1"
    with pytest.raises(InputError, match="no variant called 'int4'; it has onnxruntime-cpu-fp32"):
        external_model(f"{path}#int4", tiny.SPEC, other, 1)


def test_a_damaged_bundle_is_refused(refuse, tiny: ModuleType, tmp_path: Path) -> None:
    content = bytearray(tiny.bundle(tmp_path / "other.medfm", outcome=None).read_bytes())
    content[len(content) // 2] ^= 0xFF
    refuse(bytes(content), "external.medfm cannot be used", name="external.medfm")


def test_a_missing_file_says_what_is_allowed(tiny: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"give an \.onnx file or a \.medfm bundle"):
        external_model(tmp_path / "nowhere.onnx", tiny.SPEC, tiny.TASK, 1)
