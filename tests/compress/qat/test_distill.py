"""Distillation with INT8 values, its hand-over to `quantize`, and that the engines compute what was trained."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from medfm_compress.bench.types.interval import Interval
from medfm_compress.bench.types.measurement import Measurement
from medfm_compress.compress.distillation.distill import distill
from medfm_compress.compress.distillation.options import Distillation
from medfm_compress.compress.networks.build import build_model
from medfm_compress.compress.networks.model import Model, load_model
from medfm_compress.compress.qat.prepare import fake_quantized, plain_state, trained_ranges
from medfm_compress.compress.qat.ranges_file import load_ranges, save_ranges
from medfm_compress.compress.qat.schedule import needs_float_stage
from medfm_compress.compress.quantization import candidate_search
from medfm_compress.compress.quantization import companion_variants as companion
from medfm_compress.compress.quantization import quantize_bundle as quantizing
from medfm_compress.compress.quantization.build_candidate import PLACEMENTS, GraphBuilder, portable, serialise
from medfm_compress.compress.quantization.calibrate import calibrate
from medfm_compress.compress.quantization.candidate_trial import CandidateTrial
from medfm_compress.compress.quantization.methods import TRAINED, DoesNotApply, Lookup, Method, Standing, candidates
from medfm_compress.compress.quantization.options import QuantizeOptions
from medfm_compress.compress.quantization.qdq import write_qdq
from medfm_compress.compress.quantization.quantize_bundle import quantize_bundle
from medfm_compress.compress.teachers.module_teacher import ModuleTeacher
from medfm_compress.compress.training.config import TrainingConfig
from medfm_compress.compress.training.dataset import task_of
from medfm_compress.data.study import Study
from medfm_compress.export.onnx_export import export_onnx
from medfm_compress.export.trained_ranges import attach_ranges, take_ranges
from medfm_compress.runtime.bundle.bundle import Bundle
from medfm_compress.runtime.cpu import read_cpu
from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.golden_cases import relative_logit_error
from medfm_compress.runtime.image_spec import ImageSpec
from medfm_compress.runtime.sessions.instruction_sets import multiplies_exactly
from medfm_compress.runtime.sessions.table import open_session_from_bytes
from medfm_compress.runtime.strict_json import convert
from medfm_compress.runtime.task import Task
from medfm_compress.step_settings import ExportStep
from medfm_compress.steps import export

FAST = TrainingConfig(epochs=2, batch_size=12, learning_rate=1e-3, ema=0.5, patience=0, precision="fp32")
INT8 = Distillation(qat=True, views=1)
SPEC = ImageSpec(height_px=32, width_px=32, colour="grey", mean=(0.5,), std=(0.25,))
TASK = Task(kind="multiclass", labels=("a", "b", "c"))


class Residual(nn.Module):
    """A ResNet's parts: a stem with a pool, a plain shortcut, and one with an average pool and a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(1, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16)
        self.pool, self.average = nn.MaxPool2d(2), nn.AvgPool2d(2)
        self.first, self.norm1 = nn.Conv2d(16, 16, 3, 1, 1), nn.BatchNorm2d(16)
        self.second, self.norm2 = nn.Conv2d(16, 32, 3, 2, 1), nn.BatchNorm2d(32)
        self.short = nn.Conv2d(16, 32, 1)
        self.hidden, self.fc = nn.Linear(32, 32), nn.Linear(32, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.norm(self.stem(x)).relu())
        x = (x + self.norm1(self.first(x))).relu()
        x = (self.short(self.average(x)) + self.norm2(self.second(x))).relu()
        logits: Tensor = self.fc(nn.functional.gelu(self.hidden(x.mean((2, 3)))))
        return logits


def off_start(module: nn.Module) -> nn.Module:
    torch.manual_seed(1)
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.uniform_(norm.weight, 0.5, 2)
            nn.init.normal_(norm.bias, std=0.3)
    return module.eval()


