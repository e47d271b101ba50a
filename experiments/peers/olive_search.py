"""Olive's own command with its own search over static and dynamic INT8 for ONNX Runtime, for a given time.

python olive_search.py MODEL.onnx CALIBRATION.npz OUT.onnx [SECONDS [MOST_ERROR]]

The search (its TPE sampler over the parameters that its passes offer) is told to find the fastest network whose
relative error of the logits stays below MOST_ERROR on the last quarter of the cases; it calibrates on the others.
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
_SCRIPT = str(Path(__file__).resolve())


def main(model: str, calibration: str, out: str, seconds: str = "120", most_error: str = "0.03") -> None:
    """Search, and copy what it ranks first."""
    with tempfile.TemporaryDirectory() as folder:
        cases = {"model": str(Path(model).resolve()), "cases": str(Path(calibration).resolve())}
        config = Path(folder) / "config.json"
        config.write_text(json.dumps(configuration(cases, Path(folder), float(seconds), float(most_error))))
        command = [sys.executable, "-m", "olive", "run", "--config", str(config)]
        silent = {"OLIVE_DISABLE_TELEMETRY": "1", "CI": "1"}  # the first alone still lets it send one message
        subprocess.run(command, check=True, env={**os.environ, **silent})
        shutil.copy(best_model(Path(folder) / "out"), out)


def configuration(cases: dict[str, str], folder: Path, seconds: float, most_error: float) -> dict[str, Any]:
    """What `olive run` reads."""
    searched = dict.fromkeys(("precision", "per_channel"), "SEARCHABLE_VALUES")
    static = searched | dict.fromkeys(("quant_format", "calibrate_method", "activation_type"), "SEARCHABLE_VALUES")
    return {
        "input_model": {"type": "ONNXModel", "model_path": cases["model"]},
        "systems": {
            "cpu": {
                "type": "LocalSystem",
                "accelerators": [{"device": "cpu", "execution_providers": ["CPUExecutionProvider"]}],
            }
        },
        "data_configs": [
            {
                "name": "cases",
                "user_script": _SCRIPT,
                "load_dataset_config": {"type": "calibration_cases", "path": cases["cases"]},
                "dataloader_config": {"batch_size": 1},
            }
        ],
        "evaluators": {"both": {"metrics": [error_metric(cases, most_error), latency_metric()]}},
        "passes": {
            "quantize": [
                {"type": "OnnxStaticQuantization", "data_config": "cases", **static},
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


def latency_metric() -> dict[str, Any]:
    """Its own clock, which it is to make short."""
    return {
        "name": "latency",
        "type": "latency",
        "data_config": "cases",
        "sub_types": [{"name": "p50", "priority": 1, "metric_config": {"warmup_num": 5, "repeat_test_num": 20}}],
        "user_config": {"inference_settings": {"onnx": {"session_options": {"intra_op_num_threads": 1}}}},
    }


def error_metric(cases: dict[str, str], most_error: float) -> dict[str, Any]:
    """Ours, which is to stay below a limit."""
    goal = {"type": "threshold", "value": most_error}
    return {
        "name": "error",
        "type": "custom",
        "sub_types": [{"name": "relative", "priority": 2, "higher_is_better": False, "goal": goal}],
        "user_config": {
            "user_script": _SCRIPT,
            "evaluate_func": "relative_error",
            "evaluate_func_kwargs": {"reference": cases["model"], "path": cases["cases"]},
        },
    }


def relative_error(model: Any, _device: Any, _providers: Any, *, reference: str, path: str) -> float:
    """‖z_q − z‖ / ‖z − z̄‖ on the cases that judge."""
    import onnxruntime

    cases = np.load(path)["image"][-_JUDGES:]
    logits = []
    for file in (model.model_path, reference):
        session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
        logits.append(np.concatenate([session.run(None, {"image": case[None]})[0] for case in cases]))
    return float(np.linalg.norm(logits[0] - logits[1]) / np.linalg.norm(logits[1] - logits[1].mean(axis=0)))


def best_model(folder: Path) -> Path:
    """The ONNX file in its output folder."""
    return next(folder.rglob("*.onnx"))


def _register() -> None:
    from olive.data.component.dataset import BaseDataset
    from olive.data.registry import Registry

    @Registry.register_dataset()  # type: ignore[untyped-decorator, unused-ignore]
    def calibration_cases(path: str, **_options: Any) -> Any:
        images = np.load(path)["image"][:-_JUDGES]
        return BaseDataset([({"image": image}, 0) for image in images])


if __name__ == "__main__":
    main(*sys.argv[1:])
elif "olive" in sys.modules:
    _register()
