"""The bill of materials: the model with its files, and the software that made, measured and packed it.

CycloneDX 1.6 (ECMA-424, https://cyclonedx.org/docs/1.6/json/). All of it follows from the rest of a pack, to the byte:
serial number and time too, so that a bill that says more, or other things, is not the pack's.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from medfm_compress.runtime.bundle.manifest import Manifest
from medfm_compress.runtime.strict_json import encode

_NAMESPACE = uuid.UUID("6a1f0d0e-6e0b-5c11-9b55-4d6d6366636d")


def bill_of_materials(manifest: Manifest, libraries: Mapping[str, str], created: str) -> bytes:
    """The bill as JSON.

    Args:
        manifest: of the bundle.
        libraries: name → version of what made, measured and packed it.
        created: ISO 8601, UTC.
    """
    software = [_library(name, version) for name, version in sorted(libraries.items())]
    references = sorted(part["bom-ref"] for part in software)
    model = {"ref": manifest.model_digest} | ({"dependsOn": references} if references else {})
    return encode(
        {
            "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
            "bomFormat": "CycloneDX",
            "specVersion": "1.6",
            "version": 1,
            "serialNumber": uuid.uuid5(_NAMESPACE, f"{manifest.model_digest} {created}").urn,
            "metadata": {"timestamp": created, "component": _model(manifest)},
            "components": software,
            "dependencies": [model, *({"ref": reference} for reference in references)],
        }
    )


def _library(name: str, version: str) -> dict[str, Any]:
    package = f"pkg:pypi/{quote(name.lower().replace('_', '-'), safe='')}@{quote(version, safe='')}"
    return {"type": "library", "bom-ref": f"{name}@{version}", "name": name, "version": version, "purl": package}


def _model(manifest: Manifest) -> dict[str, Any]:
    origin = manifest.provenance
    facts = {
        "intended use": manifest.intended_use,
        "teacher": origin.teacher,
        "teacher licence": origin.teacher_licence,
        "student": origin.student,
        "training study": origin.study_fingerprint,
    }
    return {
        "type": "machine-learning-model",
        "bom-ref": manifest.model_digest,
        "name": manifest.name,
        "version": str(manifest.release_number),
        "hashes": _hashes(manifest.model_digest),
        "properties": [{"name": f"medfm-compress:{name}", "value": value} for name, value in facts.items() if value],
        "components": [
            {"type": "file", "bom-ref": f"file:{m.path}", "name": m.path, "hashes": _hashes(m.sha256)}
            for m in manifest.members
        ],
    }


def _hashes(sha256: str) -> list[dict[str, str]]:
    return [{"alg": "SHA-256", "content": sha256}]
