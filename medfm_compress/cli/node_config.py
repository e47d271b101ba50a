"""A DICOM node's configuration: from its YAML file, and the commented file that ``serve init`` writes.

The latter is made of `NodeConfig` itself, its docstrings and bounds, so that no key is ever missing or out of date.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import msgspec

from medfm_compress.cli.docstrings import attributes, summary
from medfm_compress.data.strict_yaml import load_yaml
from medfm_compress.runtime.atomic_write import write_atomically
from medfm_compress.runtime.constraints import Field, fields
from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.node.config import NodeConfig
from medfm_compress.runtime.regular_file import read_regular
from medfm_compress.runtime.strict_json import convert

T = TypeVar("T", bound=msgspec.Struct)
_MAX_BYTES = 4 << 20
_WIDTH = 118
_HEAD = """\
# A DICOM node of medfm-compress: images in, structured reports out; docs/node.md is its guide.
#
#   medfm-compress serve node.yaml --check      everything that is wrong with it, at once
#   medfm-compress serve node.yaml              run
#
# A line whose '#' is followed by a space explains; one whose '#' is not is a setting at its default, or an example
# where there is none: remove the '#' of a line, and of the section above it, to change it. Paths are relative to this
# file.
"""
_EXAMPLES: Mapping[str, Any] = MappingProxyType(
    {
        "folder": "/var/lib/medfm-compress-node",
        "receive.ae_title": "MEDFM",
        "receive.senders.ae_title": "CT1",
        "receive.senders.addresses": ["10.1.2.0/24"],
        "receive.senders.commitment.host": "ct1.example",
        "receive.senders.commitment.port": 104,
        "engine.device": "/var/lib/medfm-compress",
        "engine.bundle": "small.medfm",
        "engine.threads": 2,
        "engine.cache": "/var/cache/medfm-compress-node",
        "engine.trust_store": "/etc/medfm-compress/trust",
        "spool.deadline_s": 3600,
        "results.findings": {"pneumonia": {"value": "233604007", "scheme": "SCT", "meaning": "Pneumonia"}},
        "results.segment_categories": {
            "tumour": {"value": "49755003", "scheme": "SCT", "meaning": "Morphologically Abnormal Structure"}
        },
        "results.institution": "General Hospital",
        "pacs.name": "archive",
        "pacs.ae_title": "ORTHANC",
        "pacs.host": "pacs.example",
        "pacs.port": 4242,
        "pacs.calling_ae_title": "MEDFM",
        "pacs.commitment_host": "pacs.example",
        "pacs.commitment_port": 4242,
        "pacs.commitment_ae_title": "ORTHANC",
        "fhir.name": "records",
        "fhir.url": "https://records.example/fhir",
        "fhir.token_file": "records.token",
        "fhir.authorities": "authorities.pem",
        "watch.folder": "/srv/images",
        "stow.port": 8042,
        "stow.token_file": "stow.token",
        "stow.certificate": "node.pem",
        "stow.key": "node.key",
        "page.token_file": "page.token",
        "page.urgent": ["pneumothorax"],
        "certificate": "node.pem",
        "key": "node.key",
        "authorities": "authorities.pem",
    }
)
"""By path, or by name where several sections have it: of what is required, or has no default that shows its form."""
_SHOWN = frozenset({"engine.device", "pacs"})
"""What is not required by itself, and every node needs."""


def read_node_config(path: Path) -> NodeConfig:
    """The configuration in ``path``; its relative paths are those of its folder.

    Raises:
        InputError: it cannot be read, is not YAML, or has a key or value that is not allowed.
    """
    try:
        data = read_regular(path, _MAX_BYTES, "the configuration")
    except InputError as exc:
        raise InputError(f"{exc}; give a configuration, 'serve init' writes one") from None
    return with_paths_from(path.absolute().parent, convert(load_yaml(data, path.name), NodeConfig, source=path.name))


def with_paths_from(folder: Path, section: T) -> T:
    """``section`` with every relative path taken from ``folder``."""
    changes: dict[str, Any] = {}
    for name, field in fields(type(section)).items():
        value = getattr(section, name)
        if isinstance(value, msgspec.Struct):
            changes[name] = with_paths_from(folder, value)
        elif isinstance(value, tuple):
            changes[name] = tuple(
                with_paths_from(folder, item) if isinstance(item, msgspec.Struct) else item for item in value
            )
        elif field.extra.get("path") and isinstance(value, str):
            changes[name] = str(folder / value)
    return msgspec.structs.replace(section, **changes)


def starter() -> str:
    """The commented configuration."""
    return "\n".join([_HEAD, *_section(NodeConfig, "", 0, off=False)]).rstrip() + "\n"


def write_starter(path: Path) -> None:
    """Write it to ``path``; raises InputError where that exists, or cannot be written."""
    if path == Path():
        raise InputError("--out is empty or '.'; give the path of the file to write")
    if path.exists() or path.is_symlink():
        raise InputError(f"{path} exists and is not overwritten; name another file, or remove it first")
    write_atomically(path, starter().encode())


def _section(kind: type[msgspec.Struct], path: str, depth: int, *, off: bool) -> Iterator[str]:
    texts = attributes(kind)
    for declared in msgspec.structs.fields(kind):
        name, field = declared.name, fields(kind)[declared.name]
        own = f"{path}.{name}".lstrip(".")
        is_off = off or not (declared.required or own in _SHOWN)
        default = _default(declared)
        if not depth:
            yield ""
        yield from _prose(_text(texts.get(name, ""), field), depth)
        yield from _setting(own, field, default, depth, off=is_off)


def _setting(path: str, field: Field, default: Any, depth: int, *, off: bool) -> Iterator[str]:
    """The lines of one key, switched off or not."""
    name = path.rpartition(".")[2]
    if not (isinstance(field.base, type) and issubclass(field.base, msgspec.Struct)) or field.container == "dict":
        value = _example(path) if default in (None, "", (), {}) else default
        yield _line(f"{name}: {json.dumps(value, ensure_ascii=False)}", depth, off=off)
        return
    yield _line(f"{name}:", depth, off=off)
    if field.container != "tuple":
        yield from _section(field.base, path, depth + 1, off=off)
        return
    lines = list(_section(field.base, path, depth + 2, off=off))
    first = next(number for number, line in enumerate(lines) if line.strip() and not line.strip().startswith("# "))
    prose, (head, *rest) = lines[:first], lines[first:]
    yield from prose
    yield _line(f"- {head.strip().removeprefix('#')}", depth + 1, off=off)
    yield from rest


def _line(text: str, depth: int, *, off: bool) -> str:
    return f"{'  ' * depth}{'#' if off else ''}{text}"


def _prose(text: str, depth: int) -> list[str]:
    indent = "  " * depth + "# "
    return textwrap.wrap(text, _WIDTH, initial_indent=indent, subsequent_indent=indent)


def _text(text: str, field: Field) -> str:
    is_section = isinstance(field.base, type) and issubclass(field.base, msgspec.Struct)
    words = text or (summary(field.base) if is_section else "")
    allowed = field.allowed()
    return f"{words} ({allowed})".strip() if allowed else words


def _default(declared: msgspec.structs.FieldInfo) -> Any:
    value = declared.default if declared.default_factory is msgspec.NODEFAULT else declared.default_factory()
    return "" if value in (msgspec.NODEFAULT, msgspec.UNSET) else msgspec.to_builtins(value)


def _example(path: str) -> Any:
    name = path.rpartition(".")[2]
    return _EXAMPLES[path] if path in _EXAMPLES else _EXAMPLES[name]
