"""Writing what signatures need into a bundle: its release before it is signed, and signatures beside the members."""

from __future__ import annotations

from pathlib import Path

import msgspec

from medfm_compress.runtime.bundle import archive
from medfm_compress.runtime.bundle.bundle import MANIFEST, Bundle, write_bundle
from medfm_compress.runtime.bundle.manifest import Manifest
from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.trust.signature import MAX_SIGNATURES


def add_signature(bundle: Bundle, path: str | Path, member: str, content: bytes) -> bool:
    """Write ``bundle``, its manifest byte for byte, to ``path`` with one more signature.

    A key that has signed it before signs anew: its earlier signature is replaced, the others are kept.

    Returns:
        Whether it replaced one.

    Raises:
        BundleRefused: the file changed since the bundle was opened.
        InputError: there are too many signatures, or the file cannot be written.
    """
    signatures = {**bundle.signed.signatures, member: content}
    if len(signatures) > MAX_SIGNATURES:
        raise InputError(f"{bundle.path.name} has {MAX_SIGNATURES} signatures already, which is all that fit")
    members = {name: bundle.read(name) for name in sorted(known.path for known in bundle.manifest.members)}
    archive.write_archive(
        path, {MANIFEST: bundle.signed.manifest} | members | {name: signatures[name] for name in sorted(signatures)}
    )
    return member in bundle.signed.signatures


def set_release(bundle: Bundle, path: str | Path, release: int) -> Manifest:
    """Write ``bundle`` to ``path`` as release number ``release``; its verdicts hold, for the model is the same.

    Raises:
        InputError: it is signed already, the number is out of range, or the file cannot be written.
    """
    if bundle.signed.signatures:
        raise InputError(
            f"{bundle.path.name} is signed, and its release is part of what was signed; give the release with the "
            "first signature"
        )
    contents = {member.path: bundle.read(member.path) for member in bundle.manifest.members}
    return write_bundle(path, msgspec.structs.replace(bundle.manifest, release=release), contents)
