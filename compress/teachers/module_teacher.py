"""A teacher that is a PyTorch module, from wherever it was loaded."""

from __future__ import annotations

import msgspec
import torch
from torch import Tensor, nn

from medfm_compress.compress.networks.features import family_of, offered, tapped
from medfm_compress.compress.networks.inputs import Inputs, chosen, map_images
from medfm_compress.compress.networks.model import Model
from medfm_compress.compress.teachers.outputs import TeacherOutputs
from medfm_compress.compress.teachers.teacher import TeacherCard
from medfm_compress.compress.training.device import autocast
from medfm_compress.runtime.errors import ModelError


class ModuleTeacher:
    """Answers with a `Model`, in eval mode, on one device and in one precision."""

    def __init__(self, model: Model, device: str = "cpu", precision: str = "fp32") -> None:
        self.card = card_of(model)
        self.engine = f"pytorch {precision}"
        self.model, self.device, self.precision = model, device, precision
        self._network = nn.Module.eval(model.module.to(device, memory_format=torch.channels_last))  # type: ignore[call-overload]
        self._mean = torch.tensor(model.spec.mean).reshape(1, -1, 1, 1)
        self._std = torch.tensor(model.spec.std).reshape(1, -1, 1, 1)

    def answer(self, inputs: Inputs, features: tuple[str, ...] = ()) -> TeacherOutputs:
        """See `Teacher`."""
        normalised = map_images(self._normalised, chosen(inputs, [column.name for column in self.card.told]))
        with torch.inference_mode(), autocast(self.device, self.precision):
            outputs = tapped(self._network, features)(normalised.to(self.device))
        values = {name: value.float().cpu() for name, value in outputs.features.items()}
        return TeacherOutputs(finite(outputs.logits.float().cpu(), self.card.name), values)

    def _normalised(self, images: Tensor) -> Tensor:
        return ((images - self._mean) / self._std).to(self.device).contiguous(memory_format=torch.channels_last)


def card_of(model: Model) -> TeacherCard:
    """What is known of a model, as a teacher."""
    shapes = offered(model.module, model.spec.shape)
    return TeacherCard(
        name=model.name,
        identity=f"{model.name}@{model.weights_sha256()}",
        spec=model.spec,
        task=model.task,
        licence=model.licence,
        intended_use=model.intended_use,
        steps=model.provenance.steps,
        family=family_of(model.module),
        features=tuple(name for name in shapes if name != "token"),
        columns=model.columns or msgspec.UNSET,
    )


def finite(logits: Tensor, name: str) -> Tensor:
    """``logits`` as they are; raises ModelError where one is not finite."""
    if not torch.isfinite(logits).all():
        raise ModelError(
            f"the teacher {name} gives logits that are not finite; check its weights, and try --teacher-precision fp32"
        )
    return logits
