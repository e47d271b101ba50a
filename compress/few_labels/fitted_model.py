"""A classifier from few labels as a model: the encoder as it is, with the fitted layer as its own classifier."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from medfm_compress.compress.few_labels.encoder import FrozenEncoder, embed
from medfm_compress.compress.few_labels.few_labels import CLASSIFIERS, labelled_cases
from medfm_compress.compress.few_labels.linear_classifier import Floats, LinearClassifier
from medfm_compress.compress.few_labels.options import ClassifierName
from medfm_compress.compress.networks.heads import classifier_names
from medfm_compress.compress.networks.model import Model, Origin, create_module
from medfm_compress.compress.training.dataset import task_of
from medfm_compress.data.fingerprint import study_fingerprint
from medfm_compress.data.study import Study
from medfm_compress.export.cases import network_inputs
from medfm_compress.runtime.errors import ModelError
from medfm_compress.runtime.progress import Progress

_COMPARED = 8
_TOLERANCE = 1e-3
"""Of the largest logit: the network computes in float32, the classifier in float64."""


def fitted_model(encoder: FrozenEncoder, study: Study, classifier: ClassifierName, progress: Progress) -> Model:
    """``encoder`` with ``classifier``, fitted to every labelled training case, in place of its own.

    Raises:
        StudyError: as `labelled_cases`.
        ModelError: a network whose classifier is not one linear layer on its embedding.
    """
    model = encoder.model
    if model is None or model.architecture.library != "timm":
        raise ModelError(
            f"{encoder.name} has no classifier of its own that is one linear layer on its embedding, as networks of "
            "timm have; the curves need none, a model folder does: leave --out away, or take another encoder"
        )
    train = labelled_cases(study, "train")
    embeddings = embed(encoder, study, train.cases, progress)
    fitted = CLASSIFIERS[classifier](embeddings, train.classes, len(study.labels))
    arguments = {**model.architecture.arguments, "num_classes": len(study.labels)}
    architecture = msgspec.structs.replace(model.architecture, arguments=arguments)
    module = create_module(architecture)
    _put(module, model, fitted)
    few = train.cases[:_COMPARED]
    _check(module, network_inputs(study, few, model.spec), fitted.logits(embeddings[: len(few)]), model.name)
    counts = zip(np.bincount(train.classes), study.labels, strict=True)
    learned = ", ".join(f"{count} {label}" for count, label in counts)
    step = f"{classifier} on the embeddings of {model.name}, whose weights it leaves as they are: {learned}"
    origin = Origin(
        teacher=model.provenance.teacher,
        study_fingerprint=study_fingerprint(study),
        steps=(*model.provenance.steps, step),
    )
    return replace(model, module=module, task=task_of(study), architecture=architecture, provenance=origin)


def _put(module: nn.Module, encoder: Model, fitted: LinearClassifier) -> None:
    """The encoder's weights and the fitted layer into ``module``, in place."""
    heads = classifier_names(module)
    state = {name: value for name, value in encoder.module.state_dict().items() if not name.startswith(heads)}
    own = module.state_dict()
    layer = module.get_classifier()  # type: ignore[operator]
    linear = isinstance(layer, nn.Linear) and layer.bias is not None
    fits = linear and tuple(layer.weight.shape) == fitted.weight.shape
    if not fits or any(own[name].shape != value.shape for name, value in state.items()):
        raise ModelError(
            f"the classifier of {encoder.name} is not one linear layer on its embedding of {fitted.weight.shape[1]}; "
            "leave --out away, or take another encoder"
        )
    module.load_state_dict(state, strict=False)
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(fitted.weight))
        layer.bias.copy_(torch.from_numpy(fitted.bias))


def _check(module: nn.Module, inputs: NDArray[np.float32], expected: Floats, name: str) -> None:
    """Whether the network answers what the classifier does.

    Raises:
        ModelError: it does not: something stands between its embedding and its classifier.
    """
    with torch.inference_mode():
        logits = module(torch.from_numpy(inputs)).double().numpy()
    farthest, largest = float(np.abs(logits - expected).max()), float(np.abs(expected).max())
    if not farthest <= _TOLERANCE * max(largest, 1.0):
        raise ModelError(
            f"with the fitted classifier {name} answers {farthest:.2g} from what was fitted: its classifier is not one "
            "linear layer on its embedding; leave --out away, or take another encoder"
        )
