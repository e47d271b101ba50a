"""The reference pages of commands and recipes, from the same source as ``--help``.

python -m medfm_compress.cli.reference docs     # writes cli.md, recipe.md and recipe.schema.json
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import typer

from medfm_compress.cli.app import PROGRAM, build_app
from medfm_compress.cli.docstrings import attributes, summary
from medfm_compress.cli.options import Setting
from medfm_compress.cli.recipe_schema import recipe_schema, sections
from medfm_compress.runtime.atomic_write import write_atomically
from medfm_compress.runtime.constraints import Field, fields
from medfm_compress.runtime.strict_json import encode

_MADE = "<!-- Made by: python -m medfm_compress.cli.reference docs -->\n"
_INTRODUCTION = f"""# Commands

{_MADE}
`{PROGRAM} VERB ARTEFACT --study STUDY --out OUT`: every command takes one artefact and writes another.

- `--target BACKEND:DEVICE:PRECISION:THREADS` is where something runs, e.g. `openvino:cpu:int8:2` or
  `tensorrt:cuda:fp16`; `docs/gpu-targets.md` has what may stand together.
- Limits are `--max-latency 10ms`, `--max-size 6MB`, `--min-speedup 2`, `--max-macs 0.5`; durations `90s` or `5min`.
- Lists are options that are repeated.
- Exit codes: 0 done or pass, 1 the gate failed, 2 usage or unusable input, 3 inconclusive, 4 refused by the runtime,
  70 internal error, 130 interrupted.
- `{PROGRAM} --install-completion` completes commands, options and choices in the shell.
"""


def cli_page() -> str:
    """Every command with its arguments and options, as Markdown."""
    root: Any = typer.main.get_command(build_app())
    blocks = [_INTRODUCTION]
    for path, command in _commands(root, PROGRAM):
        blocks += [f"## {path}\n", f"{(command.help or '').strip()}\n", _table(command)]
    return "\n".join(blocks)


def _commands(group: Any, path: str) -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _commands(command, f"{path} {name}")
        else:
            yield f"{path} {name}", command


def _table(command: Any) -> str:
    lines = ["| option | value | |", "|---|---|---|"]
    for parameter in command.params:
        named = parameter.param_type_name == "option"
        names = ", ".join((*parameter.opts, *parameter.secondary_opts)) if named else parameter.metavar
        value = "" if getattr(parameter, "is_flag", False) or not named else parameter.metavar or ""
        required = " **Required.**" if parameter.required else ""
        lines.append(f"| `{names}` | {f'`{value}`' if value else ''} | {_cell(parameter.help or '')}{required} |")
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def recipe_page() -> str:
    """Every key of a recipe with its type, default and meaning, as Markdown."""
    blocks = [f"# Recipe keys\n\n{_MADE}"]
    blocks.append(
        f"`{PROGRAM} recipe init my-job.yaml` writes a commented recipe, `{PROGRAM} recipe schema` prints the JSON "
        "schema (`docs/recipe.schema.json`). Unknown keys are refused.\n"
    )
    for kind in sections():
        blocks += [f"## {kind.__name__}\n", f"{summary(kind)}\n", _keys(kind)]
    return "\n".join(blocks)


def _keys(kind: type[msgspec.Struct]) -> str:
    lines = ["| key | type | allowed | default | |", "|---|---|---|---|---|"]
    declared = {field.name: field for field in msgspec.structs.fields(kind)}
    for name, field in fields(kind).items():
        text = Setting((name,), field, None, attributes(kind)[name]).described()
        default = _default(declared[name], field)
        lines.append(f"| `{name}` | {_type(field)} | {field.allowed()} | {default} | {_cell(text)} |")
    return "\n".join(lines) + "\n"


def _type(field: Field) -> str:
    name = field.base.__name__
    words = {"str": "text", "int": "whole number", "float": "number", "bool": "true or false", "Any": "any value"}
    word = words.get(name) or f"[{name}](#{name.lower()})"
    return {"": "", "tuple": "list of ", "dict": "table of "}[field.container] + word


def _default(declared: msgspec.structs.FieldInfo, field: Field) -> str:
    if declared.required:
        return "required"
    value = declared.default_factory() if declared.default is msgspec.NODEFAULT else declared.default
    if isinstance(value, msgspec.Struct):
        changes = _changes(value)
        return f"`{msgspec.json.encode(changes).decode()}`" if changes else ""
    return "" if value in (None, "", (), {}, msgspec.UNSET) else f"`{msgspec.json.encode(value).decode()}`"


def _changes(value: msgspec.Struct) -> dict[str, Any]:
    """The fields of a default that differ from those of its own type."""
    usual = {field.name: field.default for field in msgspec.structs.fields(type(value))}
    return {
        name: getattr(value, name)
        for name in value.__struct_fields__
        if usual[name] is not msgspec.NODEFAULT and getattr(value, name) != usual[name]
    }


PAGES: dict[str, Callable[[], str]] = {
    "cli.md": cli_page,
    "recipe.md": recipe_page,
    "recipe.schema.json": lambda: encode(recipe_schema()).decode(),
}


def main(folder: str) -> None:
    """Write every page into ``folder``."""
    for name, page in PAGES.items():
        write_atomically(Path(folder) / name, page().encode())


if __name__ == "__main__":
    main(sys.argv[1])
