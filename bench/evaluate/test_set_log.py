"""The log of every look at a test split, one JSON line each, on the disk before any model sees a case."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.strict_json import decode

LOG = "test-evaluations.jsonl"


class LoggedEvaluation(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One look at a split.

    Attributes:
        date: ISO 8601, UTC.
        split: which.
        cases: how many.
        policy_sha256: of the policy as it stood then.
        model_digest: of the bundle that was evaluated.
        study_fingerprint: of the study.
    """

    date: str
    split: str
    cases: int
    policy_sha256: str
    model_digest: str
    study_fingerprint: str


def log_evaluation(folder: Path, entry: LoggedEvaluation) -> None:
    """Append ``entry`` to the log in ``folder``, so that an interrupted look is a look all the same.

    Raises:
        InputError: the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / LOG).open("ab") as file:
            file.write(msgspec.json.encode(entry) + b"\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as exc:
        raise InputError(f"cannot write {folder / LOG}: {exc.strerror}; choose a folder that is writable") from None


def read_log(folder: Path) -> tuple[LoggedEvaluation, ...]:
    """All entries in ``folder``, oldest first; none without a log.

    Raises:
        InputError: a line is no entry (the log was altered, or a write was cut off).
    """
    path = folder / LOG
    if not path.is_file():
        return ()
    return tuple(
        decode(line, LoggedEvaluation, source=f"{path} line {number}")
        for number, line in enumerate(path.read_bytes().splitlines(), start=1)
        if line.strip()
    )
