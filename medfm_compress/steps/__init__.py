"""The steps of the job between files: what a command does, and what `pipeline` strings together."""

from medfm_compress.steps.anomaly import embed, fit_anomaly
from medfm_compress.steps.bundles import check_quantization, export, quantize
from medfm_compress.steps.judging import bench, explain, gate
from medfm_compress.steps.studies import check_rule, prepare_study
from medfm_compress.steps.training import distill, finetune, prepare_teacher, pretrain, prune

__all__ = [
    "bench",
    "check_quantization",
    "check_rule",
    "distill",
    "embed",
    "explain",
    "export",
    "finetune",
    "fit_anomaly",
    "gate",
    "prepare_study",
    "prepare_teacher",
    "pretrain",
    "prune",
    "quantize",
]
