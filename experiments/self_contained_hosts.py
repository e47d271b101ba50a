"""A self-contained file in Python and in JavaScript against `Engine`, on real images.

    npm install --ignore-scripts onnxruntime-node      # in the folder that --node names
    python experiments/self_contained_hosts.py data --node FOLDER --out docs/results/self-contained.json

``data`` has ``models/`` and the studies. Two networks: the ShuffleNet for histology as its publisher wrote it (opset
14, so that the resize is two matrix products) and an EfficientNet-lite0 for dermoscopy (opset 20).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medfm_compress.data.open import open_study
from medfm_compress.export.build import BundleDraft, build_bundle, make_variant, open_export
from medfm_compress.export.self_contained.build import export_self_contained
from medfm_compress.export.self_contained.options import SelfContainedOptions
from medfm_compress.runtime.bundle.bundle import Bundle, write_bundle
from medfm_compress.runtime.bundle.manifest import Manifest, Provenance, Tensor
from medfm_compress.runtime.engine import Engine
from medfm_compress.runtime.golden_cases import golden_files, make_goldens, relative_logit_error, run_goldens
from medfm_compress.runtime.image_spec import ImageSpec
from medfm_compress.runtime.preprocess import preprocess
from medfm_compress.runtime.read_image import pixels_from_array
from medfm_compress.runtime.task import OperatingPoint, Task

Array = NDArray[Any]
Answers = tuple[Array, ...]
"""Logits, probabilities and findings, a row an image."""

IMAGES = 100
EXAMPLE = Path(__file__).parents[1] / "examples" / "self_contained.mjs"


def shufflenet(models: Path, out: Path) -> None:
    """A bundle of the published ONNX file itself."""
    content = (models / "shufflenet-lung-colon.onnx").read_bytes()
    variant = make_variant("onnxruntime", "fp32")
    export = open_export(variant, (content,))
    spec = ImageSpec(height_px=32, width_px=32, colour="rgb", mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    labels = ("colon adenocarcinoma", "colon benign", "lung adenocarcinoma", "lung benign", "lung squamous")
    goldens = make_goldens(spec)  # its logits reach 200: without a temperature every probability would be 0 or 1
    manifest = Manifest(
        schema_version=0,
        name="shufflenet",
        task=Task(kind="multiclass", labels=labels, temperature=40.0),
        image_spec=spec,
        inputs=(Tensor(name=export.session.input_names[0], role="image", shape=spec.shape),),
        outputs=(Tensor(name=export.session.output_names[0], role="logits", shape=(1, len(labels))),),
        variants=(variant,),
        members=(),
        provenance=Provenance(),
        intended_use="Research and evaluation only; not for clinical use.",
        model_digest="",
    )
    logits = {variant.name: run_goldens(export.session, goldens)}
    write_bundle(out, manifest, export.files | golden_files(goldens, logits, spec))


def efficientnet(models: Path, out: Path) -> None:
    """A bundle of the dermoscopy network, by this project's exporter."""
    import timm
    from safetensors.torch import load_file

    module = timm.create_model("tf_efficientnet_lite0", num_classes=2)
    weights = load_file(models / "efficientnet-lite0-skin-lesion-224.safetensors")
    module.load_state_dict(
        {name: value.float() if value.is_floating_point() else value for name, value in weights.items()}
    )
    point = OperatingPoint(
        label="melanoma", threshold=0.2, rule="fixed", sensitivity=0.5, specificity=0.5, positives=1, negatives=1
    )
    draft = BundleDraft(
        name="efficientnet-lite0",
        spec=ImageSpec(height_px=224, width_px=224, colour="rgb", mean=(0.498,) * 3, std=(0.502,) * 3),
        task=Task(kind="binary", labels=("other", "melanoma"), temperature=1.3, operating_points=(point,)),
        provenance=Provenance(),
        intended_use="Research and evaluation only; not for clinical use.",
    )
    build_bundle(module, draft, out)


