"""Each new variant's own scores of the validation cases, where the bundle tells unlike images."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from medfm_compress.compress.quantization.candidate_trial import CandidateTrial, opened
from medfm_compress.compress.quantization.kinds.validation_set import ValidationSet
from medfm_compress.export.typicality import Asked, rescored
from medfm_compress.runtime.bundle.bundle import Bundle, typicality_member
from medfm_compress.runtime.progress import Progress
from medfm_compress.runtime.sessions.table import open_session_from_bytes


def score_files(
    bundle: Bundle,
    shipping: Sequence[CandidateTrial],
    validation: ValidationSet,
    float_graph: Callable[[], bytes],
    progress: Progress,
) -> dict[str, bytes]:
    """Members with the scores of the new ones of ``shipping``; none where ``bundle`` tells no unlike images.

    What a network gave on the cases that judged it is not asked for again. For a variant that the device builds the
    float network answers, to which the device holds it.

    Raises:
        StudyError: see `rescored`.
    """
    new = [trial for trial in shipping if not trial.is_reference]
    if not new or bundle.manifest.typicality is msgspec.UNSET:
        return {}
    progress("scoring the cases that judge, so that the new variants tell unlike images")
    files = {}
    for trial in new:
        session, asked = opened(trial).session, _asked(trial, validation)
        if trial.variant.device != "cpu":
            session, asked = open_session_from_bytes("onnxruntime", [float_graph()], 1, "fp32"), None
        files[typicality_member(trial.variant.name)] = rescored(bundle, session, validation.study, asked)
    return files


def _asked(trial: CandidateTrial, validation: ValidationSet) -> Asked | None:
    return None if trial.features is None else Asked(validation.cases, validation.inputs, trial.features)
