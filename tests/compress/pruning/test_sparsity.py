"""Two of every four inputs stay, the right two, and they stay so through training, saving and export."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
timm = pytest.importorskip("timm")
import engine_job  # noqa: E402
from msgspec.structs import replace  # noqa: E402
from torch import nn  # noqa: E402

from medfm_compress.compress.pruning.importance import input_moments  # noqa: E402
from medfm_compress.compress.pruning.sparsity import (  # noqa: E402
    keep_sparse,
    sparse_layers,
    sparsify,
    verify_sparse,
    verify_sparse_onnx,
)
from medfm_compress.compress.training.loop import train  # noqa: E402
from medfm_compress.runtime.errors import InputError, ModelError  # noqa: E402
from medfm_compress.runtime.image_spec import ImageSpec  # noqa: E402
from medfm_compress.runtime.task import Task  # noqa: E402


class Mixed(nn.Module):
    """Every kind of layer that is eligible and every reason why one is not."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3)
        self.body = nn.Conv2d(8, 12, 3)
        self.depthwise = nn.Conv2d(12, 12, 3, groups=12)
        self.odd = nn.Linear(12, 6)
        self.head = nn.Linear(6, 2)
        self.silent = nn.Linear(8, 4)
        nn.init.zeros_(self.silent.weight)


def mixed() -> Mixed:
    torch.manual_seed(0)
    return Mixed()


def zeros(module: Any, names: Any) -> dict[str, Any]:
    return {name: module.get_submodule(name).weight == 0 for name in names}


def vit() -> Any:
    return engine_job.network(dropout=0.0)


