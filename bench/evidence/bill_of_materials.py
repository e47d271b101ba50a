"""The bill of materials: the model with its files, and the software that made and measured it.

CycloneDX 1.6 (ECMA-424), written with cyclonedx-python-lib; serial number and time follow from the pack's contents, so
that equal packs have equal bills. Read back without it: the bill must name the model by its digest and its files by
theirs.
"""

from __future__ import annotations

import datetime
import uuid
from collections.abc import Mapping
from typing import Any

import msgspec

from medfm_compress.runtime.bundle.manifest import Manifest
from medfm_compress.runtime.errors import EvidenceRefused, MissingDependency
from medfm_compress.runtime.strict_json import decode

_NAMESPACE = uuid.UUID("6a1f0d0e-6e0b-5c11-9b55-4d6d6366636d")


class _Hash(msgspec.Struct, frozen=True):
    alg: str
    content: str


class _Component(msgspec.Struct, frozen=True):
    name: str
    type: str
    hashes: tuple[_Hash, ...] = ()
    components: tuple[_Component, ...] = ()


class _Metadata(msgspec.Struct, frozen=True):
    component: _Component


class _Bill(msgspec.Struct, frozen=True, rename="camel"):
    bom_format: str = msgspec.field(name="bomFormat")
    spec_version: str = msgspec.field(name="specVersion")
    metadata: _Metadata


def bill_of_materials(manifest: Manifest, libraries: Mapping[str, str], created: str) -> bytes:
    """The bill as JSON.

    Args:
        manifest: of the bundle.
        libraries: name → version of what made, measured and packed it.
        created: ISO 8601, UTC.

    Raises:
        MissingDependency: cyclonedx-python-lib is not installed.
    """
    try:
        from cyclonedx.model.bom import Bom, BomMetaData
        from cyclonedx.model.component import Component, ComponentType
        from cyclonedx.output import make_outputter
        from cyclonedx.schema import OutputFormat, SchemaVersion
        from packageurl import PackageURL
    except ModuleNotFoundError:
        raise MissingDependency(
            "a bill of materials needs cyclonedx-python-lib: pip install 'medfm-compress[toolchain]'"
        ) from None
    model = _model(manifest)
    software = [
        Component(
            name=name,
            version=version,
            type=ComponentType.LIBRARY,
            bom_ref=f"{name}@{version}",
            purl=PackageURL("pypi", None, name, version),
        )
        for name, version in sorted(libraries.items())
    ]
    bom = Bom(
        components=software,
        serial_number=uuid.uuid5(_NAMESPACE, f"{manifest.model_digest} {created}"),
        metadata=BomMetaData(
            component=model, timestamp=datetime.datetime.fromisoformat(created.replace("Z", "+00:00"))
        ),
    )
    bom.register_dependency(model, software)
    written: str = make_outputter(bom, OutputFormat.JSON, SchemaVersion.V1_6).output_as_string(indent=2)
    return written.encode() + b"\n"


def _model(manifest: Manifest) -> Any:
    from cyclonedx.model import HashAlgorithm, HashType, Property
    from cyclonedx.model.component import Component, ComponentType

    def hashed(digest: str) -> list[HashType]:
        return [HashType(alg=HashAlgorithm.SHA_256, content=digest)]

    origin = manifest.provenance
    facts = {
        "intended use": manifest.intended_use,
        "teacher": origin.teacher,
        "teacher licence": origin.teacher_licence,
    }
    facts |= {"student": origin.student, "training study": origin.study_fingerprint}
    return Component(
        name=manifest.name,
        version=str(manifest.release_number),
        type=ComponentType.MACHINE_LEARNING_MODEL,
        bom_ref=manifest.model_digest,
        hashes=hashed(manifest.model_digest),
        properties=[Property(name=f"medfm-compress:{name}", value=value) for name, value in facts.items() if value],
        components=[
            Component(name=m.path, type=ComponentType.FILE, bom_ref=f"file:{m.path}", hashes=hashed(m.sha256))
            for m in manifest.members
        ],
    )


def check_bill(content: bytes, manifest: Manifest, source: str) -> None:
    """Hold a bill against the bundle's manifest.

    Raises:
        EvidenceRefused: it is of another schema, another model, or lists other files.
    """
    bill = decode(content, _Bill, source=f"{source}: bom.cdx.json", error=EvidenceRefused)
    if (bill.bom_format, bill.spec_version) != ("CycloneDX", "1.6"):
        raise EvidenceRefused(f"{source}: bom.cdx.json is no CycloneDX 1.6 document")
    model = bill.metadata.component
    expected = {m.path: (m.sha256,) for m in manifest.members} | {manifest.name: (manifest.model_digest,)}
    actual = {c.name: tuple(h.content for h in c.hashes) for c in (*model.components, model)}
    for name in sorted(expected.keys() ^ actual.keys()) or [n for n in expected if expected[n] != actual[n]]:
        raise EvidenceRefused(f"{source}: bom.cdx.json and the bundle's manifest differ in {name!r}")
