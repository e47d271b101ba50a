"""An ONNX file as a teacher: any batch, logits out of probabilities, and what is refused."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static

from medfm_compress.compress.teacher_outputs.fastest_engine import Asked, fastest_engine
from medfm_compress.compress.teachers.from_onnx import OnnxTeacher
from medfm_compress.compress.teachers.onnx_network import network_of_onnx
from medfm_compress.compress.teachers.open import TeacherSource, open_teacher
from medfm_compress.compress.training.config import TrainingConfig
from medfm_compress.runtime.errors import InputError, ModelError
from medfm_compress.runtime.image_spec import ImageSpec
from medfm_compress.runtime.strict_json import decode, encode
from medfm_compress.runtime.task import Task

STUDY = Task(kind="multiclass", labels=("a", "b", "c"))
SPEC = ImageSpec(height_px=8, width_px=8, colour="rgb", mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3))
WEIGHTS = np.random.default_rng(0).normal(0, 0.3, (3 * 8 * 8, 3)).astype(np.float32)


def write(
    path: Path,
    ending: Sequence[str] = (),
    *,
    batch: int | str = "n",
    weights: np.ndarray = WEIGHTS,
    dtype: int = TensorProto.FLOAT,
    extra: bool = False,
) -> str:
    """A linear network on flattened images, and then the operators of ``ending``."""
    nodes = [
        helper.make_node("Flatten", ["image"], ["flat"], axis=1),
        helper.make_node("MatMul", ["flat", "w"], ["x0"]),
    ]
    names = [f"x{number}" for number in range(len(ending) + 1)]
    nodes += [helper.make_node(kind, [names[i]], [names[i + 1]]) for i, kind in enumerate(ending)]
    outputs = [helper.make_tensor_value_info(names[-1], dtype, [batch, weights.shape[1]])]
    if extra:
        outputs.append(helper.make_tensor_value_info("flat", dtype, [batch, len(weights)]))
    image = helper.make_tensor_value_info("image", dtype, [batch, 3, 8, 8])
    kind = np.float16 if dtype == TensorProto.FLOAT16 else np.float32
    graph = helper.make_graph(nodes, "g", [image], outputs, [numpy_helper.from_array(weights.astype(kind), "w")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return str(path)


def opened(path: str, study: Task = STUDY, spec: ImageSpec | None = SPEC, **options: object) -> OnnxTeacher:
    if spec is not None:
        supplied = Path(path).with_suffix(".spec.json")
        supplied.write_bytes(encode(spec))
        options["spec"] = str(supplied)
    source = TeacherSource(source=path, **options)  # type: ignore[arg-type]
    teacher = open_teacher((source,), study, TrainingConfig(device="cpu"))
    assert isinstance(teacher, OnnxTeacher)
    return teacher


def reference(images: torch.Tensor) -> torch.Tensor:
    mean, std = torch.tensor(SPEC.mean)[:, None, None], torch.tensor(SPEC.std)[:, None, None]
    return ((images - mean) / std).flatten(1) @ torch.from_numpy(WEIGHTS)


@pytest.mark.parametrize("batch", ["n", 1, 4])
@pytest.mark.parametrize("count", [1, 5, 33])
def test_any_number_of_images_is_answered(batch: int | str, count: int, tmp_path: Path) -> None:
    path = write(tmp_path / "net.onnx", batch=batch)
    teacher = opened(path, labels=STUDY.labels)
    images = torch.rand(count, 3, 8, 8)
    assert torch.allclose(teacher.answer(images).logits, reference(images), atol=1e-4)
    assert teacher.engine == "onnxruntime fp32"
    assert teacher.card.identity == f"net@{hashlib.sha256(Path(path).read_bytes()).hexdigest()}"
    assert (teacher.card.spec, teacher.card.task, teacher.card.features) == (SPEC, STUDY, ())


@pytest.mark.parametrize("ending", [("Softmax",), ("Softmax", "Identity"), ("LogSoftmax",), ()])
def test_logits_are_taken_out_of_a_softmax(ending: tuple[str, ...], tmp_path: Path) -> None:
    teacher = opened(write(tmp_path / "net.onnx", ending), labels=STUDY.labels)
    images = torch.rand(6, 3, 8, 8)
    supplied = torch.softmax(teacher.answer(images).logits, 1)
    assert torch.allclose(supplied, torch.softmax(reference(images), 1), atol=1e-5)
    assert teacher.card.steps == (("net: log of its softmax",) if "Softmax" in ending else ())


@pytest.mark.parametrize("inside", [True, False])
def test_logits_are_taken_out_of_a_sigmoid(inside: bool, tmp_path: Path) -> None:
    study = Task(kind="multilabel", labels=STUDY.labels)
    teacher = opened(write(tmp_path / "net.onnx", ("Sigmoid",) if inside else ()), study, labels=STUDY.labels)
    images = torch.rand(6, 3, 8, 8)
    supplied = torch.sigmoid(teacher.answer(images).logits)
    assert torch.allclose(supplied, torch.sigmoid(reference(images)), atol=1e-5)
    assert teacher.card.steps == (("net: log-odds of its sigmoid",) if inside else ())


def test_probabilities_that_rounded_to_zero_stay_finite(tmp_path: Path) -> None:
    teacher = opened(write(tmp_path / "net.onnx", ("Softmax",), weights=1000 * WEIGHTS), labels=STUDY.labels)
    logits = teacher.answer(torch.rand(4, 3, 8, 8)).logits
    assert torch.isfinite(logits).all() and logits.min() < -16


def test_a_single_sigmoid_is_a_binary_teacher(tmp_path: Path) -> None:
    study = Task(kind="binary", labels=("normal", "finding"))
    path = write(tmp_path / "net.onnx", ("Sigmoid",), weights=WEIGHTS[:, :1])
    teacher = opened(path, study, labels=study.labels)
    images = torch.rand(4, 3, 8, 8)
    supplied = torch.softmax(teacher.answer(images).logits, 1)[:, 1]
    assert torch.allclose(supplied, torch.sigmoid(reference(images)[:, 0]), atol=1e-5)


def test_a_mapped_file_has_another_identity(tmp_path: Path) -> None:
    path = write(tmp_path / "net.onnx")
    study = Task(kind="binary", labels=("normal", "finding"))
    maps = (
        {"a": "normal", "b": "finding", "c": "finding"},
        {"a": "normal", "b": "finding"},
        {"b": "normal", "a": "finding"},
    )
    teachers = [opened(path, study, labels=STUDY.labels, mapping=mapping) for mapping in maps]
    assert len({teacher.card.identity for teacher in teachers}) == 3
    images = torch.rand(4, 3, 8, 8)
    p = torch.softmax(reference(images), 1)
    supplied = torch.softmax(teachers[0].answer(images).logits, 1)
    assert torch.allclose(supplied, torch.stack([p[:, 0], p[:, 1] + p[:, 2]], 1), atol=1e-5)


def test_a_file_without_a_spec_is_refused_with_the_one_to_write(tmp_path: Path) -> None:
    path = write(tmp_path / "net.onnx")
    with pytest.raises(ModelError, match=r"silent wrong answer.* --teacher-spec") as caught:
        opened(path, spec=None, labels=STUDY.labels)
    text = str(caught.value)
    lines = decode(text[text.index("{") : text.rindex("}") + 1], ImageSpec, source="the message")
    assert lines.shape == SPEC.shape


def test_a_file_without_labels_is_refused_with_the_option_to_add(tmp_path: Path) -> None:
    path = write(tmp_path / "net.onnx")
    with pytest.raises(ModelError, match=r"--teacher-labels a,b,c$"):
        opened(path)
    with pytest.raises(ModelError, match=r"--teacher-labels a,b,c --map a=normal --map b=finding$"):
        opened(path, Task(kind="binary", labels=("normal", "finding")))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"extra": True}, r"has 2 outputs \(x0, flat\); it must have one output of logits"),
        ({"dtype": TensorProto.FLOAT16}, r"maps tensor\(float16\)"),
        ({"weights": np.full_like(WEIGHTS, np.nan)}, "not finite"),
    ],
)
def test_a_graph_that_gives_no_logits_is_refused(options: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=message):
        opened(write(tmp_path / "net.onnx", **options), labels=STUDY.labels)  # type: ignore[arg-type]


def test_other_images_than_the_graph_takes_are_refused(tmp_path: Path) -> None:
    small = ImageSpec(height_px=16, width_px=8, colour="rgb", mean=(0.5,) * 3, std=(0.5,) * 3)
    with pytest.raises(ModelError, match=r"takes images of 3×8×8 .* describes 3×16×8"):
        opened(write(tmp_path / "net.onnx"), spec=small, labels=STUDY.labels)


@pytest.mark.parametrize("declared", [(3, 1, 1), (1, 1, 3), (3, "h", "w")])
@pytest.mark.parametrize("study", [STUDY, Task(kind="segmentation", labels=("a", "b", "c"))], ids=["labels", "masks"])
def test_one_answer_an_image_with_sides_of_one_pixel_is_said_so(
    study: Task, declared: tuple[int | str, ...], tmp_path: Path
) -> None:
    path = write(tmp_path / "net.onnx")
    model = onnx.load(path)
    shape = [-1, 1, 1, 3] if declared == (1, 1, 3) else [-1, 3, 1, 1]
    model.graph.initializer.append(numpy_helper.from_array(np.array(shape), "to"))
    model.graph.node.append(helper.make_node("Reshape", ["x0", "to"], ["y"]))
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", *declared]))
    onnx.save(model, path)
    said = r"gives \[n, (3, 1, 1|1, 1, 3)\]; a classifier's output must be \[n, labels\].*torch\.flatten\(outputs, 1\)"
    with pytest.raises(ModelError, match=said):
        opened(path, study, labels=("a", "b", "c"))
    source = TeacherSource(source=path, spec=str(tmp_path / "net.spec.json"), outputs="logits")
    with pytest.raises(ModelError, match=said):
        network_of_onnx(source, None)


def test_logits_that_are_not_finite_are_refused_when_asked(tmp_path: Path) -> None:
    teacher = opened(write(tmp_path / "net.onnx"), labels=STUDY.labels)
    with pytest.raises(ModelError, match="not finite"):
        teacher.answer(torch.full((1, 3, 8, 8), torch.nan))
    with pytest.raises(InputError, match="logits only"):
        teacher.answer(torch.rand(1, 3, 8, 8), ("embedding",))


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    path = Path(write(tmp_path / "net.onnx"))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ModelError, match=r"is not an ONNX file: .* cut short"):
        opened(str(path), labels=STUDY.labels)
    path.write_bytes(b"no network at all")
    with pytest.raises(ModelError, match="is not an ONNX file"):
        opened(str(path), labels=STUDY.labels)


def test_weights_in_a_file_beside_it_are_read(tmp_path: Path) -> None:
    model = onnx.load(write(tmp_path / "net.onnx"))
    onnx.save(model, tmp_path / "out.onnx", save_as_external_data=True, location="out.bin", size_threshold=0)
    images = torch.rand(2, 3, 8, 8)
    teacher = opened(str(tmp_path / "out.onnx"), labels=STUDY.labels)
    assert torch.allclose(teacher.answer(images).logits, reference(images), atol=1e-4)
    (tmp_path / "out.bin").unlink()
    with pytest.raises(ModelError, match=r"weights in out\.bin, which is not in its folder"):
        opened(str(tmp_path / "out.onnx"), labels=STUDY.labels)


def quantized(path: str, form: QuantFormat) -> str:
    """The file with its weights, activations and output in bytes, as ONNX Runtime's own quantizer writes them."""

    class Noise(CalibrationDataReader):
        def __init__(self) -> None:
            generator = np.random.default_rng(0)
            self.batches = iter([{"image": generator.normal(size=(4, 3, 8, 8)).astype(np.float32)} for _ in range(8)])

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.batches, None)

    out = str(Path(path).with_suffix(f".{form.name}.onnx"))
    quantize_static(path, out, Noise(), quant_format=form, activation_type=QuantType.QUInt8)  # right on any CPU
    return out


