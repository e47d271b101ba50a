"""What tests of a device folder have in common: its options, an update as a user makes it, what stands there then."""

from __future__ import annotations

from medfm_compress.runtime.device.options import DeviceOptions

OPTIONS = DeviceOptions(backend="onnxruntime", threads=1, trial=2)


def update(device, path, outcomes=(False, False)):
    """Install and activate a bundle, and report ``refused`` of its first images."""
    device.install(path)
    result = device.activate()
    for refused in outcomes:
        device.report(refused=refused)
    return result


def releases_of(state):
    bundles = (state.active, state.previous, state.candidate)
    return tuple(bundle.release if bundle else None for bundle in bundles)


def damage(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 1
    path.write_bytes(content)
