"""Anybody's ONNX file as a bundle, for `export` and `quantize`: with a labelled study or with bare images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from medfm_compress.data.image_folder import open_images
from medfm_compress.data.open import open_study, open_study_of
from medfm_compress.data.study import HOW_TO_LABEL, Study
from medfm_compress.device_spec import device_spec
from medfm_compress.runtime.atomic_write import replacing
from medfm_compress.runtime.bundle.manifest import NOT_FOR_CLINICAL_USE, Manifest, Provenance
from medfm_compress.runtime.errors import InputError, StudyError, in_one_line
from medfm_compress.runtime.image_spec import ImageSpec
from medfm_compress.runtime.progress import Progress
from medfm_compress.runtime.task import Task
from medfm_compress.step_settings import ExportStep

if TYPE_CHECKING:
    from medfm_compress.compress.teachers.source import TeacherSource


class CaseSource(NamedTuple):
    """Where cases come from: a study, or a folder of images without labels.

    Attributes:
        study: of `open_study`.
        images: a folder.
        least: images without labels that must calibrate.
        most: that are read at most.
        seed: of their order.
    """

    study: Path | None
    images: Path | None = None
    least: int = 8
    most: int = 64
    seed: int = 0

    def check(self) -> None:
        """Raises InputError unless one of the two is given."""
        if (self.study is None) == (self.images is None):
            raise InputError(
                "give one of --study (labelled: thresholds are chosen, accuracy judged) and --images (a folder without "
                "labels: relative logit error and agreement alone are judged)"
            )

    def open(self, task: Task, spec: ImageSpec, progress: Progress) -> Study:
        """The cases for a network with this task and preprocessing."""
        if self.images is not None:
            study = open_images(self.images, task, spec, self.least, self.most, self.seed)
        else:
            study = open_study_of(task, self.study or Path(), spec.dicom)
            _refuse_bare(study)
        for sentence in study.remarks:
            progress(f"note: {sentence}")
        return study


def _refuse_bare(study: Study) -> None:
    """Raises StudyError where nobody says what the images show."""
    if not study.labels:
        raise StudyError(
            f"--study {in_one_line(study.root)} has no labels; give --images FOLDER for a folder of images without "
            f"labels; or {HOW_TO_LABEL}"
        )


def export_onnx_model(
    source: TeacherSource, cases: CaseSource, step: ExportStep, progress: Progress, out: Path
) -> Manifest:
    """Write the FP32 bundle of an ONNX file, its parity with the file checked.

    Raises:
        UndescribedModel: the file and ``source`` do not say all that is needed; all of it is asked for at once.
        InputError: a file that cannot be taken over, or cases that cannot be used.
    """
    cases.check()
    from medfm_compress.compress.teachers.onnx_network import network_of_onnx
    from medfm_compress.export.build import BundleDraft, bundle_of_network, wants_features

    labels = open_study(cases.study) if cases.study is not None else None
    if labels is not None:
        _refuse_bare(labels)
    progress(f"reading {source.source}")
    task = labels.task if labels is not None else None
    adopted = network_of_onnx(source, task, features=wants_features(labels, step.false_refusal_rate))
    card = adopted.card
    study = cases.open(card.task, card.spec, progress)
    use = card.intended_use if step.intended_use == NOT_FOR_CLINICAL_USE else step.intended_use
    unlabelled = () if labels is not None else ("export: images without labels; no operating points were chosen",)
    draft = BundleDraft(
        name=card.name,
        spec=device_spec(card.spec, step, study, progress),
        task=card.task,
        provenance=Provenance(
            teacher=card.identity,
            teacher_licence=card.licence,
            student=card.identity,
            steps=(*card.steps, *unlabelled),
        ),
        intended_use=use or step.intended_use,
        false_refusal_rate=step.false_refusal_rate,
        heat_map=step.heat_map,
    )
    with replacing(out) as temporary:
        return bundle_of_network(
            adopted.network,
            draft,
            temporary,
            study=study if labels is not None else None,
            rule=step.rule,
            progress=progress,
        )