def given(path: str, images: torch.Tensor) -> np.ndarray:
    """What plain ONNX Runtime gives for the file."""
    mean, std = torch.tensor(SPEC.mean)[:, None, None], torch.tensor(SPEC.std)[:, None, None]
    return onnxruntime.InferenceSession(path).run(None, {"image": ((images - mean) / std).numpy()})[0]


@pytest.mark.parametrize("form", [QuantFormat.QDQ, QuantFormat.QOperator])
@pytest.mark.parametrize(("ending", "kind"), [("Softmax", "multiclass"), ("Sigmoid", "multilabel")])
def test_probabilities_in_bytes_are_probabilities(form: QuantFormat, ending: str, kind: str, tmp_path: Path) -> None:
    path = quantized(write(tmp_path / "net.onnx", (ending,)), form)
    teacher = opened(path, Task(kind=kind, labels=STUDY.labels), labels=STUDY.labels)  # type: ignore[arg-type]
    images = torch.rand(16, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    logits = teacher.answer(images).logits
    taught = logits.softmax(1) if kind == "multiclass" else logits.sigmoid()
    assert np.abs(taught.numpy() - given(path, images)).max() < 2 / 255
    assert teacher.card.steps


def unclear(path: Path, kind: str, source: str = "Sigmoid") -> str:
    """A file that ends in probabilities that no operator proves: ``clipped``, ``mean`` (of two) or ``rescaled``."""
    path = Path(write(path, (source,)))
    model = onnx.load(path)
    p = model.graph.output[0].name
    numbers = {"low": 0.05, "high": 0.95, "slope": 0.9, "offset": 0.05}
    model.graph.initializer.extend(numpy_helper.from_array(np.array(v, np.float32), k) for k, v in numbers.items())
    add = {
        "clipped": [helper.make_node("Clip", [p, "low", "high"], ["y"])],
        "mean": [helper.make_node("Mul", [p, "slope"], ["q"]), helper.make_node("Mean", [p, "q"], ["y"])],
        "rescaled": [helper.make_node("Mul", [p, "slope"], ["q"]), helper.make_node("Add", ["q", "offset"], ["y"])],
    }[kind]
    model.graph.node.extend(add)
    model.graph.output[0].name = "y"
    onnx.save(model, path)
    return str(path)


@pytest.mark.parametrize("kind", ["clipped", "mean", "rescaled"])
def test_values_that_may_be_either_are_asked_for(kind: str, tmp_path: Path) -> None:
    path = unclear(tmp_path / "net.onnx", kind)
    study = Task(kind="multilabel", labels=STUDY.labels)
    with pytest.raises(InputError, match=r"--teacher-outputs logits, softmax .* or sigmoid"):
        opened(path, study, labels=STUDY.labels)
    images = torch.rand(5, 3, 8, 8)
    as_sigmoid = opened(path, study, labels=STUDY.labels, outputs="sigmoid")
    assert np.allclose(as_sigmoid.answer(images).logits.sigmoid().numpy(), given(path, images), atol=1e-4)
    as_logits = opened(path, study, labels=STUDY.labels, outputs="logits")
    assert np.allclose(as_logits.answer(images).logits.numpy(), given(path, images), atol=1e-6)
    assert as_logits.card.steps == ("net: outputs said to be logits",)


def then(path: str, *steps: tuple[str, float | None]) -> str:
    """The file with further operators behind its output, each with a number or none."""
    model = onnx.load(path)
    for number, (kind, value) in enumerate(steps):
        last, name = model.graph.output[0].name, f"{kind}{number}"
        names = [last] if value is None else [last, f"{name}.value"]
        if value is not None:
            model.graph.initializer.append(numpy_helper.from_array(np.array(value, np.float32), names[1]))
        model.graph.node.append(helper.make_node(kind, names, [name]))
        model.graph.output[0].name = name
    onnx.save(model, path)
    return path


ENDINGS_OUTSIDE = {
    "percent of a softmax": ("multiclass", ("Softmax",), [("Mul", 100.0)]),
    "percent of sigmoids": ("multilabel", ("Sigmoid",), [("Mul", 100.0)]),
    "decimal logarithms": ("multiclass", ("Softmax", "Log"), [("Div", np.log(10.0))]),
    "reversed logarithms": ("multiclass", ("LogSoftmax", "Neg"), []),
    "stretched sigmoids": ("multilabel", ("Sigmoid",), [("Mul", 1.4), ("Sub", 0.2)]),
    "evidence": ("multiclass", ("Softplus",), []),
    "both signs": ("multilabel", ("Tanh",), []),
    "rectified": ("multiclass", ("Relu",), []),
    "logarithms, moved": ("multilabel", ("LogSoftmax",), [("Add", 1e-9)]),
}


@pytest.mark.parametrize("case", ENDINGS_OUTSIDE)
def test_endings_outside_the_unit_interval_are_asked_for(case: str, tmp_path: Path) -> None:
    kind, ending, steps = ENDINGS_OUTSIDE[case]
    path = then(write(tmp_path / "net.onnx", ending), *steps)
    with pytest.raises(ModelError, match=r"--teacher-outputs logits, softmax .* or sigmoid"):
        opened(path, Task(kind=kind, labels=STUDY.labels), labels=STUDY.labels)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("case", "said", "match"),
    [
        ("percent of a softmax", "logits", "always add up to 100"),
        ("percent of a softmax", "softmax", r"outside \[0, 1\]"),
        ("percent of sigmoids", "sigmoid", r"outside \[0, 1\]"),
        ("decimal logarithms", "logits", "another base or with the sign reversed"),
        ("reversed logarithms", "logits", "another base or with the sign reversed"),
        ("stretched sigmoids", "sigmoid", r"outside \[0, 1\]"),
        ("logarithms, moved", "logits", "logarithms of a softmax, whose labels exclude each other"),
        ("evidence", "logits", ""),
        ("rectified", "logits", ""),
    ],
)
def test_an_answer_that_the_outputs_contradict_is_refused(case: str, said: str, match: str, tmp_path: Path) -> None:
    kind, ending, steps = ENDINGS_OUTSIDE[case]
    path = then(write(tmp_path / "net.onnx", ending), *steps)
    study = Task(kind=kind, labels=STUDY.labels)  # type: ignore[arg-type]
    if not match:
        images = torch.rand(3, 3, 8, 8)
        logits = opened(path, study, labels=STUDY.labels, outputs=said).answer(images).logits
        assert np.allclose(logits.numpy(), given(path, images), atol=1e-5)
        return
    with pytest.raises(ModelError, match=f"--teacher-outputs {said} cannot be so .*{match}"):
        opened(path, study, labels=STUDY.labels, outputs=said)


