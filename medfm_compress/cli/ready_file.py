"""What a model's file does not say is asked for with a file that is ready to be filled in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from medfm_compress.runtime.atomic_write import write_atomically
from medfm_compress.runtime.errors import InputError, UndescribedModel


def asking_with_a_file(function: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
    """Call ``function``; where a model does not say all that is needed, write the file that asks for it.

    Raises:
        InputError: what is needed, and which file waits to be filled in.
    """
    try:
        return function(**arguments)
    except UndescribedModel as exc:
        try:
            path = _written(exc)
        except (InputError, OSError):  # a folder that cannot be written to; the message says what to write instead
            raise exc from None
        raise InputError(
            f"{exc.lacking}; fill in {path}, which holds all that the file says of itself, and give it with "
            f"--teacher-spec {path}"
        ) from exc


def _written(exc: UndescribedModel) -> Path:
    """A file in the current folder that was not there; one with the same content is left as it is."""
    name = Path(exc.file_name)
    stem, suffix = exc.file_name.partition(".spec")[::2]
    for number in ("", *(f"-{n}" for n in range(2, 1000))):
        name = Path(f"{stem}{number}.spec{suffix}")
        if not name.exists():
            write_atomically(name, exc.text.encode())
            return name
        if name.is_file() and name.read_bytes() == exc.text.encode():
            return name
    return name
