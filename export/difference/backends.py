"""The engines that can be looked into: one opener a backend. Another engine is one more class and one more line."""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType

from medfm_compress.export.difference.graph import Network
from medfm_compress.runtime.bundle.bundle import Bundle
from medfm_compress.runtime.bundle.manifest import Variant
from medfm_compress.runtime.errors import BundleRefused, InputError, refusing
from medfm_compress.runtime.sessions.table import open_variant


def _onnxruntime(files: list[bytes], variant: Variant, threads: int) -> Network:
    from medfm_compress.export.difference.onnx_network import OnnxNetwork

    return OnnxNetwork(files[0], threads)


def _openvino(files: list[bytes], variant: Variant, threads: int) -> Network:
    from medfm_compress.export.difference.openvino_network import OpenVinoNetwork

    return OpenVinoNetwork(files, threads, variant.precision)


NETWORKS: MappingProxyType[str, Callable[[list[bytes], Variant, int], Network]] = MappingProxyType(
    {"onnxruntime": _onnxruntime, "openvino": _openvino}
)


def open_network(bundle: Bundle, variant: Variant, threads: int) -> Network:
    """Open a variant to look into it, after it has been opened as the device does, with all of that one's checks.

    Raises:
        InputError: its engine cannot be looked into.
        BundleRefused: it does not open here, or is empty.
        MissingDependency: its engine is not installed.
    """
    if variant.backend not in NETWORKS:
        raise InputError(f"variant {variant.name} runs on {variant.backend}; allowed are {', '.join(NETWORKS)}")
    open_variant(bundle, variant, threads)
    with refusing(BundleRefused, f"variant {variant.name} cannot be looked into"):
        network = NETWORKS[variant.backend]([bundle.read(name) for name in variant.files], variant, threads)
    if not network.topology.inputs or not network.topology.outputs:
        raise BundleRefused(f"variant {variant.name} has no input, or no output; export it again")
    return network
