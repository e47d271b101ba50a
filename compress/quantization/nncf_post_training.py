"""INT8 weights and activations by NNCF (https://github.com/openvinotoolkit/nncf), with or without accuracy control.

Of NNCF's defaults two are not taken: the first layer's weights get all of the 8 bits, since a form with 7 ships beside
it, and activation ranges come from the estimator that is asked for. Accuracy control returns one layer after another to
float, the most harmful first, until the metric, 1 − relative logit error on some of the calibration cases, suffices.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medfm_compress.compress.quantization.nncf_job import NncfJob
from medfm_compress.compress.quantization.nncf_models import (
    dataset,
    layer_names,
    products_of_activations,
    read_model,
    write_model,
)
from medfm_compress.runtime.golden_cases import relative_logit_error
from medfm_compress.runtime.sessions.onnxruntime import import_onnxruntime
from medfm_compress.runtime.task import Task

_ESTIMATORS: Mapping[str, str] = MappingProxyType(
    {"minmax": "MINMAX", "mean-no-outliers": "MEAN_NO_OUTLIERS_MINMAX", "histogram": "HISTOGRAM"}
)
_NO_SMOOTHING = -1.0
_JUDGING = 16  # cases that say whether the limit is met
_RANKING = 4  # of them, on which layers are ranked

Validation = Callable[[Any, Iterable[Any]], tuple[float, list[list[NDArray[np.float32]]]]]
"""NNCF's own form: model and cases → metric, larger is better, and the outputs of each case."""


def post_training_quantize(onnx: bytes, inputs: NDArray[np.float32], job: NncfJob) -> tuple[bytes, ...]:
    """The contents of the quantized model's files.

    Args:
        onnx: the float graph.
        inputs: ``[n, C, H, W]``.
        job: what to do.
    """
    import nncf

    model = read_model(onnx, job.backend)
    calibration = dataset(inputs, model)
    options: dict[str, Any] = {
        "preset": nncf.QuantizationPreset(job.settings.preset),
        "model_type": nncf.ModelType.TRANSFORMER if job.settings.transformer else None,
        "fast_bias_correction": job.settings.bias_correction != "accurate",
        "ignored_scope": nncf.IgnoredScope(names=_floats(model, job)),
        "subset_size": calibration.get_length(),
    }
    if not job.settings.error_limit:
        return write_model(nncf.quantize(model, calibration, advanced_parameters=_advanced(job), **options))
    judging = dataset(inputs[:_JUDGING], model)
    restorer = nncf.AdvancedAccuracyRestorerParameters(num_ranking_workers=1, ranking_subset_size=_RANKING)
    controlled = nncf.quantize_with_accuracy_control(
        model,
        calibration,
        judging,
        _validation_function(_logits(_compiled(model), judging.get_data()), job.task),
        max_drop=job.settings.error_limit,
        drop_type=nncf.DropType.ABSOLUTE,
        advanced_quantization_parameters=_advanced(job),
        advanced_accuracy_restorer_parameters=restorer,
        **options,
    )
    return write_model(controlled)


def _floats(model: Any, job: NncfJob) -> list[str]:
    """Layers that stay in float; with 7-bit weights also what has no weight that could be kept to 7 bits."""
    products = products_of_activations(model) if job.reduced else []
    return list(dict.fromkeys([*layer_names(model, job.excluded), *products]))


def _advanced(job: NncfJob) -> Any:
    import nncf
    from nncf.quantization.range_estimator import RangeEstimatorParametersSet

    settings = job.settings
    return nncf.AdvancedQuantizationParameters(
        overflow_fix=nncf.OverflowFix.ENABLE if job.reduced else nncf.OverflowFix.DISABLE,
        disable_bias_correction=not settings.bias_correction,
        activations_range_estimator_params=getattr(RangeEstimatorParametersSet, _ESTIMATORS[settings.estimator]),
        smooth_quant_alphas=nncf.AdvancedSmoothQuantParameters(matmul=settings.smoothquant or _NO_SMOOTHING),
    )


def _validation_function(reference: list[NDArray[np.float32]], task: Task | None) -> Validation:
    """1 − relative logit error against ``reference``, the float model's logits ``[n, labels]`` of each item."""

    def validate(model: Any, items: Iterable[Any]) -> tuple[float, list[list[NDArray[np.float32]]]]:
        logits = _logits(_compiled(model), items)
        expected = reference[: len(logits)]  # NNCF passes all, or the first alone
        error = relative_logit_error(np.concatenate(logits), np.concatenate(expected), task)
        return 1.0 - error, [[values] for values in logits]

    return validate


def _logits(run: Callable[[Any], NDArray[np.float32]], items: Iterable[Any]) -> list[NDArray[np.float32]]:
    return [np.array(run(item), dtype=np.float32) for item in items]


def _compiled(model: Any) -> Callable[[Any], NDArray[np.float32]]:
    """The first output of a model that NNCF passes: an OpenVINO one, compiled or not, or an ONNX one."""
    if hasattr(model, "graph"):
        session = import_onnxruntime().InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        return lambda item: session.run(None, item)[0]
    if hasattr(model, "get_ordered_ops"):
        import openvino

        model = openvino.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda item: model(item)[0]
