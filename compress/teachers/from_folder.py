"""A teacher that is a model folder: it says everything of itself."""

from __future__ import annotations

from dataclasses import replace

from medfm_compress.compress.networks.first_output import logits_alone
from medfm_compress.compress.networks.heads import check_answers
from medfm_compress.compress.networks.model import Model, Origin, load_model
from medfm_compress.compress.teachers.label_mapping import Labelled, mapped, settle
from medfm_compress.compress.teachers.pretrained import count_outputs
from medfm_compress.compress.teachers.source import TeacherSource
from medfm_compress.runtime.errors import ModelError
from medfm_compress.runtime.task import Task


def open_folder(source: TeacherSource, study: Task) -> Model:
    """The model, with the study's labels.

    Raises:
        ModelError: a damaged folder, another spec than its own, or labels that cannot be the study's.
    """
    source.refuse("weights")
    model = load_model(source.source)
    check_answers(model.module, source.source)
    if source.given_spec() not in (None, model.spec):
        raise ModelError(f"{source.source} has a spec of its own; leave --teacher-spec out")
    if frozenset(model.task.normal_labels) != frozenset(study.normal_labels):
        raise ModelError(
            f"{source.source} takes {_words(model.task.normal_labels)} for normal and the study "
            f"{_words(study.normal_labels)}; give a teacher that was fitted on the same normal labels"
        )
    known = Labelled(model.task.labels, model.task.kind, model.task.temperature)
    module = logits_alone(model.module)
    settled = settle(model.name, count_outputs(module, model.spec, model.name, study), known, source, study)
    origin = Origin(
        teacher=model.provenance.teacher,
        study_fingerprint=model.provenance.study_fingerprint,
        steps=(*model.provenance.steps, *settled.steps),
    )
    same = settled.label_map is None and (model.task.kind, model.task.labels) == (study.kind, study.labels)
    return replace(
        model,
        module=mapped(module, settled.label_map),
        task=model.task if same else settled.task,
        licence=source.licence or model.licence,
        intended_use=source.intended_use or model.intended_use,
        provenance=origin,
    )


def _words(normal: tuple[str, ...]) -> str:
    return " or ".join(map(repr, normal)) or "nothing"
