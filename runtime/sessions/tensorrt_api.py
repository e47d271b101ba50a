"""TensorRT's Python API as its versions have it: one table, and the import.

Checked against the bindings of 8.6.0, 10.16.1 and 11.4.0 themselves (`tests/runtime/test_tensorrt_api.py`).

- 8.6 (JetPack 6) is weakly typed: the network's types bind only under ``OBEY_PRECISION_CONSTRAINTS``, and a kind of
  arithmetic must be allowed by a builder flag before any layer may use it.
- 10 has ``STRONGLY_TYPED`` as a creation flag: the types in the ONNX file are what runs.
- 11 knows nothing else: precision flags, INT8 calibrators, ``ILayer.precision`` and ``EXPLICIT_BATCH`` are gone.
- TensorRT-RTX 1.x has the API of 11 under a module name of its own.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import msgspec

from medfm_compress.runtime.errors import MissingDependency
from medfm_compress.runtime.sessions.first_use import importing

MODULES = ("tensorrt", "tensorrt_rtx")
NEEDS = "pip install tensorrt (from NVIDIA; on a Jetson it comes with JetPack)"
_OBEY = "OBEY_PRECISION_CONSTRAINTS"


class Api(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one version has.

    Attributes:
        creation_flags: members of ``NetworkDefinitionCreationFlag`` that a network is created with.
        builder_flags: precision → members of ``BuilderFlag`` that it needs; its keys are the precisions that run.
        typed_layers: whether types bind only where each layer is told (``ILayer.precision``, ``set_output_type``).
        named_errors: whether ``ParserError`` names node and operator.
    """

    creation_flags: tuple[str, ...]
    builder_flags: Mapping[str, tuple[str, ...]]
    typed_layers: bool = False
    named_errors: bool = True


_STRONG: Mapping[str, tuple[str, ...]] = MappingProxyType(
    dict.fromkeys(("fp32", "fp16", "bf16", "int8", "int8-fp16", "fp8", "fp8-fp16"), ())
)
APIS: Mapping[str, Api] = MappingProxyType(
    {
        "8.6": Api(
            creation_flags=("EXPLICIT_BATCH",),
            builder_flags=MappingProxyType(
                {
                    "fp32": (),
                    "fp16": ("FP16", _OBEY),
                    "int8": ("INT8", _OBEY),
                    "int8-fp16": ("INT8", "FP16", _OBEY),
                }
            ),
            typed_layers=True,
            named_errors=False,
        ),
        "10": Api(creation_flags=("STRONGLY_TYPED",), builder_flags=_STRONG),
        "11": Api(creation_flags=(), builder_flags=_STRONG),
        "rtx 1": Api(creation_flags=(), builder_flags=_STRONG),
    }
)
"""Version → what it has; a version is found by its first one or two numbers."""


class Bindings(msgspec.Struct, frozen=True, kw_only=True):
    """TensorRT's imported bindings.

    Attributes:
        module: the module itself.
        version: e.g. ``10.16.1.11``, with ``rtx`` before it for TensorRT-RTX.
        api: what this version has.
    """

    module: Any
    version: str
    api: Api


def import_tensorrt() -> Bindings:
    """The first of `MODULES` that can be imported.

    Raises:
        MissingDependency: none can, or it is a version that `APIS` does not know.
    """
    reasons = []
    for name in MODULES:
        try:
            with importing():
                module = importlib.import_module(name)
            return bindings_of(module, name)
        except ImportError as exc:
            reasons.append(f"{name} cannot be imported ({exc})")
    raise MissingDependency(f"{'; '.join(reasons)}: {NEEDS}")


def bindings_of(module: Any, name: str = "tensorrt") -> Bindings:
    """``module``, imported as ``name``, with what its version has.

    Raises:
        MissingDependency: a version that `APIS` does not know.
    """
    version = str(getattr(module, "__version__", ""))
    spelt = f"rtx {version}" if name.endswith("_rtx") else version
    numbers = version.split(".")
    for length in (2, 1):
        key = ("rtx " if name.endswith("_rtx") else "") + ".".join(numbers[:length])
        if key in APIS:
            return Bindings(module=module, version=spelt, api=APIS[key])
    raise MissingDependency(f"TensorRT {spelt or 'of no version'} is not known here; install {', '.join(APIS)}")