def images(count: int = 16) -> Tensor:
    noise = torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(3))
    smooth = nn.functional.interpolate(noise, 32, mode="bilinear")
    return smooth * torch.linspace(0.3, 2, count).reshape(-1, 1, 1, 1)


class Handed:
    """A fake-quantized network, its logits, and the builder that its exported file gives."""

    def __init__(self, module: nn.Module, *, reduced: bool) -> None:
        x, quantized = images(), fake_quantized(module, images(), reduced=reduced)
        with torch.no_grad():
            self.wanted, self.inputs = quantized(x).numpy(), x.numpy()
            self.float_logits = module(x).numpy()
        module.load_state_dict(plain_state(quantized))
        attached = attach_ranges(export_onnx(module, SPEC, TASK).content, module, trained_ranges(quantized))
        self.layers, self.missing, self.reduced = attached.layers, attached.missing, reduced
        content = portable(attached.content)
        self.builder = GraphBuilder(content, calibrate(content, [self.inputs]), self.inputs)

    def error(self, logits: NDArray[np.float32]) -> float:
        return relative_logit_error(logits, self.wanted)

    def on(self, backend: str, placement: str = "default") -> float:
        method = Method(estimator=TRAINED, placement=placement, reduced=self.reduced)
        session = open_session_from_bytes(backend, self.builder.build(backend, method), 1, "int8")
        return self.error(np.concatenate([session.run({"image": x[None]})["logits"] for x in self.inputs]))

    def exactly(self) -> float:
        """The graph with pairs where OpenVINO has them, evaluated in float, node by node."""
        model, ranges = self.builder._prepared("openvino", Method(estimator=TRAINED))
        placed = write_qdq(model, PLACEMENTS["openvino"]["default"](model, reduced=self.reduced), ranges)
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        session = ort.InferenceSession(serialise(placed), options, providers=["CPUExecutionProvider"])
        return self.error(np.concatenate([session.run(None, {"image": x[None]})[0] for x in self.inputs]))


@pytest.fixture(scope="module", params=[False, True], ids=["8-bit", "7-bit"])
def handed(request: pytest.FixtureRequest) -> Handed:
    torch.manual_seed(0)
    return Handed(off_start(Residual()), reduced=request.param)


def test_every_layer_is_recognised_and_rounding_changes_something(handed: Handed) -> None:
    assert (handed.layers, handed.missing) == (6, ())
    assert handed.builder.trained
    assert handed.error(handed.float_logits) > 1e-3


def test_the_graph_computes_what_was_trained(handed: Handed) -> None:
    assert handed.exactly() < 1e-3 < handed.error(handed.float_logits)


def test_openvino_computes_what_was_trained(handed: Handed) -> None:
    if not handed.reduced and not multiplies_exactly(read_cpu()):
        pytest.skip("this CPU has no VNNI: OpenVINO's products with 8-bit weights saturate")
    assert handed.on("openvino") < 2e-3


def test_onnxruntime_computes_what_was_trained_but_for_what_it_rounds_besides(handed: Handed) -> None:
    assert handed.on("onnxruntime") < 3e-2
    assert handed.on("onnxruntime", "float-sums") < 3e-2


def test_ranges_leave_the_file_that_is_shipped(handed: Handed) -> None:
    built = onnx.load_model_from_string(handed.builder.build("onnxruntime", Method(estimator=TRAINED))[0])
    assert not built.metadata_props


