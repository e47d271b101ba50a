"""Students chosen by their latency: what is measured, what is kept, what is chosen, and what is refused."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("timm")
pytest.importorskip("onnxruntime")

from medfm_compress.bench.measure.latency import Plan  # noqa: E402
from medfm_compress.bench.types.measurement import Measurement  # noqa: E402
from medfm_compress.bench.types.target import Target  # noqa: E402
from medfm_compress.compress.latency.latency_goal import LatencyGoal, parse_goal  # noqa: E402
from medfm_compress.compress.latency.network_latency import (  # noqa: E402
    LatencyCache,
    LatencyRequest,
    NetworkLatency,
    engine_files,
    measure_networks,
)
from medfm_compress.compress.networks.build import build_model  # noqa: E402
from medfm_compress.compress.networks.model import Model  # noqa: E402
from medfm_compress.compress.students.auto_select import SHORTLIST, Auto, Choice, auto_select, choose  # noqa: E402
from medfm_compress.compress.students.build_student import build_student  # noqa: E402
from medfm_compress.runtime.errors import InputError, ModelError  # noqa: E402
from medfm_compress.runtime.image_spec import ImageSpec  # noqa: E402
from medfm_compress.runtime.sessions.table import is_available, open_session_from_bytes  # noqa: E402
from medfm_compress.runtime.task import Task  # noqa: E402

TASK = Task(kind="binary", labels=("absent", "present"))
SPEC = ImageSpec(height_px=48, width_px=48, colour="grey", mean=(0.5,), std=(0.5,))
TINY = ("test_resnet", "test_vit")
PLAN = Plan(rounds=2, turn_ms=5, warm_up_s=0.2)
ONE = Target(backend="onnxruntime", precision="fp32", threads=1)


def auto_of(folder: Path, budget_ms: float, encoded: list[str], shortlist: tuple[str, ...] = TINY) -> Auto:
    goal = LatencyGoal(budget_ms=budget_ms, target=ONE)
    return Auto(goal, folder, encoded.append, lambda _: None, shortlist=shortlist, plan=PLAN)


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Model, list[str], list[Choice]]:
    """Two tiny networks, really measured, under a budget that both keep to; the first random number behind it."""
    folder = tmp_path_factory.mktemp("auto")
    encoded: list[str] = []
    choices: list[Choice] = []
    torch.manual_seed(5)
    student = auto_select(TASK, SPEC, auto_of(folder, 5000, encoded)._replace(on_choice=choices.append))
    return folder, student, encoded, choices


def test_the_largest_that_fits_is_built_and_explained(measured) -> None:
    folder, student, encoded, choices = measured
    rows = {candidate.name: candidate for candidate in choices[0].candidates}
    assert set(rows) == set(TINY)
    assert all(candidate.fits and 0 < candidate.p50_ms <= candidate.p99_ms for candidate in rows.values())
    assert student.architecture.name == choices[0].name == max(rows.values(), key=lambda candidate: candidate.macs).name
    assert student.spec == SPEC
    assert student.task == TASK
    assert student.provenance.steps == (str(choices[0]),)
    assert "of 2 that were timed" in str(choices[0])
    assert "budget 5000 ms" in str(choices[0])
    assert sum("M MACs" in line for line in encoded) == 2
    assert (folder / "students.json").is_file()


def test_the_record_keeps_raw_samples_and_spares_a_second_measurement(measured) -> None:
    folder, student, _, choices = measured
    goal = LatencyGoal(budget_ms=5000, target=ONE)
    row = LatencyCache(folder / "students.json", LatencyRequest(TASK, SPEC, goal, PLAN)).get("test_vit")
    assert row is not None
    assert row.measurement is not None
    assert len(row.measurement.session_ms) >= PLAN.rounds * PLAN.min_calls
    encoded: list[str] = []
    on_choice: list[Choice] = []
    torch.manual_seed(5)
    again = auto_select(TASK, SPEC, auto_of(folder, 5000, encoded)._replace(on_choice=on_choice.append))
    assert on_choice == choices
    assert not [line for line in encoded if "M MACs" in line or "timing" in line]
    # whether it was measured or looked up, the same student starts from the same weights
    assert again.weights_sha256() == student.weights_sha256()


def test_another_target_or_size_is_measured_anew(measured) -> None:
    folder = measured[0]
    other = msgspec.structs.replace(ONE, threads=2)
    larger = msgspec.structs.replace(SPEC, height_px=64, width_px=64)
    for spec, target in ((SPEC, other), (larger, ONE)):
        request = LatencyRequest(TASK, spec, LatencyGoal(budget_ms=5000, target=target), PLAN)
        assert LatencyCache(folder / "students.json", request).get("test_vit") is None


def test_the_search_ends_where_networks_are_clearly_over_the_budget(measured) -> None:
    folder = measured[0]
    request = LatencyRequest(TASK, SPEC, LatencyGoal(budget_ms=1e-4, target=ONE), PLAN)
    encoded: list[str] = []
    rows = measure_networks((*TINY, "resnet50"), request, folder / "students.json", encoded.append)
    assert rows[2].name == "resnet50"
    assert "not tried" in rows[2].reason
    assert "test_resnet and test_vit" in rows[2].reason
    with pytest.raises(InputError, match=r"the fastest, test_\w+, takes [\d.]+ ms; raise --max-latency"):
        choose(rows, request.goal)


def test_a_network_that_cannot_take_the_size_is_left_out_with_its_reason(tmp_path: Path) -> None:
    odd = msgspec.structs.replace(SPEC, height_px=40, width_px=40)
    encoded: list[str] = []
    with pytest.raises(InputError, match="could be measured on onnxruntime:cpu:fp32:1: test_vit cannot take 40 px"):
        auto_select(TASK, odd, auto_of(tmp_path, 10, encoded, ("test_vit",)))
    assert any(line.startswith("test_vit: left out") for line in encoded)


def test_a_record_of_another_version_is_measured_over(tmp_path: Path) -> None:
    record = tmp_path / "students.json"
    record.write_text('{"rows": {"x": {"name": "x", "colour": "blue"}}}')
    request = LatencyRequest(TASK, SPEC, LatencyGoal(budget_ms=10, target=ONE), PLAN)
    cache = LatencyCache(record, request)
    assert cache.get("test_vit") is None
    cache.put(NetworkLatency(name="test_vit", macs=1, parameters=1, estimate_ms=2.0))
    assert LatencyCache(record, request).get("test_vit") == NetworkLatency(
        name="test_vit", macs=1, parameters=1, estimate_ms=2.0
    )


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_int8_targets_are_measured_on_quantized_networks(backend: str) -> None:
    if not is_available(backend).ok:
        pytest.skip(f"{backend} is not installed")
    goal = LatencyGoal(budget_ms=10, target=Target(backend=backend, precision="int8", threads=1))
    model = build_model("test_resnet", TASK, size_px=48, colour="grey", spec=SPEC)
    files = engine_files(model, goal)
    session = open_session_from_bytes(backend, files, 1, "int8")  # refuses a graph without integers
    assert session.info.precision == "int8"


def row(name: str, macs: int, *milliseconds: float) -> NetworkLatency:
    samples = Measurement(name=name, target=str(ONE), session_ms=milliseconds)
    return NetworkLatency(name=name, macs=macs, parameters=1, estimate_ms=milliseconds[0], measurement=samples)


def test_the_median_decides_and_macs_break_in() -> None:
    rows = (row("small", 10, 1, 1, 90), row("middle", 20, 9.5, 9.5, 9.5), row("large", 30, 10.1, 10.1, 10.1))
    choice = choose(rows, LatencyGoal(budget_ms=10, target=ONE))
    assert choice.name == "middle"
    assert [candidate.fits for candidate in choice.candidates] == [True, True, False]
    assert [candidate.reason for candidate in choice.candidates] == [
        "fits, and so does a larger one",
        "chosen: the most MACs within the budget",
        "above the budget",
    ]


def test_an_estimate_alone_never_fits() -> None:
    estimated = NetworkLatency(name="estimated", macs=99, estimate_ms=25.0)
    choice = choose((row("small", 10, 1.0), estimated), LatencyGoal(budget_ms=10, target=ONE))
    assert choice.name == "small"
    assert choice.candidates[1].p50_ms is None
    assert "about 25 ms" in choice.candidates[1].reason
    assert not choice.candidates[1].fits
    with pytest.raises(InputError, match="estimated, takes about 25 ms"):
        choose((estimated,), LatencyGoal(budget_ms=10, target=ONE))


def test_targets_are_read() -> None:
    assert parse_goal(10, "onnxruntime:cpu", 2).target == msgspec.structs.replace(ONE, threads=2)
    assert parse_goal(10, "onnxruntime:cpu:int8:2", 1).target == Target(
        backend="onnxruntime", precision="int8", threads=2
    )
    assert parse_goal(10, "onnxruntime:cpu:int8:2", 2).target.threads == 2


@pytest.mark.parametrize(
    ("budget", "target", "threads", "message"),
    [
        (0.0, "onnxruntime:cpu", 1, "--max-latency 10ms"),
        (float("inf"), "onnxruntime:cpu", 1, "--max-latency 10ms"),
        (10, "tensorrt:cpu", 1, "openvino:cpu or onnxruntime:cpu"),
        (10, "torch:cpu", 1, "openvino:cpu or onnxruntime:cpu"),
        (10, "onnxruntime:cuda:fp16", 1, "or onnxruntime:cuda:fp32 or tensorrt:cuda:fp32"),
        (10, "onnxruntime:tensorrt", 1, "or onnxruntime:cuda:fp32 or tensorrt:cuda:fp32"),
        (10, "onnxruntime:cpu:bf16", 1, "openvino also bf16"),
        (10, "onnxruntime:cpu:int4-weights", 1, "int8"),
        (10, "onnxruntime:cpu:fp32:zero", 1, "openvino:cpu:int8:2"),
        (10, "onnxruntime:cpu:fp32:2", 4, "give one of them"),
        (10, "onnxruntime:cpu", 0, "at least 1"),
    ],
)
def test_other_goals_are_refused_with_what_is_allowed(budget: float, target: str, threads: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_goal(budget, target, threads)


def test_auto_needs_a_goal_and_takes_no_weights(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--max-latency 10ms"):
        build_student("auto", TASK, SPEC, None, None)
    for name in ("auto", "scaled:width=0.5"):
        with pytest.raises(InputError, match="only a timm network starts from a file"):
            build_student(name, TASK, SPEC, tmp_path / "start.safetensors", None)


def test_a_scaled_student_needs_a_teacher_of_layers() -> None:
    with pytest.raises(ModelError, match="cut from the teacher's own layers"):
        build_student("scaled:width=0.5", TASK, SPEC, None, None)


def test_the_shortlist_is_of_timm_and_not_repeated() -> None:
    import timm

    assert len(set(SHORTLIST)) == len(SHORTLIST) >= 10
    assert all(timm.is_model(name) for name in SHORTLIST)