NETWORKS = {
    "shufflenet-lung-colon": (shufflenet, "lung-histology", "matmul"),
    "efficientnet-lite0-skin-lesion": (efficientnet, "skin-lesion", "resize"),
}


def compare(name: str, data: Path, node: Path, folder: Path) -> dict[str, Any]:
    """Largest differences of both hosts from the engine, on `IMAGES` images of the network's study."""
    build, study_name, form = NETWORKS[name]
    bundle, file = folder / f"{name}.medfm", folder / f"{name}.onnx"
    build(data / "models", bundle)
    options = SelfContainedOptions(resize_with=form)  # type: ignore[arg-type]
    written = export_self_contained(Bundle.open(bundle), options, file)
    images = _images(data / study_name)
    with Engine(bundle, backend="onnxruntime", unverified=True) as engine:
        expected = [engine.predict(image) for image in images]
        spec = engine.manifest.image_spec
        logits = np.concatenate([engine.logits(preprocess(pixels_from_array(image), spec)) for image in images])
    scores = np.array([list(prediction.probabilities.values()) for prediction in expected])
    findings = np.array([list(prediction.findings.values()) for prediction in expected])
    in_python, in_javascript = _python(file, images), _javascript(file, images, node, folder)
    return {
        "network": name,
        "study": study_name,
        "images": len(images),
        "parity at export": written.parity.relative_logit_error,
        "megabytes": round(written.bytes / 1e6, 2),
        "logits": [float(logits.min()), float(logits.max())],
        "probabilities between 0.01 and 0.99": float(((scores > 0.01) & (scores < 0.99)).mean()),
        "python": _against(in_python, logits, scores, findings),
        "javascript": _against(in_javascript, logits, scores, findings),
        "largest logit difference, javascript against python": float(np.abs(in_javascript[0] - in_python[0]).max()),
    }


def _against(host: Answers, logits: Array, scores: Array, findings: Array) -> dict[str, float]:
    """How far a host's answers are from the engine's; findings are None where they have no threshold."""
    decided = findings != None  # noqa: E711  (elementwise)
    return {
        "relative logit error": relative_logit_error(host[0], logits),
        "largest probability difference": float(np.abs(host[1] - scores).max()),
        "findings that differ": int((host[2][decided] != findings[decided]).sum()),
    }


def _images(folder: Path) -> list[NDArray[np.uint8]]:
    study = open_study(folder)
    chosen = np.linspace(0, len(study.cases) - 1, IMAGES).astype(int)
    return [study.source.read(study.cases[int(index)].image).values for index in chosen]


def _python(file: Path, images: list[NDArray[np.uint8]]) -> Answers:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    names = ["logits", "probabilities", "findings"]
    rows = [session.run(names, {"pixels": image}) for image in images]
    return tuple(np.concatenate(parts) for parts in zip(*rows, strict=True))


def _javascript(file: Path, images: list[NDArray[np.uint8]], node: Path, folder: Path) -> Answers:
    names = ("height", "width", "channels")
    rows = []
    for index, image in enumerate(images):
        (folder / f"{index}.raw").write_bytes(np.ascontiguousarray(image).tobytes())
        rows.append({"file": f"{index}.raw", **dict(zip(names, image.shape, strict=True))})
    (folder / "images.json").write_text(json.dumps(rows))
    command = ["node", str(EXAMPLE.resolve()), str(file), str(folder / "images.json")]
    done = subprocess.run(command, cwd=node, capture_output=True, text=True, check=True)
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    return tuple(np.array([answer[name] for answer in answers]) for name in ("logits", "probabilities", "findings"))


def main() -> None:
    """Compare both networks and write what came out."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--node", type=Path, required=True, help="folder in which onnxruntime-node is installed")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = [compare(name, arguments.data, arguments.node, Path(folder)) for name in NETWORKS]
    arguments.out.write_text(json.dumps(rows, indent=1) + "\n")
    sys.stdout.write(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