def test_rows_that_were_split_and_scaled_are_recognised_and_others_are_not() -> None:
    """Attention's one layer of queries, keys and values becomes three, the first one scaled."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(8, 12), nn.Linear(12, 3))
    weight = module[0].weight.detach().numpy()
    text = """<ir_version: 10, opset_import: ["" : 20]> net (float[1, 8] x) =>
    (float[1, 4] a, float[1, 8] b, float[1, 4] c)
    { [one] a = MatMul (x, first)  [two] b = MatMul (x, second)  [three] c = MatMul (x, third) }"""
    proto = onnx.parser.parse_model(text)
    others = weight[4:] * np.linspace(0.5, 2, 8)[:, None]
    columns = weight[:4] * np.linspace(0.5, 2, 8)  # an input channel's factor does change the integers
    for name, values in {"first": weight[:4] * -0.37, "second": others, "third": columns}.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(values.T.astype(np.float32), name))
    attached = attach_ranges(proto.SerializeToString(), module, {"0": (-1.0, 2.0), "1": (0.0, 1.0)})
    assert (attached.layers, attached.missing) == (3, ("three",))
    assert "2 of 3 layers; without one: three" in attached.line

    import onnx_ir as ir

    model = ir.from_proto(onnx.load_model_from_string(attached.content))
    assert take_ranges(model) == {"x": (-1.0, 2.0)} and take_ranges(model) == {}


def walk(*, limits: bool) -> list[str]:
    state: dict[str, Method | None] = {"best": None}
    lookup = Lookup(
        standing=lambda: Standing(best=state["best"], within_limits=limits),
        most_harmful=lambda method: (),
        smooths=lambda: True,
    )
    walked = []
    starts = tuple(Method(placement=name, estimator=TRAINED) for name in ("default", "attention"))
    for candidate in candidates(starts, lookup):
        walked.append(f"({candidate.candidate})" if isinstance(candidate, DoesNotApply) else str(candidate))
        state["best"] = state["best"] or (None if isinstance(candidate, DoesNotApply) else candidate)
    return walked


def test_trained_ranges_come_first_and_calibration_only_where_they_miss_the_limits() -> None:
    assert walk(limits=True) == ["int8-trained", "int8-attention+trained", "(int8-calibrated)"]
    walked = walk(limits=False)
    assert walked[:4] == ["int8-trained", "int8-attention+trained", "int8-minmax", "int8-mse"]
    assert "(int8-quantization-aware-training)" not in walked and "int8-trained+smoothquant" not in walked


def silent(_: str) -> None:
    pass


def student(study: Study, name: str = "test_resnet", seed: int = 0) -> Model:
    torch.manual_seed(seed)
    return build_model(name, task_of(study), size_px=48, colour="grey")


@pytest.fixture(scope="module")
def distilled(discs: Study, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A model folder of a student that nothing trained before."""
    out, lines = tmp_path_factory.mktemp("student"), list[str]()
    teacher = ModuleTeacher(student(discs, seed=1))
    distill((discs,), teacher, student(discs), FAST, out, lines.append, INT8)
    return out, lines


def test_a_student_learns_in_float_first_and_is_kept_as_a_plain_network(distilled: tuple[Path, list[str]]) -> None:
    out, lines = distilled
    assert any("in float first" in line for line in lines)
    assert sum(line.startswith("epoch") for line in lines) == 3  # two in float, one with INT8 values
    model = load_model(out)
    assert "layers with INT8 values" in model.provenance.steps[-1]
    ranges = load_ranges(out)
    assert {type(model.module.get_submodule(name)).__name__ for name in ranges} == {"Conv2d", "Linear"}
    assert all(low <= 0 <= high and low < high for low, high in ranges.values())


def test_a_trained_student_starts_with_int8_at_once_and_resumes(
    distilled: tuple[Path, list[str]], discs: Study, tmp_path: Path
) -> None:
    lines: list[str] = []
    teacher = ModuleTeacher(student(discs, seed=1))
    assert not needs_float_stage(load_model(distilled[0]))
    once = msgspec.structs.replace(FAST, epochs=1)
    first = distill((discs,), teacher, load_model(distilled[0]), once, tmp_path, lines.append, INT8)
    assert sum(line.startswith("epoch") for line in lines) == 1 and not any("in float first" in line for line in lines)
    again: list[str] = []
    second = distill((discs,), teacher, load_model(distilled[0]), once, tmp_path, again.append, INT8)
    assert again[0].startswith("resuming after epoch 1")
    assert first.weights_sha256() == second.weights_sha256()


