"""A segmentation study on disk of bright spots, large and small, from two hospitals; and networks that draw them."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from medfm_compress.bench.evaluate.mask_evaluation import DEFAULT_MASKS, MaskOptions, tabulate_masks
from medfm_compress.bench.types.evaluation import Evaluation
from medfm_compress.data.masks import label_map
from medfm_compress.data.open import open_study
from medfm_compress.data.study import Study
from medfm_compress.runtime.bundle.bundle import write_bundle
from medfm_compress.runtime.bundle.manifest import Manifest, Provenance, Tensor, Variant
from medfm_compress.runtime.golden_cases import golden_files, make_goldens, run_goldens
from medfm_compress.runtime.image_spec import ImageSpec
from medfm_compress.runtime.segmentation.segment import Segmented
from medfm_compress.runtime.sessions.table import open_session_from_bytes
from medfm_compress.runtime.task import Task

TASK = Task(kind="segmentation", labels=("spot",))
SPEC = ImageSpec(height_px=64, width_px=64, colour="grey", mean=(0.5,), std=(0.25,))
ORT = Variant(name="onnxruntime-cpu-fp32", files=("model.onnx",), backend="onnxruntime", device="cpu", precision="fp32")
HEIGHT, WIDTH = 72, 80
LabelMap = NDArray[np.uint8]


def draw(folder: Path, cases: int, empty_every: int = 10) -> Study:
    """A study of ``cases`` test images, two a patient; each has a large spot and a small one, but every tenth."""
    random, table = np.random.default_rng(0), []
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    (folder / "study").mkdir()
    for number in range(cases):
        inside = np.zeros((HEIGHT, WIDTH), bool)
        if number % empty_every:
            for low, high, radius in ((20, 40, random.uniform(9, 13)), (58, 70, random.uniform(2.5, 3.5))):
                inside |= (y - random.uniform(20, 50)) ** 2 + (x - random.uniform(low, high)) ** 2 <= radius**2
        values = np.clip(random.normal(70, 8, inside.shape) + 120 * inside, 0, 255)
        for name, pixels in ((f"{number}.png", values), (f"{number}-mask.png", 255 * inside)):
            Image.fromarray(pixels.astype(np.uint8)).save(folder / "study" / name)
        table.append(
            [f"{number}.png", "test", f"{number}-mask.png", f"p{number // 2}", ("north", "south")[number // 2 % 2]]
        )
    with (folder / "study" / "cases.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["image", "split", "mask:spot", "patient", "hospital"], *table])
    return open_study(folder / "study", structures=TASK.labels)


def truths(study: Study) -> list[LabelMap]:
    """Label maps of all cases."""
    return [label_map(study, case) for case in study.cases]


def shaken(maps: list[LabelMap], seed: int) -> list[LabelMap]:
    """Each moved by at most a pixel: a good model's error."""
    random = np.random.default_rng(seed)
    return [np.roll(drawn, random.integers(-1, 2, 2), axis=(0, 1)) for drawn in maps]


def evaluation(study: Study, maps: list[LabelMap], name: str, options: MaskOptions = DEFAULT_MASKS) -> Evaluation:
    """What a model would be that draws ``maps``."""
    answers = [Segmented(drawn, np.array([0.97 if drawn.any() else 0.2])) for drawn in maps]
    return tabulate_masks(answers, study, study.cases, TASK, name=name, options=options)


def network(threshold: float = 0.5, *, eroded_px: int = 0) -> bytes:
    """ONNX that draws what is brighter than ``threshold`` of the range, and ``eroded_px`` less on every side."""
    from onnx import TensorProto, helper, numpy_helper

    side = 2 * eroded_px + 1
    constants = {"gain": np.full((1, 1, 1, 1), -8, np.float32), "bias": np.float32([8 * (threshold - 0.5) / 0.25])}
    nodes = [
        helper.make_node("Conv", ["image", "gain", "bias"], ["dark"]),
        helper.make_node("MaxPool", ["dark"], ["wide"], kernel_shape=[side, side], pads=[eroded_px] * 4),
        helper.make_node("Neg", ["wide"], ["logits"]),
    ]
    shape = [1, 1, SPEC.height_px, SPEC.width_px]
    graph = helper.make_graph(
        nodes,
        "spots",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


def bundle(path: Path, model: bytes, spec: ImageSpec = SPEC) -> Path:
    """A bundle of ``model``, for ONNX Runtime, without verdicts."""
    inputs = make_goldens(spec, count=2)
    logits = run_goldens(open_session_from_bytes("onnxruntime", [model], 1, "fp32"), inputs)
    manifest = Manifest(
        schema_version=0,
        name="spots",
        task=TASK,
        image_spec=spec,
        inputs=(Tensor(name="image", role="image", shape=spec.shape),),
        outputs=(Tensor(name="logits", role="logits", shape=(1, 1, spec.height_px, spec.width_px)),),
        variants=(ORT,),
        members=(),
        provenance=Provenance(teacher="spots", teacher_licence="Apache-2.0", date="2026-01-01T00:00:00Z"),
        intended_use="tests only",
        model_digest="",
    )
    write_bundle(path, manifest, {"model.onnx": model} | golden_files(inputs, {ORT.name: logits}, spec))
    return path
