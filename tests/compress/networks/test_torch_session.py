"""The teacher in PyTorch: cast, compiled, on a device that may not be there; the model given stays as it is."""

from __future__ import annotations

import dataclasses
import shutil

import numpy as np
import pytest
import torch

from medfm_compress.compress.networks.build import build_model
from medfm_compress.compress.networks.model import Model, save_model
from medfm_compress.compress.networks.torch_session import TorchSession, open_session, unavailable
from medfm_compress.export.parity import TOLERANCES, check_parity, module_logits
from medfm_compress.runtime.errors import InputError, MissingDependency
from medfm_compress.runtime.task import Task

TASK = Task(kind="binary", labels=("a", "b"))


@pytest.fixture
def model() -> Model:
    torch.manual_seed(0)
    return build_model("test_resnet", TASK, size_px=32, colour="grey")


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_every_precision_computes_the_network_and_leaves_the_model_as_it_is(model: Model, precision: str) -> None:
    session = TorchSession(model, "cpu", 1, precision)
    parity = check_parity(module_logits(model.module), session, model.spec, model.task)
    assert parity.relative_logit_error <= TOLERANCES[precision]
    assert (parity.relative_logit_error > 1e-5) == (precision != "fp32")  # it really is cast
    assert {tensor.dtype for tensor in model.module.parameters()} == {torch.float32}
    assert (session.info.backend, session.info.precision, session.info.provider) == ("torch", precision, "cpu")
    image = {"image": np.zeros((3, 1, 32, 32), np.float32)}
    assert session.run(image)["logits"].dtype == np.float32 and session.run(image)["logits"].shape == (3, 2)
    assert session.device_ms(image) is None


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_compiled_it_computes_the_same(model: Model) -> None:
    """Of few operators: each is a file of C++ to compile."""
    layers = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(1024, 8), torch.nn.GELU(), torch.nn.Linear(8, 2))
    model = dataclasses.replace(model, module=layers.eval())
    session = TorchSession(model, "cpu", 1, compiled=True)
    check_parity(module_logits(model.module), session, model.spec, model.task)
    assert session.info.backend == "torch-compile"


def test_what_cannot_be_compiled_says_why(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(module: object) -> object:
        def call(images: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("no C++ compiler")

        return call

    monkeypatch.setattr(torch, "compile", broken)
    with pytest.raises(MissingDependency, match=r"torch\.compile cannot compile the network here: no C\+\+ compiler"):
        TorchSession(model, "cpu", 1, compiled=True)


def test_what_pytorch_does_not_run_is_refused(model: Model, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = str(save_model(model, tmp_path / "model"))
    with pytest.raises(InputError, match="in fp32, bf16, fp16, not as 'cpu:int8'"):
        open_session(folder, precision="int8")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match=r"CUDA.*; use torch:cpu"):
        open_session(folder, device="cuda")
    assert not unavailable("cpu") and unavailable("cuda")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_on_a_gpu_it_computes_the_network_and_its_events_tell_the_time(
    model: Model, precision: str, compiled: bool
) -> None:
    session = TorchSession(model, "cuda", 1, precision, compiled=compiled)
    check_parity(module_logits(model.module), session, model.spec, model.task)
    assert 0 < session.device_ms({"image": np.zeros((1, 1, 32, 32), np.float32)}) < 1000
    assert next(model.module.parameters()).device.type == "cpu"
