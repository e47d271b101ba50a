"""Heat maps that survive compression: one dermoscopy teacher, its FP32 and INT8 bundles, against each other and masks.

    python experiments/explanations.py prepare OUT --weights FILE --study FOLDER
    python experiments/explanations.py judge OUT --weights FILE --study FOLDER [--cases N] [--seconds S]
    python experiments/explanations.py candidates OUT --weights FILE --study FOLDER

``FILE`` is ``efficientnet-lite0-skin-lesion-224.safetensors``, ``FOLDER`` the skin-lesion study, split as its JSON
says. ``prepare`` writes ``plain.medfm`` (without maps), ``fp32.medfm`` and ``int8.medfm``; ``judge`` writes
``result.json``; ``candidates`` quantizes without a limit of error and writes ``candidates.json``. What became
of a pruned and a distilled student's maps: ``explained_compressions.py``.
A map is of the class that its own network predicts; it is laid on the image at its own size, where the mask is drawn.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import timm
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file

from medfm_compress.bench.evaluate.attribution_agreement import overlap, rank_correlation
from medfm_compress.bench.evaluate.map_accuracy import insertion_deletion, points_at
from medfm_compress.compress.explain.gradcam import grad_cam
from medfm_compress.compress.quantization.build_candidate import GraphBuilder, portable
from medfm_compress.compress.quantization.calibrate import calibrate
from medfm_compress.compress.quantization.methods import Method
from medfm_compress.compress.quantization.options import QuantizeOptions
from medfm_compress.compress.quantization.quantize_bundle import quantize_bundle
from medfm_compress.data.masks import label_map
from medfm_compress.data.open import open_study
from medfm_compress.data.splitting import SplitPlan, split_study
from medfm_compress.data.study import Study
from medfm_compress.export.build import BundleDraft, build_bundle
from medfm_compress.export.cases import network_inputs, sample_cases
from medfm_compress.runtime.bundle.bundle import Bundle
from medfm_compress.runtime.bundle.manifest import Provenance
from medfm_compress.runtime.class_activation import ClassActivation, on_image, on_input
from medfm_compress.runtime.golden_cases import relative_logit_error
from medfm_compress.runtime.image_spec import ImageSpec
from medfm_compress.runtime.sessions.protocol import Session
from medfm_compress.runtime.sessions.table import open_session_from_bytes, open_variant
from medfm_compress.runtime.task import Task

SPEC = ImageSpec(
    height_px=224,
    width_px=224,
    colour="rgb",
    mean=(0.498,) * 3,
    std=(0.502,) * 3,
    resize="stretch",
    filter="bicubic",
    crop_fraction=1.0,
)
TASK = Task(kind="binary", labels=("other", "melanoma"))
FINDING = "melanoma"
PERTURBED_CASES = 30
RESAMPLES = 2000

Activate = Callable[[NDArray[np.float32]], ClassActivation]


def network(weights: Path | None) -> Any:
    """The teacher; with random weights where no file is given."""
    torch.manual_seed(1234)
    module = timm.create_model("tf_efficientnet_lite0", num_classes=2)
    if weights is not None:
        module.load_state_dict({name: value.float() for name, value in load_file(weights).items()})
    return module.eval()


def by_torch(module: Any) -> Activate:
    """Last feature map × classifier weights in PyTorch, by nothing that the export uses."""

    def activate(image: NDArray[np.float32]) -> ClassActivation:
        with torch.no_grad():
            features = module.forward_features(torch.from_numpy(image))
            maps = torch.einsum("kc,chw->khw", module.classifier.weight, features[0])
            return ClassActivation(maps.numpy(), module.forward_head(features)[0].numpy())

    return activate


def by_variant(bundle: Path, name: str) -> Activate:
    """A variant's own output."""
    opened = Bundle.open(bundle)
    variant = next(v for v in opened.manifest.variants if v.name == name)
    return by_session(open_variant(opened, variant, 1))


def predicted(activation: ClassActivation) -> NDArray[np.float32]:
    """Evidence for the class that is predicted, ``[h, w]``."""
    evidence = activation.evidence(TASK, FINDING)
    return evidence if activation.logits[1] > activation.logits[0] else -evidence


def interval(values: NDArray[np.float64]) -> tuple[float, float, float]:
    """Mean and its 95 % interval by the bootstrap over cases."""
    random = np.random.default_rng(0)
    means = [values[random.integers(0, len(values), len(values))].mean() for _ in range(RESAMPLES)]
    low, high = np.quantile(means, (0.025, 0.975))
    return round(float(values.mean()), 4), round(float(low), 4), round(float(high), 4)