def test_logits_of_one_sign_behind_a_product_are_not_asked_for(tmp_path: Path) -> None:
    path = then(write(tmp_path / "net.onnx"), ("Add", 500.0), ("Mul", 0.5), ("Identity", None))
    images = torch.rand(3, 3, 8, 8)
    assert np.allclose(opened(path, labels=STUDY.labels).answer(images).logits.numpy(), given(path, images), atol=1e-3)


def test_logits_that_happen_to_lie_in_the_unit_interval_are_asked_for(tmp_path: Path) -> None:
    path = write(tmp_path / "net.onnx", weights=np.zeros_like(WEIGHTS))
    with pytest.raises(InputError, match="--teacher-outputs"):
        opened(path, labels=STUDY.labels)
    assert opened(path, labels=STUDY.labels, outputs="logits").answer(torch.rand(2, 3, 8, 8)).logits.abs().max() == 0


@pytest.mark.parametrize(
    ("ending", "kind", "match"),
    [
        (("Softmax",), "multilabel", "ends in a softmax"),
        (("LogSoftmax",), "multilabel", "ends in a softmax"),
        (("Softmax", "Log"), "multilabel", "ends in a softmax"),
        (("Sigmoid",), "multiclass", "ends in a sigmoid for each label"),
        (("Sigmoid", "Log"), "multilabel", "--teacher-outputs"),
    ],
)
def test_an_ending_of_another_kind_of_labels_is_refused(
    ending: tuple[str, ...], kind: str, match: str, tmp_path: Path
) -> None:
    study = Task(kind=kind, labels=STUDY.labels)  # type: ignore[arg-type]
    with pytest.raises(ModelError, match=match):
        opened(write(tmp_path / "net.onnx", ending, weights=0.1 * WEIGHTS), study, labels=STUDY.labels)


