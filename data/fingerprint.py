"""One hash over a study: its table and the content of its images."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import msgspec

from medfm_compress.data.study import Case, Study
from medfm_compress.runtime.codec import digest


def content_hashes(study: Study, cases: tuple[Case, ...]) -> dict[str, str]:
    """Image → hex sha256 of its stored content; raises ``ImageRefused`` for an unreadable file."""
    names = [case.image for case in cases]
    with ThreadPoolExecutor(max_workers=4) as pool:
        return dict(zip(names, pool.map(study.source.content_sha256, names), strict=True))


def study_fingerprint(study: Study) -> str:
    """Hex sha256 over labels, cases and image contents; independent of where the study lies."""
    hashes = content_hashes(study, study.cases)
    rows = [(msgspec.to_builtins(msgspec.structs.replace(c, image="", mask="")), hashes[c.image]) for c in study.cases]
    return digest({"kind": study.kind, "labels": study.labels, "cases": rows})
