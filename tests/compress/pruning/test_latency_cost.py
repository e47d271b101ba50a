"""What a layer costs on the target: which calls a network makes, how they are timed and kept, what they add up to."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
timm = pytest.importorskip("timm")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")

from torch import nn  # noqa: E402

from medfm_compress.bench.types.target import Target  # noqa: E402
from medfm_compress.compress.latency import layer_table as latency_table  # noqa: E402
from medfm_compress.compress.latency.latency_goal import LatencyGoal  # noqa: E402
from medfm_compress.compress.latency.layer_graphs import empty_graph, input_shape, layer_graph, projections  # noqa: E402
from medfm_compress.compress.latency.layer_shapes import LayerCall  # noqa: E402
from medfm_compress.compress.latency.layer_table import (  # noqa: E402
    Entry,
    LatencyTable,
    default_record,
    int8_files,
    measure_ms,
)
from medfm_compress.compress.pruning.latency_cost import Surface, knots, latency_cost  # noqa: E402
from medfm_compress.runtime.sessions.onnxruntime import holds_integers  # noqa: E402
from medfm_compress.runtime.sessions.table import is_available, open_session_from_bytes  # noqa: E402

ORT = LatencyGoal(budget_ms=1, target=Target(backend="onnxruntime", precision="fp32", threads=1))
ORT_INT8 = LatencyGoal(budget_ms=1, target=Target(backend="onnxruntime", precision="int8", threads=1))
OV_INT8 = LatencyGoal(budget_ms=1, target=Target(backend="openvino", precision="int8", threads=1))

CONV = LayerCall(kind="conv", inputs=8, outputs=16, size=(9, 7), kernel=(3, 3), stride=(2, 1), padding=(1, 0, 1, 2))
DEPTHWISE = LayerCall(kind="depthwise", inputs=1, outputs=16, size=(8, 8), kernel=(3, 3), padding=(1, 1, 1, 1))
GROUPED = LayerCall(kind="conv", inputs=16, outputs=32, size=(4, 4), kernel=(3, 3), dilation=(1, 1), groups=4)
LINEAR = LayerCall(kind="linear", inputs=16, outputs=32, rows=5)
TOKENS = LayerCall(kind="attention", inputs=1, outputs=2, batch=1, rows=5, head_dim=8, key_dim=8)
PIXELS = LayerCall(
    kind="attention", inputs=1, outputs=2, batch=1, rows=6, size=(2, 3), head_dim=8, key_dim=8, image=True, biased=True
)
WINDOWS = LayerCall(kind="attention", inputs=1, outputs=2, batch=3, rows=4, head_dim=16, key_dim=4, biased=True)
CALLS = {
    "conv": CONV,
    "depthwise": DEPTHWISE,
    "grouped": GROUPED,
    "linear": LINEAR,
    "tokens": TOKENS,
    "image": PIXELS,
    "windows": WINDOWS,
}
every_kind = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)


class LatencyMeter:
    """In place of an engine: a time for each graph, by its number of copies."""

    def __init__(self, overhead_ms: float = 0.5) -> None:
        self.calls = 0
        self.overhead_ms = overhead_ms

    def __call__(self, graphs: Sequence[bytes], shape: tuple[int, ...]) -> Sequence[float]:
        self.calls += 1
        return [self.overhead_ms + copies * 0.25 for copies in map(layers_in, graphs)]


def layers_in(graph: bytes) -> int:
    import onnx

    nodes = onnx.load_model_from_string(graph).graph.node
    return sum(node.op_type in ("Conv", "Softmax", "MatMul") for node in nodes)


class Plane:
    """A table whose layers take ``3 + 2 in + 5 out + in · out`` ms; the corners that were asked for are kept."""

    def __init__(self) -> None:
        self.calls: set[tuple[int, int]] = set()

    def ms(self, call: LayerCall) -> float:
        self.calls.add((call.inputs, call.outputs))
        return cost(call.inputs, call.outputs)

    def floor_ms(self, shape: tuple[int, ...]) -> float:
        return 7.0


def cost(inputs: float, outputs: float) -> float:
    return 3 + 2 * inputs + 5 * outputs + inputs * outputs


@every_kind
def test_copies_are_the_sum_of_layers_that_differ(call: LayerCall) -> None:
    """What two copies give beyond one is the second layer, and that is another one than the first."""
    inputs = np.random.default_rng(3).standard_normal(input_shape(call)).astype(np.float32)
    results = []
    for copies in (1, 2):
        session = open_session_from_bytes("onnxruntime", [layer_graph(call, copies)], 1, "fp32")
        results.append(session.run({"image": inputs})["logits"])
    assert results[0].size == call.outputs * max(call.head_dim, 1)
    single, two = results[0], results[1]
    assert np.isfinite(two).all()
    assert not np.allclose(two, single)
    assert not np.allclose(two, 2 * single)


def test_a_graph_computes_what_torch_does() -> None:
    """The one convolution of a graph, and the sum of three, against torch with the same weights."""
    import onnx
    from onnx import numpy_helper

    graph = layer_graph(CONV, 3)
    weights = {
        layer.name: numpy_helper.to_array(layer) for layer in onnx.load_model_from_string(graph).graph.initializer
    }
    inputs = torch.randn(input_shape(CONV))
    padded = nn.functional.pad(inputs, (0, 2, 1, 1))
    layers = [
        nn.functional.conv2d(
            padded,
            torch.tensor(weights[f"layer{i}_weight"]),
            torch.tensor(weights[f"layer{i}_bias"]),
            stride=CONV.stride,
        )
        for i in range(3)
    ]
    session = open_session_from_bytes("onnxruntime", [graph], 1, "fp32")
    logits = session.run({"image": inputs.numpy()})["logits"]
    np.testing.assert_allclose(logits, sum(layers).mean((0, 2, 3)).numpy(), atol=1e-5)


@every_kind
def test_int8_graphs_hold_integers(call: LayerCall) -> None:
    graph = layer_graph(call, 2)
    assert not holds_integers(graph)
    assert holds_integers(int8_files(graph, ORT_INT8)[0])


def test_a_layer_that_the_placement_leaves_in_float_is_timed_in_float(tmp_path: Path) -> None:
    """Patches of an image, on ONNX Runtime: there is no integer graph of them, and they are timed all the same."""
    patches = LayerCall(kind="conv", inputs=3, outputs=16, size=(16, 16), kernel=(8, 8), stride=(8, 8))
    assert not holds_integers(int8_files(layer_graph(patches, 2), ORT_INT8)[0])
    table = LatencyTable(ORT_INT8, tmp_path / "record.json", lambda _: None)
    assert table.ms(patches) >= 0
    assert table.timed == 1


def test_engines_time_real_layers(tmp_path: Path) -> None:
    """More work takes longer, and what was timed is known to a second table, which times nothing."""
    small = LayerCall(kind="linear", inputs=64, outputs=64, rows=16)
    large = LayerCall(kind="linear", inputs=512, outputs=512, rows=64)
    described: list[str] = []
    table = LatencyTable(ORT, tmp_path / "record.json", described.append)
    assert 0 <= table.ms(small) < table.ms(large)
    assert table.floor_ms((1, 3, 16, 16)) > 0
    assert table.timed == 3
    begun = [line for line in described if line.startswith("timing layers")]
    assert len(begun) == 1
    again = LatencyTable(ORT, tmp_path / "record.json", described.append, timer=LatencyMeter())
    assert again.ms(large) == table.ms(large)
    assert again.floor_ms((1, 3, 16, 16)) == table.floor_ms((1, 3, 16, 16))
    assert again.timed == 0
    assert [line for line in described if line.startswith("timing layers")] == begun


@pytest.mark.skipif(not is_available("openvino").ok, reason="needs OpenVINO")
def test_openvino_times_integers(tmp_path: Path) -> None:
    table = LatencyTable(OV_INT8, tmp_path / "record.json", lambda _: None)
    assert table.ms(LayerCall(kind="linear", inputs=256, outputs=256, rows=64)) > 0
    files = int8_files(layer_graph(LINEAR, 2), OV_INT8)
    assert measure_ms(files, OV_INT8, input_shape(LINEAR)) > 0


def test_overhead_cancels_and_projections_are_taken_off(tmp_path: Path) -> None:
    target_latency = LatencyMeter()
    table = LatencyTable(ORT, tmp_path / "record.json", lambda _: None, timer=target_latency)
    assert table.ms(CONV) == pytest.approx(0.25)
    assert table.floor_ms((1, 3, 8, 8)) == pytest.approx(target_latency.overhead_ms)
    # three projections, two products and a softmax, less the three projections
    assert table.ms(TOKENS) == pytest.approx(3 * 0.25)
    assert projections(TOKENS) == (LayerCall(kind="linear", inputs=16, outputs=16, rows=5),) * 3
    assert [layer.outputs for layer in projections(WINDOWS)] == [8, 8, 32]
    assert [layer.rows for layer in projections(WINDOWS)] == [12, 12, 12]
    assert target_latency.calls == table.timed == 4


def test_long_timing_says_how_far_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(latency_table.time, "monotonic", lambda: now)
    described: list[str] = []
    table = LatencyTable(ORT, tmp_path / "record.json", described.append, timer=LatencyMeter())
    for rows in (1, 2, 3, 4):
        now += 6.0
        table.ms(LayerCall(kind="linear", inputs=8, outputs=8, rows=rows))
    assert described[1:] == ["timed 3 layers so far"]


def test_no_layer_takes_less_than_nothing() -> None:
    assert Entry(single_ms=2.0, copies_ms=1.0, copies=3).ms == 0
    assert Entry(single_ms=2.0, copies_ms=5.0, copies=4).ms == pytest.approx(1.0)


def test_another_target_or_a_damaged_record_knows_nothing(tmp_path: Path) -> None:
    record = tmp_path / "deep" / "record.json"
    LatencyTable(ORT, record, lambda _: None, timer=LatencyMeter()).ms(CONV)
    for goal, content in ((ORT_INT8, None), (ORT, b"{"), (ORT, b'{"entries": {"a": 1}}'), (ORT, b"\xff\x00")):
        if content is not None:
            record.write_bytes(content)
        table = LatencyTable(goal, record, lambda _: None, timer=LatencyMeter(1.5))
        assert table.floor_ms((1, 3, 8, 8)) == pytest.approx(1.5)
        assert table.timed == 1
    assert LatencyTable(ORT, record, lambda _: None, timer=LatencyMeter()).floor_ms((1, 3, 8, 8)) == pytest.approx(1.5)


def test_a_record_that_cannot_be_written_is_told_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    described: list[str] = []
    table = LatencyTable(ORT, tmp_path / "file" / "record.json", described.append, timer=LatencyMeter())
    assert table.ms(CONV) == table.ms(CONV) == pytest.approx(0.25)
    table.ms(LINEAR)
    assert table.timed == 2
    assert sum("not kept" in line for line in described) == 1


def test_another_machine_knows_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = tmp_path / "record.json"
    LatencyTable(ORT, record, lambda _: None, timer=LatencyMeter()).ms(CONV)
    other = latency_table.describe_machine()
    monkeypatch.setattr(latency_table, "describe_machine", lambda: _renamed(other))
    table = LatencyTable(ORT, record, lambda _: None, timer=LatencyMeter())
    table.ms(CONV)
    assert table.timed == 1


def _renamed(machine):
    import msgspec

    return msgspec.structs.replace(machine, cpu_model="another")


def test_tables_that_write_at_the_same_time_keep_what_both_timed(tmp_path: Path) -> None:
    record = tmp_path / "record.json"
    first, second = (LatencyTable(ORT, record, lambda _: None, timer=LatencyMeter()) for _ in range(2))
    first.ms(CONV)
    second.ms(LINEAR)
    third = LatencyTable(ORT, record, lambda _: None, timer=LatencyMeter())
    third.ms(CONV)
    third.ms(LINEAR)
    assert third.timed == 0


def test_the_record_lies_in_the_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_record() == tmp_path / "medfm-compress" / "layer-latency.json"
    monkeypatch.setenv("XDG_CACHE_HOME", "not/absolute")  # which the standard says to ignore
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert default_record() == tmp_path / "home" / ".cache" / "medfm-compress" / "layer-latency.json"


@pytest.mark.parametrize(
    ("full", "expected"),
    [
        (512, (64, 128, 256, 512)),
        (256, (32, 64, 128, 256)),
        (128, (32, 64, 128)),
        (48, (16, 32, 48)),
        (24, (16, 24)),
        (16, (8, 16)),
        (3, (1, 3)),
        (1, (1,)),
    ],
)
def test_knots(full: int, expected: tuple[int, ...]) -> None:
    assert knots(full) == expected
    assert knots(6, 1) == (2, 3, 6)


@pytest.mark.parametrize(("inputs", "outputs"), [(128, 256), (100, 200), (64, 77.5), (33, 256), (8, 8), (1, 1)])
def test_interpolation_is_exact_where_time_is_bilinear(inputs: float, outputs: float) -> None:
    plane = Plane()
    surface = Surface(plane, LayerCall(kind="conv", inputs=128, outputs=256))  # type: ignore[arg-type]
    assert surface(inputs, outputs) == pytest.approx(cost(inputs, outputs))
    assert len(plane.calls) <= 4


def test_only_the_full_width_is_timed_at_full_width() -> None:
    plane = Plane()
    call = LayerCall(kind="linear", inputs=64, outputs=192, split=3, times=2)
    assert Surface(plane, call)(64, 192) == pytest.approx(3 * 2 * cost(64, 64))  # type: ignore[arg-type]
    assert plane.calls == {(64, 64)}


def plain() -> nn.Module:
    layers = {
        "conv": nn.Conv2d(3, 16, 3, stride=2),
        "norm": nn.BatchNorm2d(16),
        "depthwise": nn.Conv2d(16, 16, 3, groups=16),
        "flat": nn.Flatten(),
        "head": nn.Linear(16, 2),
    }
    return nn.Sequential(OrderedDict(layers))


def priced(measured_ms: float, module: nn.Module | None = None):
    module = module or plain()
    return latency_cost(module, torch.zeros(1, 3, 8, 8), Plane(), measured_ms)  # type: ignore[arg-type]


@pytest.mark.parametrize("measured_ms", [10.0, 400.0, 5000.0])
def test_costs_add_up_to_what_was_measured(measured_ms: float) -> None:
    """Whether something is left over or the table says more than was measured."""
    cost_model = priced(measured_ms)
    total = cost_model.fixed + sum(cost_model.of(name, *widths) for name, widths in cost_model.layers.items())
    assert total == pytest.approx(measured_ms)
    assert cost_model.measured_ms == measured_ms
    assert cost_model.floor_ms + cost_model.table_ms + cost_model.rest_ms == pytest.approx(measured_ms)
    assert cost_model.table_ms == pytest.approx(cost(3, 16) + cost(1, 16) + cost(16, 2))


def test_half_the_rest_shrinks_with_the_normalisations_and_half_with_the_layers() -> None:
    cost_model = priced(5000.0)
    assert cost_model.rest_ms > 0
    assert cost_model.of("norm", 1, 16) == pytest.approx(cost_model.rest_ms / 2)
    assert cost_model.of("norm", 1, 4) == pytest.approx(cost_model.rest_ms / 8)
    scale = 1 + cost_model.rest_ms / 2 / cost_model.table_ms
    assert cost_model.of("conv", 3, 8) == pytest.approx(cost(3, 8) * scale)


def test_it_goes_to_what_runs_into_an_activation_too() -> None:
    module = nn.Sequential(nn.Conv2d(3, 16, 1), nn.LayerNorm(8), nn.Conv2d(16, 48, 1), nn.Identity(), nn.GELU())
    cost_model = priced(30000.0, module)
    assert cost_model.rest_ms > 0
    passing, scale = cost_model.rest_ms / 2, 1 + cost_model.rest_ms / 2 / cost_model.table_ms
    assert cost_model.of("1", 1, 8) == pytest.approx(passing / 4)  # 16 of 64 channels pass through it
    assert cost_model.of("2", 16, 24) == pytest.approx(cost(16, 24) * scale + passing * 3 / 4 / 2)
    assert cost_model.of("0", 3, 16) == pytest.approx(cost(3, 16) * scale)


def test_without_normalisations_it_goes_to_the_layers() -> None:
    module = nn.Sequential(nn.Conv2d(3, 16, 3), nn.Conv2d(16, 48, 3), nn.Flatten(), nn.Linear(48 * 16, 2))
    cost_model = priced(30000.0, module)
    total = cost_model.fixed + sum(cost_model.of(name, *widths) for name, widths in cost_model.layers.items())
    assert total == pytest.approx(30000.0)
    assert cost_model.rest_ms > 0
    passing, scale = cost_model.rest_ms / 2, 1 + cost_model.rest_ms / 2 / cost_model.table_ms
    share = 16 * 36 / (16 * 36 + 48 * 16 + 2)
    assert cost_model.of("0", 3, 16) == pytest.approx(cost(3, 16) * scale + share * passing)


def test_a_network_without_layers_costs_what_it_costs() -> None:
    cost_model = priced(9.0, nn.Identity())
    assert cost_model.layers == {}
    assert cost_model.fixed == 9.0


def test_an_empty_network_only_reads_the_image() -> None:
    session = open_session_from_bytes("onnxruntime", [empty_graph((1, 3, 4, 4))], 1, "fp32")
    image = np.random.default_rng(0).standard_normal((1, 3, 4, 4)).astype(np.float32)
    np.testing.assert_allclose(session.run({"image": image})["logits"], image.mean((0, 2, 3)), atol=1e-6)