def test_what_is_eligible_is_done_and_the_rest_is_named_with_its_reason() -> None:
    network = mixed()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    sparse = sparsify(network)
    assert sparse.layers == ("body", "odd")
    assert {entry.name: entry.reason for entry in sparse.left} == {
        "stem": "its 3 inputs are not a multiple of 4",
        "depthwise": "it is a convolution in 12 groups",
        "head": "its 6 inputs are not a multiple of 4",
        "silent": "its weights are all 0",
    }
    changed = {name for name, tensor in network.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {"body.weight", "odd.weight"}
    assert sparse.zeros == (12 * 8 * 9 + 6 * 12) // 2
    assert sparse.weights == sum(p.numel() for name, p in network.named_parameters() if name.endswith("weight"))


def test_the_two_larger_of_four_stay_at_every_kernel_position() -> None:
    network = mixed()
    before = network.body.weight.detach().clone()
    sparsify(network)
    after = network.body.weight.detach()
    for output in range(12):
        for row in range(3):
            for column in range(3):
                for start in (0, 4):
                    group = before[output, start : start + 4, row, column]
                    kept = set(group.abs().argsort(descending=True)[:2].tolist())
                    expected = [float(value) if i in kept else 0.0 for i, value in enumerate(group)]
                    assert after[output, start : start + 4, row, column].tolist() == expected


def test_input_norms_overrule_magnitude() -> None:
    layer = nn.Linear(4, 1, bias=False)
    network = nn.Sequential(layer)
    weight = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    layer.weight.data = weight.clone()
    sparsify(network)
    assert layer.weight.tolist() == [[0, 0, 3, 4]]
    layer.weight.data = weight.clone()
    images = torch.tensor([[10.0, 0.0, 1.0, 0.1], [-10.0, 0.0, 1.0, 0.1]])
    sparsify(network, moments=input_moments(network, ["0"], [(images, torch.tensor([0, 1]))]))
    assert layer.weight.tolist() == [[1, 0, 3, 0]]  # |w| x norm: 10, 0, 3, 0.4


def test_layers_can_be_left_dense_and_unknown_names_are_refused() -> None:
    network = mixed()
    sparse = sparsify(network, leave=["odd"])
    assert sparse.layers == ("body",) and not bool((network.odd.weight == 0).any())
    assert {entry.name: entry.reason for entry in sparse.left}["odd"] == "it was asked to stay dense"
    with pytest.raises(InputError, match="'nowhere' is no linear or convolutional layer"):
        sparsify(mixed(), leave=["nowhere"])


def test_a_network_without_an_eligible_layer_is_refused() -> None:
    with pytest.raises(ModelError, match="0: its 6 inputs are not a multiple of 4"):
        sparsify(nn.Sequential(nn.Linear(6, 8)))


def test_sparse_layers_finds_what_was_done_and_nothing_in_a_dense_network() -> None:
    network = mixed()
    assert sparse_layers(network) == ()
    assert sparse_layers(network) != sparsify(network).layers == sparse_layers(network)
    again = mixed()
    sparsify(again)
    before = zeros(again, again.state_dict() and ["body", "odd"])
    sparsify(again)
    assert all(torch.equal(mask, before[name]) for name, mask in zeros(again, before).items()), "not idempotent"


def test_verify_names_layer_and_position() -> None:
    network = mixed()
    done = sparsify(network).layers
    verify_sparse(network, done)
    with torch.no_grad():
        network.body.weight[5, 4:7, 2, 1] = 1
    verify_sparse(network, ["odd"])
    with pytest.raises(ModelError, match=r"body is not 2:4 .* inputs 4 to 7 of output 5, kernel position \(2, 1\)"):
        verify_sparse(network, done)
    with torch.no_grad():
        network.odd.weight[3, 8:12] = 1
    with pytest.raises(ModelError, match=r"odd is not 2:4 .* inputs 8 to 11 of output 3 more"):
        verify_sparse(network, ["odd"])
    for name, reason in {"stem": "not a multiple", "depthwise": "12 groups", "nowhere": "no linear"}.items():
        with pytest.raises(ModelError, match=reason):
            verify_sparse(network, [name])


def test_without_holding_training_fills_the_zeros_again() -> None:
    """What the next test would miss if training changed nothing."""
    network = vit()
    done = sparsify(network).layers
    trained = train(engine_job.make_job(module=network), replace(engine_job.CONFIG, epochs=1), lambda text: None)
    assert len(done) > 8 and not set(done) & set(sparse_layers(trained.network))


def test_zeros_hold_through_the_training_loop_with_decay_average_and_resume(tmp_path: Path) -> None:
    config = replace(engine_job.CONFIG, epochs=1, weight_decay=0.1)
    network = vit()
    done = sparsify(network).layers
    masks, before = zeros(network, done), network.blocks[0].mlp.fc1.weight.detach().clone()
    handles = keep_sparse(network)
    assert len(handles) == len(done)
    train(engine_job.make_job(tmp_path / "run.pt", module=network), config, lambda text: None)
    assert all(torch.equal(mask, masks[name]) for name, mask in zeros(network, done).items())
    assert not torch.equal(before, network.blocks[0].mlp.fc1.weight)

    again, described = vit(), []
    sparsify(again)
    keep_sparse(again)
    trained = train(engine_job.make_job(tmp_path / "run.pt", module=again), replace(config, epochs=2), described.append)
    assert described[0].startswith("resuming after epoch 1")
    for module in (again, trained.network):
        assert all(torch.equal(mask, masks[name]) for name, mask in zeros(module, done).items())
        verify_sparse(module, done)


def test_other_weights_train_as_if_nothing_were_held() -> None:
    """Holding changes the gradient of held weights only, and not at all once the handles are removed."""
    network = mixed()
    sparsify(network)
    mask = network.odd.weight == 0
    inputs = torch.rand(5, 12)

    def slopes() -> Any:
        return torch.autograd.grad(network.odd(inputs).square().sum(), network.odd.weight)[0]

    free = slopes()
    handles = keep_sparse(network)
    held = slopes()
    assert bool((free[mask] != 0).any()) and not bool(held[mask].any())
    assert torch.equal(held[~mask], free[~mask])
    for handle in handles:
        handle.remove()
    assert torch.equal(slopes(), free)


def test_a_kept_weight_of_zero_may_still_learn() -> None:
    """Two positions of every four are free, whether or not their weights happen to be 0."""
    network = nn.Sequential(nn.Linear(4, 1, bias=False))
    network[0].weight.data = torch.tensor([[0.0, 5.0, 0.0, 0.0]])
    keep_sparse(network)
    network(torch.ones(1, 4)).sum().backward()
    assert network[0].weight.grad.tolist() == [[1, 1, 0, 0]]


def test_nothing_to_keep_is_refused() -> None:
    with pytest.raises(ModelError, match="no layer of this network is 2:4"):
        keep_sparse(mixed())


def test_a_saved_model_is_sparse_when_it_is_loaded(tmp_path: Path) -> None:
    from medfm_compress.compress.networks.build import build_model
    from medfm_compress.compress.networks.model import load_model, save_model

    model = build_model("resnet10t", Task(kind="binary", labels=("normal", "opacity")), size_px=32, colour="grey")
    done = sparsify(model.module).layers
    again = load_model(save_model(model, tmp_path / "sparse"))
    assert len(done) > 8 and sparse_layers(again.module) == done


class Exported(nn.Module):
    """Convolution with batch norm (folded), tokens (MatMul) and a classifier (Gemm)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 4, stride=4)
        self.body = nn.Conv2d(8, 16, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(16)
        self.tokens = nn.Linear(16, 12)
        self.head = nn.Linear(12, 2)

    def forward(self, images: Any) -> Any:
        hidden = self.norm(self.body(self.stem(images).relu())).relu()
        return self.head(self.tokens(hidden.flatten(2).transpose(1, 2)).relu().mean(1))


def test_an_exported_file_is_still_sparse_and_a_dense_one_is_refused() -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    from medfm_compress.export.onnx_export import export_onnx

    torch.manual_seed(0)
    network = Exported().eval()
    sparse = sparsify(network)
    assert sparse.layers == ("body", "tokens", "head")
    spec = ImageSpec(height_px=16, width_px=16, colour="rgb", mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    content = export_onnx(network, spec, Task(kind="binary", labels=("normal", "opacity"))).content
    assert len(verify_sparse_onnx(content, sparse.zeros)) == 3
    with pytest.raises(ModelError, match=rf"hold {sparse.zeros} zeros, and at least {sparse.zeros + 1} are needed"):
        verify_sparse_onnx(content, sparse.zeros + 1)
    with pytest.raises(ModelError, match="hold 0 zeros"):
        verify_sparse_onnx(_refilled(content))
    images = torch.rand(1, 3, 16, 16)
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"image": images.numpy()})
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(logits), network(images), rtol=1e-4, atol=1e-5)


def _refilled(content: bytes) -> bytes:
    """The same file with no zero left in any weight."""
    import onnx

    model = onnx.load_model_from_string(content)
    for tensor in model.graph.initializer:
        array = onnx.numpy_helper.to_array(tensor).copy()
        array[array == 0] = 1
        tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
    return bytes(model.SerializeToString())


@pytest.mark.parametrize(("along", "expected"), [("inputs", ("w",)), ("outputs", ())])
@pytest.mark.parametrize("operation", ["MatMul", "Gemm", "GemmTransposed", "Conv", "Quantized", "Grouped"])
def test_only_zeros_along_the_inputs_count(operation: str, along: str, expected: tuple[str, ...]) -> None:
    onnx = pytest.importorskip("onnx")
    import numpy as np

    weight = np.arange(1, 65, dtype=np.int8 if operation == "Quantized" else np.float32).reshape(8, 8)
    weight.reshape(8, 2, 4)[:, :, 2:] = 0  # [outputs, inputs]
    weight = weight if along == "inputs" else weight.T.copy()
    if operation in {"MatMul", "Gemm"}:
        weight = weight.T.copy()
    if operation in {"Conv", "Grouped"}:
        weight = weight[:, :, None, None]
    nodes, name = [], "w"
    if operation == "Quantized":
        nodes.append(onnx.helper.make_node("DequantizeLinear", ["w", "s"], ["d"]))
        name = "d"
    kind = {"GemmTransposed": "Gemm", "Quantized": "Gemm", "Grouped": "Conv"}.get(operation, operation)
    node = onnx.helper.make_node(kind, ["x", name], ["y"])
    if kind == "Gemm":
        node.attribute.append(onnx.helper.make_attribute("transB", int(operation != "Gemm")))
    if operation == "Grouped":
        node.attribute.append(onnx.helper.make_attribute("group", 2))
    graph = onnx.helper.make_graph([*nodes, node], "g", [], [], [onnx.numpy_helper.from_array(weight, "w")])
    content = onnx.helper.make_model(graph).SerializeToString()
    assert verify_sparse_onnx(content, 0) == (() if operation == "Grouped" else expected)