def test_ranges_of_other_weights_are_not_used(distilled: tuple[Path, list[str]], tmp_path: Path) -> None:
    from medfm_compress.compress.networks.model import save_model

    model = load_model(distilled[0])
    save_model(model, tmp_path)
    assert load_ranges(tmp_path) == {}
    save_ranges(load_ranges(distilled[0]), "0" * 64, tmp_path)
    assert load_ranges(tmp_path) == {}
    save_ranges(load_ranges(distilled[0]), model.weights_sha256(), tmp_path)
    assert load_ranges(tmp_path) == load_ranges(distilled[0])


def test_the_bundle_ships_what_was_trained(
    distilled: tuple[Path, list[str]], discs_path: Path, discs: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def clock(sessions: list[object], image: object, rounds: int) -> list[list[float]]:
        precisions = [session.info.precision for session in sessions]  # type: ignore[attr-defined]
        return [[1.0 if precision == "int8" else 2.0] * 5 for precision in precisions]

    def fresh(trials: list[CandidateTrial], *_: object) -> list[Measurement]:
        latencies = [1.0 if trial.variant.precision == "int8" else 2.0 for trial in trials]
        return [
            Measurement(name="played", target="played", session_ms=(ms,) * 20, calls_per_round=2) for ms in latencies
        ]

    monkeypatch.setattr(candidate_search, "session_ms", clock)
    monkeypatch.setattr(quantizing, "time_in_fresh_processes", fresh)
    monkeypatch.setattr(companion, "speedup_on", lambda isa, models, *_: Interval(estimate=2.0, low=1.9, high=2.1))
    export(distilled[0], discs_path, ExportStep(), "tiny", "", silent, tmp_path / "fp32.medfm")
    few = QuantizeOptions(
        samples=16, rounds=5, error_limit=10.0, auroc_limit=1.0, optimised=False, targets=("onnxruntime:cpu",)
    )
    quantized = quantize_bundle(tmp_path / "fp32.medfm", discs, tmp_path / "int8.medfm", few)
    steps = Bundle.open(tmp_path / "int8.medfm").manifest.provenance.steps
    assert any(step.startswith("export: trained INT8 ranges for the inputs of") for step in steps)
    kept = [candidate.method for candidate in quantized.candidates if candidate.kept]
    assert kept and all("trained" in method for method in kept)
    assert any("by int8-" in step and "trained" in step and " kept" in step for step in steps)
    assert not any("minmax" in candidate.method for candidate in quantized.candidates)


def test_other_precisions_are_refused() -> None:
    with pytest.raises(InputError, match=r"qat is .* it must be true or false"):
        convert({"qat": "int4"}, Distillation, source="recipe")


def test_training_repairs_what_rounding_broke() -> None:
    """Half of a layer's input channels are 60 times the others, which steps for all of them cannot hold."""
    torch.manual_seed(0)
    module = Residual()
    off_start(module)
    with torch.no_grad():
        module.hidden.weight[:, :16] /= 60
        for tensor in (module.norm2.weight, module.norm2.bias, module.short.weight, module.short.bias):
            assert tensor is not None
            tensor[:16] *= 60
    x = images(24)
    with torch.no_grad():
        expected = module(x)
    quantized = fake_quantized(module, x)

    def error() -> float:
        with torch.no_grad():
            return relative_logit_error(quantized(x).numpy(), expected.numpy())

    before = error()  # by the better estimator, without training
    optimizer = torch.optim.Adam(quantized.parameters(), lr=3e-5)
    quantized.train()
    for _ in range(40):
        optimizer.zero_grad()
        nn.functional.mse_loss(quantized(x), expected).backward()
        optimizer.step()
    assert before > 0.1 and error() < 0.75 * before
