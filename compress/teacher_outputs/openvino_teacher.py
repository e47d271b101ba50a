"""A teacher that is a PyTorch module, run by OpenVINO on the CPU."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from medfm_compress.compress.networks.inputs import Inputs, images_in
from medfm_compress.compress.teacher_outputs.onnx_graph import IMAGE, LOGITS
from medfm_compress.compress.teachers.module_teacher import ModuleTeacher, finite
from medfm_compress.compress.teachers.outputs import TeacherOutputs
from medfm_compress.compress.teachers.teacher import batch_of
from medfm_compress.runtime.cpu import usable_cores
from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.sessions import openvino


class OpenVinoTeacher:
    """Answers as the module does, but for rounding, as many images at a time as its graph takes."""

    def __init__(
        self, origin: ModuleTeacher, files: Sequence[bytes], features: tuple[str, ...], precision: str
    ) -> None:
        """Open the graph of ``origin`` that was exported with these ``features``.

        Raises:
            MissingDependency: OpenVINO is not installed.
            BundleRefused: it cannot run the graph in this precision here.
        """
        self.card = origin.card
        self._batch = batch_of(origin.card.task)
        self.engine = f"openvino {precision}"
        self.features = features
        threads = max(1, min(torch.get_num_threads(), usable_cores()))
        self._session = openvino.from_bytes(files, threads, precision)
        self._mean = torch.tensor(origin.model.spec.mean).reshape(1, -1, 1, 1)
        self._std = torch.tensor(origin.model.spec.std).reshape(1, -1, 1, 1)

    def answer(self, inputs: Inputs, features: tuple[str, ...] = ()) -> TeacherOutputs:
        """See `Teacher`; of a network without columns."""
        unknown = sorted(set(features) - set(self.features))
        if unknown:
            available = ", ".join(self.features) or "no features"
            raise InputError(
                f"feature {unknown[0]!r} was not asked for when {self.card.name} was opened, only {available}"
            )
        parts = [self._run(part) for part in torch.split(images_in(inputs), self._batch)]
        outputs = {name: torch.cat([part[name] for part in parts]) for name in (LOGITS, *features)}
        logits = finite(outputs.pop(LOGITS), self.card.name)
        return TeacherOutputs(logits, outputs)

    def _run(self, images: Tensor) -> dict[str, Tensor]:
        """All outputs on up to a batch of images; the graph's batch is fixed, so that a shorter one is filled up."""
        batch = torch.zeros(self._batch, *images.shape[1:])
        batch[: len(images)] = (images - self._mean) / self._std
        outputs = self._session.run({IMAGE: batch.numpy()})
        return {name: torch.from_numpy(values)[: len(images)] for name, values in outputs.items()}
