"""The doctor names what is there, and a remedy for what is not."""

from __future__ import annotations

import subprocess
import sys

import pytest

from medfm_compress.runtime.doctor import examine


@pytest.fixture(scope="module")
def diagnosis():
    return examine()


def test_it_sees_the_engines_and_the_decoders(diagnosis):
    assert {finding.name: finding.ok for finding in diagnosis.backends}["onnxruntime"]
    assert any(finding.ok for finding in diagnosis.decoders)
    assert "RLE Lossless" in [finding.name for finding in diagnosis.decoders]


def test_whatever_is_missing_has_a_reason(diagnosis):
    for section in diagnosis.__struct_fields__:
        for finding in getattr(diagnosis, section):
            assert finding.ok or finding.detail, finding.name


def test_a_missing_engine_names_the_pip_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    actual = {finding.name: finding for finding in examine().backends}["openvino"]
    assert not actual.ok and "pip install 'medfm-compress[openvino]'" in actual.detail


def test_a_broken_gpu_tool_is_a_finding_not_a_crash(monkeypatch):
    def fail(*_args, **_options):
        raise subprocess.CalledProcessError(9, "nvidia-smi")

    monkeypatch.setattr("shutil.which", lambda _: "/usr/bin/nvidia-smi")
    monkeypatch.setattr(subprocess, "run", fail)
    (gpu,) = examine().accelerators
    assert not gpu.ok and "nvidia-smi fails" in gpu.detail


def test_it_does_not_import_the_toolchain():
    code = (
        "import sys; from medfm_compress.runtime.doctor import examine; examine(); "
        "assert not {'torch', 'timm', 'nncf', 'torchvision'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