@pytest.mark.parametrize("outputs", ["softmax", "sigmoid"])
def test_what_is_said_is_held_against_what_comes_out(outputs: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=rf"--teacher-outputs {outputs} cannot be so .* outside \[0, 1\]"):
        opened(write(tmp_path / "net.onnx"), labels=STUDY.labels, outputs=outputs)


def test_a_dynamically_quantized_file_answers_one_image_at_a_time(tmp_path: Path) -> None:
    path = write(tmp_path / "net.onnx")
    quantize_dynamic(path, tmp_path / "dynamic.onnx")
    teacher = opened(str(tmp_path / "dynamic.onnx"), labels=STUDY.labels)
    images = torch.rand(5, 3, 8, 8) * torch.tensor([0.1, 1, 0.5, 0.2, 0.9]).reshape(-1, 1, 1, 1)
    alone = torch.cat([teacher.answer(image[None]).logits for image in images])
    assert torch.equal(teacher.answer(images).logits, alone)


def test_a_file_keeps_its_engine(tmp_path: Path) -> None:
    teacher = opened(write(tmp_path / "net.onnx"), labels=STUDY.labels)
    images = np.zeros((2, 3, 8, 8), np.float32)
    asked = Asked(2, lambda rows: torch.from_numpy(images[rows]), (), 1)
    assert fastest_engine(teacher, asked, "auto", lambda text: None) is teacher


@pytest.mark.shared
def test_a_real_lung_and_colon_classifier_teaches_lung(shared_data: Path, tmp_path: Path) -> None:
    path = tmp_path / "lung-colon.onnx"
    path.write_bytes((shared_data / "models" / "shufflenet-lung-colon.onnx").read_bytes())
    spec = ImageSpec(height_px=32, width_px=32, colour="rgb", mean=(0.5,) * 3, std=(0.5,) * 3)
    study = Task(kind="multiclass", labels=("adenocarcinoma", "benign", "squamous"))
    theirs = ("colon_aca", "colon_n", "lung_aca", "lung_n", "lung_scc")
    mapping = {"lung_aca": "adenocarcinoma", "lung_n": "benign", "lung_scc": "squamous"}
    teacher = opened(str(path), study, spec, labels=theirs, mapping=mapping)
    images = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    inner = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    rows = [inner.run(None, {"input.1": ((image - 0.5) / 0.5)[None].numpy()})[0][0] for image in images]
    assert np.allclose(teacher.answer(images).logits.numpy(), np.array(rows)[:, 2:], atol=1e-4)
    assert "left out: colon_aca,colon_n" in teacher.card.steps[0]
