"""What a monitor compares with: images and scores of a study's cases, as each variant of a bundle sees them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np

from medfm_compress.data.case_columns import case_columns
from medfm_compress.data.sources import with_rules
from medfm_compress.data.study import Case, Study
from medfm_compress.runtime.activation import probabilities
from medfm_compress.runtime.bundle.bundle import Bundle, rewrite_bundle
from medfm_compress.runtime.bundle.manifest import Variant
from medfm_compress.runtime.cpu import read_cpu, usable_cores
from medfm_compress.runtime.errors import BundleRefused, ImageRefused, InputError, StudyError
from medfm_compress.runtime.monitor.reference import Reference, input_features, make_reference, reference_member
from medfm_compress.runtime.network_inputs import feed
from medfm_compress.runtime.prediction import NetworkInput
from medfm_compress.runtime.preprocess import preprocess
from medfm_compress.runtime.progress import Progress, counted, no_progress
from medfm_compress.runtime.segmentation.segment import of_logits
from medfm_compress.runtime.sessions.protocol import Session
from medfm_compress.runtime.sessions.table import open_variant
from medfm_compress.runtime.task import Task
from medfm_compress.runtime.typicality import TypicalityJudge
from medfm_compress.runtime.variant_selection import Machine, incompatibility

MAX_CASES = 2000


def add_reference(
    bundle: Bundle, study: Study, out: Path, split: str = "val", progress: Progress = no_progress
) -> Reference:
    """Write a copy of ``bundle`` to ``out`` with a reference of the cases of ``split``; its verdicts hold.

    Of a patient only the first image is taken, since several of one say what one says. Of more than 2,000 cases every
    second, third … is taken, so that at most so many are.

    Raises:
        InputError: other labels than the study's, too few cases, or nothing can be written.
        StudyError: an image cannot be used.
        BundleRefused: no variant runs here.
    """
    task = bundle.manifest.task
    if (study.kind, study.labels) != (task.kind, task.labels):
        raise InputError(f"the bundle is for {task.kind} {task.labels}, the study for {study.kind} {study.labels}")
    if split == "train":
        raise InputError(
            "the split is train, on which a network is surer than on what it has not seen; give val, or another split "
            "that it was not trained on"
        )
    variants = _open(bundle)
    spec = bundle.manifest.image_spec
    source = with_rules(study.source, spec.dicom)
    cases = _one_a_patient(study.split(split))
    cases = cases[:: max(1, -(-len(cases) // MAX_CASES))]
    if spec.tiles:
        raise InputError(
            "the bundle takes images tile by tile, of which no reference is made; monitor bundles whose input is the "
            "whole image"
        )
    inputs: list[dict[str, float]] = []
    scores: dict[str, dict[str, list[float]]] = {
        opened.variant.name: {name: [] for name in opened.task.findings} for opened in variants
    }
    usual: dict[str, list[float]] = {opened.variant.name: [] for opened in variants if opened.judge}
    beside = case_columns(study, cases, bundle.manifest.told)
    for row, case in counted(list(enumerate(cases)), "look at cases", len(cases), progress):
        try:
            pixels = source.read(case.image)
            columns = {name: rows[row : row + 1] for name, rows in beside.items()}
            seen = NetworkInput(preprocess(pixels, spec), pixels.spacing_mm, columns=columns)
            size = pixels.shape[:2]
        except ImageRefused as exc:
            raise StudyError(
                f"image {case.image!r}: {exc}; 'medfm-compress study check' lists every such image"
            ) from None
        inputs.append(input_features(seen, spec))
        for opened in variants:
            probability, typicality = opened.answer(seen, size, bundle)
            for name, value in probability.items():
                scores[opened.variant.name][name].append(value)
            if typicality is not None:
                usual[opened.variant.name].append(typicality)
    reference = make_reference(bundle, split, inputs, scores, usual)
    rewrite_bundle(bundle, out, files=reference_member(reference))
    return reference


def _one_a_patient(cases: Sequence[Case]) -> list[Case]:
    """The first case of every patient; all of those without one."""
    seen: set[str] = set()
    kept = []
    for case in cases:
        if case.patient_key and case.patient_key in seen:
            continue
        seen.add(case.patient_key)
        kept.append(case)
    return kept


class _Opened(NamedTuple):
    """A variant that runs here."""

    variant: Variant
    task: Task
    session: Session
    judge: TypicalityJudge | None

    def answer(
        self, seen: NetworkInput, size: tuple[int, ...], bundle: Bundle
    ) -> tuple[dict[str, float], float | None]:
        """Probability of every finding in an image of ``size`` px, and typicality where the bundle tells it."""
        names = [tensor.name for tensor in bundle.manifest.outputs]
        outputs = self.session.run(feed(self.session.input_names, seen.inputs))
        logits = np.asarray(outputs[names[0]])
        if self.task.is_dense:
            height, width = size
            row = of_logits(logits, self.task, bundle.manifest.image_spec, height, width).peaks.tolist()
        else:
            row = probabilities(logits, self.task)[0].tolist()
        judged = self.judge.judge(np.asarray(outputs[names[1]]), seen.tensor).typicality if self.judge else None
        return dict(zip(self.task.findings, row, strict=True)), judged


def _open(bundle: Bundle) -> list[_Opened]:
    """Every variant that runs here; raises BundleRefused where none does."""
    machine, told = Machine(cpu=read_cpu()), bundle.manifest.typicality is not msgspec.UNSET
    opened = [
        _Opened(
            variant,
            bundle.manifest.task_of(variant),
            open_variant(bundle, variant, usable_cores()),
            TypicalityJudge(bundle, variant) if told else None,
        )
        for variant in bundle.manifest.variants
        if not incompatibility(variant, machine)
    ]
    if not opened:
        raise BundleRefused(f"no variant of {bundle.path.name} runs on this machine")
    return opened
