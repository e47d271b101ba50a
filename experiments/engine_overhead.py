"""What `Engine.predict` adds to the bare session on an array of 224 × 224 px, of this tree and of others beside it.

    python experiments/engine_overhead.py [--beside TREE]

The network pools and multiplies once, so that nothing but the overhead is left to see. The session alone and the engine
around it take turns; so do fresh processes of the trees. Given are the medians over processes of the difference of
medians in each, and its spread. OpenVINO and ONNX Runtime have one thread.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

SIDE = 224


def images() -> dict[str, tuple[Literal["grey", "rgb"], NDArray[np.uint8]]]:
    """Name → colour of the network, and an image: a photograph's colours, one grey in three channels, one channel."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:SIDE, :SIDE] / SIDE
    light = 90 + 60 * np.sin(5 * x) * np.cos(7 * y) + rng.normal(0, 6, (SIDE, SIDE))
    hue = 25 * np.cos(9 * x + 4 * y)
    photograph = np.stack([light + 60 + hue, light + 10, light - hue], axis=-1)
    colour, grey = (np.clip(values, 0, 255).astype(np.uint8) for values in (photograph, light))
    return {
        "photograph, RGB network": ("rgb", colour),
        "grey in three channels, RGB network": ("rgb", np.repeat(grey[..., None], 3, axis=-1)),
        "grey, grey network": ("grey", grey),
    }


def network(channels: int) -> bytes:
    """ONNX: mean of each channel, times a matrix."""
    from onnx import helper, numpy_helper

    weights = np.random.default_rng(1).normal(size=(channels, 2)).astype(np.float32)
    nodes = [
        helper.make_node("GlobalAveragePool", ["image"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("MatMul", ["f", "F"], ["logits"]),
    ]
    ends = [("image", [1, channels, SIDE, SIDE]), ("logits", [1, 2])]
    values = [helper.make_tensor_value_info(name, 1, shape) for name, shape in ends]
    graph = helper.make_graph(nodes, "pool", values[:1], values[1:], [numpy_helper.from_array(weights, "F")])
    model: bytes = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9
    ).SerializeToString()
    return model


def write_bundle(path: Path, colour: Literal["grey", "rgb"]) -> None:
    """A bundle of the network for both engines, with a rule of colour and no verdict."""
    from medfm_compress.runtime import golden_cases as goldens
    from medfm_compress.runtime.bundle.bundle import write_bundle as write
    from medfm_compress.runtime.bundle.manifest import Manifest, Provenance, Tensor, Variant
    from medfm_compress.runtime.image_spec import ColourRule, ImageSpec
    from medfm_compress.runtime.sessions.table import open_session_from_bytes
    from medfm_compress.runtime.task import OperatingPoint, Task

    channels = 3 if colour == "rgb" else 1
    spec = ImageSpec(
        height_px=SIDE,
        width_px=SIDE,
        colour=colour,
        mean=(0.5,) * channels,
        std=(0.25,) * channels,
        colour_rule=ColourRule(images="colour" if colour == "rgb" else "grey"),
    )
    point = OperatingPoint(
        label="b", threshold=0.5, rule="youden", sensitivity=0.9, specificity=0.8, positives=40, negatives=60
    )
    variants = tuple(
        Variant(name=f"{backend}-cpu-fp32", files=("model.onnx",), backend=backend, device="cpu", precision="fp32")
        for backend in ("openvino", "onnxruntime")
    )
    model, inputs = network(channels), goldens.make_goldens(spec, count=1)
    logits = {
        variant.name: goldens.run_goldens(open_session_from_bytes(variant.backend, [model], 1, "fp32"), inputs)
        for variant in variants
    }
    manifest = Manifest(
        schema_version=0,
        name="pool",
        task=Task(kind="binary", labels=("a", "b"), operating_points=(point,)),
        image_spec=spec,
        inputs=(Tensor(name="image", role="image", shape=spec.shape),),
        outputs=(Tensor(name="logits", role="logits", shape=(1, 2)),),
        variants=variants,
        members=(),
        provenance=Provenance(teacher="none", teacher_licence="none", date="2026-01-01T00:00:00Z"),
        intended_use="measuring",
        model_digest="",
    )
    write(path, manifest, {"model.onnx": model} | goldens.golden_files(inputs, logits, spec))


def measure(repeats: int) -> dict[str, tuple[float, float]]:
    """Case → median ms of the bare session and of the engine, which take turns."""
    from medfm_compress.runtime.engine import Engine
    from medfm_compress.runtime.images.pixels import Pixels
    from medfm_compress.runtime.preprocess import preprocess

    result = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, (colour, image) in images().items():
            path = Path(folder) / f"{colour}.medfm"
            if not path.exists():
                write_bundle(path, colour)
            for backend in ("openvino", "onnxruntime"):
                with Engine(path, backend=backend, threads=1, unverified=True) as engine:
                    tensor = preprocess(Pixels.from_integers(image), engine.manifest.image_spec)
                    session: Any = engine._session
                    calls = (lambda: session.run({"image": tensor}), lambda: engine.predict(image))  # noqa: B023
                    times = np.array([[_timed(call) for call in calls] for _ in range(repeats)])
                    bare, whole = (1e3 * np.median(times[repeats // 5 :], axis=0)).tolist()
                    result[f"{name}, {backend}"] = bare, whole
    return result


def _timed(call: Any) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def main() -> None:
    """Let processes take turns, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--beside", type=Path, action="append", default=[], help="another tree of this project")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=300)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        sys.stdout.write(json.dumps(measure(arguments.repeats)))
        return
    here = Path(__file__).resolve().parents[1]
    taken: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for _ in range(arguments.rounds):
        for tree in (*arguments.beside, here):
            command = [sys.executable, __file__, "--child", "--repeats", str(arguments.repeats)]
            environment = os.environ | {"PYTHONPATH": str(tree / ".typing"), "OPENBLAS_NUM_THREADS": "1"}
            done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
            for case, times in json.loads(done.stdout).items():
                taken.setdefault((case, "after" if tree == here else "before"), []).append(times)
    lines = ["| array, network, engine | tree | session | predict | added | least to most |", "|" + "---|" * 6]
    for (case, tree_name), pairs in sorted(taken.items()):
        bare, whole = np.array(pairs).T
        added = whole - bare
        cells = [f"{np.median(values):.3f}" for values in (bare, whole)]
        ends = f"**{np.median(added):.3f}** | {added.min():.3f} to {added.max():.3f}"
        lines.append(f"| {case} | {tree_name} | {' | '.join(cells)} | {ends} |")
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
