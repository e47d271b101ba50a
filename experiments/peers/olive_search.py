"""Olive's own command with its own search over static and dynamic INT8 for ONNX Runtime, for a given time.

python olive_search.py MODEL.onnx CALIBRATION.npz OUT.onnx [SECONDS]

The search (its TPE sampler over the parameters that its passes offer) is told to find the fastest network whose largest
logit is FP32's in all but 2 % of the last quarter of the cases; it calibrates on the others. A limit on the error of
the logits would be a custom metric, and Olive 0.13.0 ends on any of those before it begins: it cannot write its own
configuration down (``'NoneType' object has no attribute 'model_dump'``).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

_JUDGES = 16
_MOST_LOST = 0.02
_SCRIPT = str(Path(__file__).resolve())


def main(model: str, calibration: str, out: str, seconds: str = "120") -> None:
    """Search, and copy what it ranks first."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        values = label(Path(model), Path(calibration), folder / "cases.npz")
        config = folder / "config.json"
        config.write_text(json.dumps(configuration(str(Path(model).resolve()), values, folder, float(seconds))))
        command = [sys.executable, "-m", "olive", "run", "--config", str(config)]
        silent = {"OLIVE_DISABLE_TELEMETRY": "1", "CI": "1"}  # the first alone still lets it send one message
        subprocess.run(command, check=True, env={**os.environ, **silent})
        shutil.copy(next((folder / "out").rglob("*.onnx")), out)


def label(model: Path, calibration: Path, out: Path) -> int:
    """Write the cases with FP32's answers as their labels; how many values the network has."""
    import onnxruntime

    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    images = np.load(calibration)["image"]
    logits = np.concatenate([session.run(None, {"image": image[None]})[0] for image in images])
    np.savez(out, image=images, label=logits.argmax(axis=1))
    return int(logits.shape[1])


def configuration(model: str, values: int, folder: Path, seconds: float) -> dict[str, Any]:
    """What `olive run` reads."""
    searched = dict.fromkeys(("precision", "per_channel"), "SEARCHABLE_VALUES")
    static = searched | dict.fromkeys(("quant_format", "calibrate_method", "activation_type"), "SEARCHABLE_VALUES")
    return {
        "input_model": {"type": "ONNXModel", "model_path": model},
        "systems": {
            "cpu": {
                "type": "LocalSystem",
                "accelerators": [{"device": "cpu", "execution_providers": ["CPUExecutionProvider"]}],
            }
        },
        "data_configs": [cases(folder, side) for side in ("calibration", "judges")],
        "evaluators": {"both": {"metrics": [accuracy(values), latency()]}},
        "passes": {
            "quantize": [
                {"type": "OnnxStaticQuantization", "data_config": "calibration", **static},
                {"type": "OnnxDynamicQuantization", **searched},
            ]
        },
        "search_strategy": {
            "execution_order": "joint",
            "sampler": "tpe",
            "max_time": int(seconds),
            "output_model_num": 1,
        },
        "evaluator": "both",
        "host": "cpu",
        "target": "cpu",
        "cache_dir": str(folder / "cache"),
        "output_dir": str(folder / "out"),
    }


def cases(folder: Path, side: str) -> dict[str, Any]:
    """The cases of one side."""
    return {
        "name": side,
        "user_script": _SCRIPT,
        "load_dataset_config": {"type": "labelled_cases", "path": str(folder / "cases.npz"), "side": side},
        "dataloader_config": {"batch_size": 1},
    }


def latency() -> dict[str, Any]:
    """Its own clock, which it is to make short."""
    return {
        "name": "latency",
        "type": "latency",
        "data_config": "judges",
        "sub_types": [{"name": "p50", "priority": 1, "metric_config": {"warmup_num": 5, "repeat_test_num": 20}}],
        "user_config": {"inference_settings": {"onnx": {"session_options": {"intra_op_num_threads": 1}}}},
    }


def accuracy(values: int) -> dict[str, Any]:
    """The share of FP32's answers, which may fall by little."""
    goal = {"type": "max-degradation", "value": _MOST_LOST}
    task = {"task": "multiclass", "num_classes": values}
    return {
        "name": "accuracy",
        "type": "accuracy",
        "data_config": "judges",
        "sub_types": [{"name": "accuracy_score", "priority": 2, "metric_config": task, "goal": goal}],
    }


def _register() -> None:
    from olive.data.component.dataset import BaseDataset
    from olive.data.registry import Registry

    @Registry.register_dataset()  # type: ignore[untyped-decorator, unused-ignore]
    def labelled_cases(path: str, side: str, **_options: Any) -> Any:
        read = np.load(path)
        part = slice(-_JUDGES, None) if side == "judges" else slice(None, -_JUDGES)
        return BaseDataset(
            [({"image": i}, int(k)) for i, k in zip(read["image"][part], read["label"][part], strict=True)]
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
elif "olive" in sys.modules:
    _register()
