"""Targets: what may stand together, and what is said where it may not."""

from __future__ import annotations

import pytest

from medfm_compress.bench.types.target import DEVICES, Target, is_torch, names_device, on_one_chip, split_targets
from medfm_compress.runtime.errors import InputError


def test_every_combination_of_the_table_is_read_and_written() -> None:
    for backend, devices in DEVICES.items():
        for device, precisions in devices.items():
            for precision in precisions:
                text = f"{backend}:{device}:{precision}:2"
                assert str(Target.parse(text)) == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("openvino:cuda", "openvino does not run on 'cuda'; it runs on cpu"),
        ("tensorrt:cpu:fp16", "tensorrt does not run on 'cpu'; it runs on cuda"),
        ("onnxruntime:cuda:bf16", "onnxruntime on cuda does not run in 'bf16'; it runs there in fp32, fp16"),
        ("torch:cuda:int8", "torch on cuda does not run in 'int8'; it runs there in fp32, bf16, fp16"),
        ("tflite:cpu", "no backend 'tflite'; choose one of onnxruntime, openvino, tensorrt, torch, torch-compile"),
        ("torch:", "torch does not run on ''"),
        ("torch:cpu:fp32:0", "threads is 0"),
        ("torch:cpu:fp32:many", "threads is 'many'"),
        ("torch:cpu:fp32:1:1", "too many parts"),
        ("", "no backend ''"),
    ],
)
def test_impossible_ones_say_what_is_allowed(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Target.parse(text)


def test_a_target_that_is_made_and_not_read_is_checked_as_well() -> None:
    with pytest.raises(InputError, match="runs on cpu"):
        Target(backend="openvino", device="cuda")


def test_without_a_device_the_first_that_the_backend_drives() -> None:
    assert Target.parse("tensorrt").device == "cuda"
    assert Target.parse("torch-compile").device == "cpu"
    assert not names_device("tensorrt") and names_device("tensorrt:cuda")


def test_whose_and_where() -> None:
    assert is_torch("torch-compile:cuda:fp16") and not is_torch("tensorrt:cuda")
    assert on_one_chip("onnxruntime:tensorrt:fp16:1", "torch:cuda:fp32:1")
    assert not on_one_chip("onnxruntime:cuda:fp16:1", "torch:cpu:fp32:1")


def test_threads_are_split_off() -> None:
    assert split_targets(("openvino:cpu", "torch:cpu")) == (("openvino:cpu", "torch:cpu"), None)
    assert split_targets(("openvino:cpu:int8:2", "torch:cuda")) == (("openvino:cpu:int8", "torch:cuda"), 2)
    with pytest.raises(InputError, match="name 1 and 2 threads"):
        split_targets(("openvino:cpu:int8:2", "torch:cpu:fp32:1"))
