"""Fixtures that every room uses."""

from __future__ import annotations

import functools
import gc
import importlib
import os
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

_EXPORTER = "torch.onnx._internal.exporter._registration"  # loaded by the first export


@pytest.fixture(autouse=True)
def _exports_cost_less() -> None:
    """What torch does anew at every export, and need not: a third of its time, for the same bytes.

    It parses the source of its operators, and the garbage collector walks through all that is loaded again and again.
    """
    apis = getattr(sys.modules.get(_EXPORTER), "onnxscript_apis", None)
    read = getattr(apis, "get_torchlib_ops", None)
    if read is None or hasattr(read, "cache_info"):
        return
    apis.get_torchlib_ops = functools.cache(read)
    gc.collect()
    gc.freeze()


def pytest_sessionfinish() -> None:
    """Let what was frozen be freed in the usual order."""
    gc.unfreeze()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of the real data sets; the test is skipped where MEDFM_SHARED is not set."""
    root = os.environ.get("MEDFM_SHARED")
    if not root:
        pytest.skip("MEDFM_SHARED is not set: the real data sets are not at hand")
    return Path(root) / "data"


@pytest.fixture(scope="session")
def tiny() -> ModuleType:
    """The module ``tests/helpers/tiny_bundle.py``: small networks, and bundles around them."""
    return importlib.import_module("tiny_bundle")


@pytest.fixture(scope="session")
def reports() -> ModuleType:
    """The module ``tests/helpers/tiny_report.py``: small reports of simulated models."""
    return importlib.import_module("tiny_report")


@pytest.fixture(scope="session")
def discs_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study to train on: bright discs on noise, or noise alone."""
    return _write_discs(tmp_path_factory.mktemp("discs") / "discs.npz")


def _write_discs(path: Path, seed: int = 0) -> Path:
    """A MedMNIST-like archive: label 1 has a disc that is a little brighter than the noise."""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[:48, :48]
    arrays = {}
    for split, count in {"train": 48, "val": 24, "test": 24}.items():
        images = generator.normal(100, 25, (count, 48, 48))
        labels = np.arange(count) % 2
        for image, label in zip(images, labels, strict=True):
            cx, cy = generator.integers(14, 48 - 14, 2)
            image[(x - cx) ** 2 + (y - cy) ** 2 < 80] += 60 * label
        arrays[f"{split}_images"] = images.clip(0, 255).astype(np.uint8)
        arrays[f"{split}_labels"] = labels[:, None].astype(np.uint8)
    np.savez(path, **arrays)
    return path