def split(folder: Path) -> Study:
    """The study as the teacher was trained on it."""
    return split_study(open_study(folder), SplitPlan(test=0.465, val=0.07, keep_test=False, seed=0)).study


def prepare(options: argparse.Namespace) -> None:
    """The bundles."""
    study, module = split(options.study), network(options.weights)
    for name, heat_map in (("plain", False), ("fp32", True)):
        draft = BundleDraft(
            name="lite0-skin-lesion",
            spec=SPEC,
            task=TASK,
            provenance=Provenance(),
            intended_use="experiment",
            false_refusal_rate=0,
            heat_map=heat_map,
        )
        manifest = build_bundle(module, draft, options.out / f"{name}.medfm", study=study, progress=print)
    quick = QuantizeOptions(
        samples=96, validation_samples=64, rounds=5, nncf=False, optimised=False, reduced_range=False, time_budget_s=45
    )
    quantized = quantize_bundle(options.out / "fp32.medfm", study, options.out / "int8.medfm", quick, print)
    sys.stdout.write("\n".join((*manifest.provenance.steps, *quantized.manifest.provenance.steps)) + "\n")


def judge(options: argparse.Namespace) -> None:
    """Maps of everybody on the test cases, against the teacher's and the masks."""
    study, drawn = split(options.study), open_study(options.study, structures=("lesion",))
    masks = {case.image: case for case in drawn.cases if case.masks}
    cases = [case for case in study.split("test") if case.image in masks]
    order = np.random.default_rng(0).permutation(len(cases))[: options.cases]
    started = time.monotonic()
    module = network(options.weights)
    viewers: dict[str, Activate] = {
        "teacher": by_torch(module),
        "FP32 ONNX Runtime": by_variant(options.out / "fp32.medfm", "onnxruntime-cpu-fp32"),
        "FP32 OpenVINO": by_variant(options.out / "fp32.medfm", "openvino-cpu-fp32"),
        **{
            variant.name: by_variant(options.out / "int8.medfm", variant.name)
            for variant in Bundle.open(options.out / "int8.medfm").manifest.variants
            if variant.precision != "fp32"
        },
        "random weights": by_torch(network(None)),
    }
    rows: dict[str, dict[str, list[float]]] = {name: {} for name in [*viewers, "middle of the image"]}

    def note(name: str, **values: float) -> None:
        for key, value in values.items():
            rows[name].setdefault(key, []).append(value)

    gradient = []
    for number, case in enumerate(cases[position] for position in order):
        if time.monotonic() - started > options.seconds:
            break
        image = network_inputs(study, [case], SPEC)
        mask = label_map(drawn, masks[case.image])
        seen = {name: activate(image) for name, activate in viewers.items()}
        teacher = seen["teacher"].evidence(TASK, FINDING)
        if number < 16:
            by_gradient = grad_cam(module, torch.from_numpy(image), lambda z: z[:, 1] - z[:, 0])[0].detach().numpy()
            gradient.append(rank_correlation(teacher, by_gradient))
        for name, activation in seen.items():
            evidence = activation.evidence(TASK, FINDING)
            note(
                name,
                pointing=points_at(on_image(predicted(activation), SPEC, *mask.shape), mask),
                rank=rank_correlation(evidence, teacher),
                overlap=overlap(on_input(evidence, SPEC), on_input(teacher, SPEC)) if number < 200 else np.nan,
                changed=float(activation.logits.argmax() != seen["teacher"].logits.argmax()),
            )
            if number < PERTURBED_CASES:
                score = _probability(viewers["FP32 ONNX Runtime"], seen["teacher"])
                area = insertion_deletion(score, image, on_input(predicted(activation), SPEC))
                note(name, insertion=area.insertion, deletion=area.deletion)
        note("middle of the image", pointing=float(mask[mask.shape[0] // 2, mask.shape[1] // 2] != 0))
        note("middle of the image", area=float((mask != 0).mean()))
    table = {name: _row(name, row, rows["teacher"]) for name, row in rows.items()}
    table["grad-cam against the teacher's maps, rank"] = {"lowest": min(gradient)}
    table["cost"] = cost(options.out, image)
    table["cases"] = {"count": len(rows["teacher"]["pointing"])}
    (options.out / "result.json").write_bytes(msgspec.json.format(msgspec.json.encode(table), indent=1))
    sys.stdout.write((options.out / "result.json").read_text())


def candidates(options: argparse.Namespace) -> None:
    """INT8 of each engine as it comes, whatever its error: how far its maps and its answers move, on 150 test cases."""
    study = split(options.study)
    bundle = Bundle.open(options.out / "fp32.medfm")
    source = portable(bundle.read("models/onnxruntime-cpu-fp32.onnx"))
    inputs = network_inputs(study, sample_cases(study, "train", 64, 0), SPEC)
    builder = GraphBuilder(source, calibrate(source, iter([inputs]), threads=1), inputs[:32], TASK)
    images = network_inputs(study, sample_cases(study, "test", 150, 0), SPEC)[:, None]
    float32 = by_variant(options.out / "fp32.medfm", "onnxruntime-cpu-fp32")
    expected = [float32(image) for image in images]
    table = {}
    for engine in ("onnxruntime", "openvino"):
        for name, method in (("plain", Method()), ("smoothquant", Method(smoothquant=True))):
            session = open_session_from_bytes(engine, list(builder.build(engine, method)), 1, "int8")
            own = [by_session(session)(image) for image in images]
            pairs = list(zip(own, expected, strict=True))
            ranks = [rank_correlation(*(a.evidence(TASK, FINDING) for a in pair)) for pair in pairs]
            logits = [np.stack([a.logits for a in each]) for each in (own, expected)]
            table[f"{engine} {name}"] = {
                "relative logit error": round(relative_logit_error(logits[0], logits[1], TASK), 4),
                "rank": interval(np.array(ranks)),
                "rank 5th percentile": round(float(np.quantile(ranks, 0.05)), 4),
                "changed": float((logits[0].argmax(1) != logits[1].argmax(1)).mean()),
            }
    (options.out / "candidates.json").write_bytes(msgspec.json.format(msgspec.json.encode(table), indent=1))
    sys.stdout.write((options.out / "candidates.json").read_text())


def by_session(session: Session) -> Activate:
    """An opened session's own output."""

    def activate(image: NDArray[np.float32]) -> ClassActivation:
        outputs = session.run({"image": image})
        return ClassActivation(outputs["cam"][0], outputs["logits"][0])

    return activate


def cost(out: Path, image: NDArray[np.float32], rounds: int = 60) -> dict[str, list[float]]:
    """Milliseconds of one run without and with maps, in turns, of the FP32 engines: medians, and the median ratio."""
    rows = {}
    for engine in ("onnxruntime", "openvino"):
        sessions = []
        for name in ("plain", "fp32"):
            bundle = Bundle.open(out / f"{name}.medfm")
            variant = next(v for v in bundle.manifest.variants if v.name.startswith(f"{engine}-cpu-fp32"))
            sessions.append(open_variant(bundle, variant, 1))
        times = np.empty((rounds, 2))
        for turn in range(-5, rounds):
            for number, session in enumerate(sessions):
                start = time.perf_counter()
                session.run({"image": image})
                times[max(turn, 0), number] = 1e3 * (time.perf_counter() - start)
        ratio = float(np.median(times[:, 1] / times[:, 0]))
        rows[engine] = [round(float(value), 3) for value in (*np.median(times, axis=0), ratio)]
    return rows


def _probability(activate: Activate, teacher: ClassActivation) -> Callable[[NDArray[np.float32]], float]:
    """Of the class that the teacher predicts, by the FP32 network, whoever made the map."""
    label = int(teacher.logits.argmax())

    def score(image: NDArray[np.float32]) -> float:
        logits = activate(image).logits
        return float(1 / (1 + np.exp(logits[1 - label] - logits[label])))

    return score


def _row(name: str, row: dict[str, list[float]], teacher: dict[str, list[float]]) -> dict[str, Any]:
    told: dict[str, Any] = {}
    for key, values in row.items():
        array = np.asarray(values, np.float64)
        array = array[np.isfinite(array)]
        told[key] = interval(array)
        if key in ("rank", "overlap"):
            told[f"{key} 5th percentile"] = round(float(np.quantile(array, 0.05)), 4)
        if key in ("pointing", "insertion", "deletion") and name != "teacher":
            told[f"{key} against the teacher"] = interval(np.asarray(values) - np.asarray(teacher[key]))
    return told


def main() -> None:
    """Prepare or judge."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("step", choices=("prepare", "judge", "candidates"))
    parser.add_argument("out", type=Path)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--study", type=Path, required=True)
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=170, help="After which no further case is begun.")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    {"prepare": prepare, "judge": judge, "candidates": candidates}[options.step](options)


if __name__ == "__main__":
    main()
