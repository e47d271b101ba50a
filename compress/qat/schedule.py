"""How a student gets through quantization-aware distillation: in float first, unless it was trained already."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import numpy as np
import torch
from torch import Tensor, nn

from medfm_compress.compress.networks.model import Model
from medfm_compress.compress.qat.prepare import fake_quantized, plain_state
from medfm_compress.compress.training.config import TrainingConfig
from medfm_compress.compress.training.job import Images, gather
from medfm_compress.runtime.image_spec import ImageSpec

CASES = 128  # that the ranges of activations are estimated on

# After a float stage of n epochs: what rounding moved is small, and so is what repairs it.
_SHARE_OF_EPOCHS = 0.2
_SHARE_OF_RATE = 0.05
_LEARNED = ("distilled", "fine-tuned", "packaged")


def needs_float_stage(student: Model) -> bool:
    """Whether nothing trained the student yet, or something was cut from it since."""
    steps = student.provenance.steps
    return not steps or not steps[-1].startswith(_LEARNED)


def after_float(config: TrainingConfig) -> TrainingConfig:
    """The config of a quantized stage that follows a float one."""
    epochs = round(config.epochs * _SHARE_OF_EPOCHS)
    return msgspec.structs.replace(
        config, epochs=max(1, epochs) if config.epochs else 0, learning_rate=config.learning_rate * _SHARE_OF_RATE
    )


def in_full_precision(config: TrainingConfig) -> TrainingConfig:
    """The config in fp32 where it leaves the precision open: bf16 would round the 256 levels once more."""
    return msgspec.structs.replace(config, precision="fp32") if config.precision == "auto" else config


def quantizing(student: Model, images: Images) -> Model:
    """The student with a module that computes with INT8 values; ``images`` are training images in [0, 1]."""
    return replace(student, module=fake_quantized(student.module, sample(images, student.spec)))


def plain(student: Model, network: nn.Module) -> nn.Module:
    """The student's own module with the weights of the fake-quantized ``network`` that was made from it."""
    student.module.load_state_dict(plain_state(network))
    return nn.Module.eval(student.module)


def sample(images: Images, spec: ImageSpec, cases: int = CASES) -> Tensor:
    """A fixed draw of images, normalised, ``[n, channels, height, width]``."""
    index = np.sort(np.random.default_rng(0).permutation(len(images))[:cases])
    shape = (1, -1, 1, 1)
    mean, std = torch.tensor(spec.mean).reshape(shape), torch.tensor(spec.std).reshape(shape)
    normalised: Tensor = (torch.from_numpy(gather(images, index)) - mean) / std
    return normalised
