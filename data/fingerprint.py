"""Hashes of content: of a file, and of a study with its table and all its images."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import msgspec

from medfm_compress.data.study import Case, ImageSource, Study
from medfm_compress.runtime.errors import ImageRefused, InputError, StudyError
from medfm_compress.runtime.strict_json import digest
from medfm_compress.runtime.threads import map_in_threads

_WORKERS = 4
_TOGETHER = 16
_CHUNK_BYTES = 1 << 20


def file_sha256(path: Path) -> str:
    """Hex sha256 of a file of any size.

    Raises:
        InputError: it cannot be read.
    """
    content = hashlib.sha256()
    try:
        with path.open("rb") as stream:
            while chunk := stream.read(_CHUNK_BYTES):
                content.update(chunk)
    except OSError as exc:
        raise InputError(f"cannot read {path}: {exc.strerror}") from None
    return content.hexdigest()


def content_hashes(source: ImageSource, images: Sequence[str]) -> list[str]:
    """Hex sha256 of each image's stored content, in order; raises ``StudyError`` for an unreadable file."""

    def hash_of(image: str) -> str:
        try:
            return source.content_sha256(image)
        except ImageRefused as exc:
            raise StudyError(f"image {image!r}: {exc}") from None

    return list(map_in_threads(hash_of, images, _WORKERS, _TOGETHER))  # reading and hashing release the GIL


def study_fingerprint(study: Study) -> str:
    """Hex sha256 over labels, cases and image contents, in the table's order; independent of where the study lies.

    Raises:
        StudyError: an image cannot be read.
    """
    hashes = content_hashes(study.source, [case.image for case in study.cases])
    rows = list(zip(map(_plain, study.cases), hashes, strict=True))
    own: dict[str, object] = {"masks": _mask_hashes(study)} if study.kind in ("segmentation", "anomaly") else {}
    own |= {"normal": study.normal} if study.normal else {}
    return digest({"kind": study.kind, "labels": study.labels, "cases": rows} | own)


def _plain(case: Case) -> dict[str, object]:
    """What of a case counts beside its files; the empty ``mask`` keeps the digests of studies without masks.

    Of ages their groups count: the exact ones change what a model with columns learns, which has a digest of its own.
    """
    plain: dict[str, object] = msgspec.to_builtins(msgspec.structs.replace(case, image="", masks=()))
    return {name: value for name, value in plain.items() if name not in ("masks", "written")} | {"mask": ""}


def _mask_hashes(study: Study) -> list[list[str]]:
    folder = study.root if study.root.is_dir() else study.root.parent
    return [[file_sha256(folder / name) if name else "" for name in case.masks] for case in study.cases]
