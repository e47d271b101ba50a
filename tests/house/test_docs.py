"""README and docs stay true where a test can tell: commands, options and files that they name are there."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer

from medfm_compress.cli import reference
from medfm_compress.cli.app import build_app
from medfm_compress.cli.default_command import DEFAULT

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    path
    for path in (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "experiments").rglob("*.md"))
    if path.name != "CHANGELOG.md"  # tells of what was
)
FOLDERS = "bench|compress|data|docs|examples|experiments|export|medfm_compress|packaging|runtime|scripts|tests"
PATH = re.compile(rf"(?<![\w./-])((?:{FOLDERS})/[\w./-]*[\w/])")
OTHERS_OPTIONS = {
    "--import-mode",
    "--nproc-per-node",
    "--platform",
    "--seconds",
    "--dry-run",
    "--help",
}  # of torchrun, pytest and scripts
NOT_IN_THE_TREE = ("docs/results/", "runs/", "data/images")


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


@cache
def commands() -> Mapping[str, Any]:
    """Name → command; those of a group as ``study check``."""
    group = typer.main.get_command(build_app())
    actual: dict[str, Any] = {}
    for name, command in group.commands.items():  # type: ignore[attr-defined]
        inner_commands = getattr(command, "commands", {})
        actual[name] = inner_commands.get(DEFAULT, command)
        for below, inner in inner_commands.items():
            actual[f"{name} {below}"] = inner
    return actual


def options_of(command: Any) -> set[str]:
    return {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}


def invocations(text: str) -> Iterator[str]:
    """Every call of the command line in code blocks and code spans, continued lines joined."""
    joined = re.sub(r"\\\n\s*", " ", text)
    yield from re.findall(r"^\s*(?:\$ )?medfm-compress ([^\n#`]+)", joined, flags=re.M)
    yield from re.findall(r"`medfm-compress ([^`\n]+)`", joined)


def command_of(call: str) -> str | None:
    words = call.split()
    names = [" ".join(words[:2]), words[0]]
    return next((name for name in names if name in commands()), None)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_that_is_shown_exists_with_its_options(page: Path) -> None:
    for call in invocations(text_of(page)):
        if call.startswith(("--", "…", "...", "VERB")):
            continue
        name = command_of(call)
        assert name is not None, f"medfm-compress {call}"
        unknown = set(re.findall(r"(?<!\S)(--[a-z][\w-]*)", call)) - options_of(commands()[name]) - OTHERS_OPTIONS
        assert not unknown, f"medfm-compress {call}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_option_that_is_named_exists(page: Path) -> None:
    """In prose; which command it belongs to is not said there."""
    if "experiments" in page.parts or "results" in page.parts:
        pytest.skip("names options of scripts and of other tools")
    known = {option for command in commands().values() for option in options_of(command)} | OTHERS_OPTIONS
    named = set(re.findall(r"`(--[a-z][\w-]*)", text_of(page)))
    assert named <= known


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_file_that_is_named_exists(page: Path) -> None:
    spans = re.findall(r"`([^`\n]+)`", text_of(page)) + re.findall(r"^\s*(?:\w+ )*((?:\S+/)\S+)", text_of(page), re.M)
    named = {match for span in spans for match in PATH.findall(span) if not match.startswith(NOT_IN_THE_TREE)}
    missing = {name for name in named if not any((base / name).exists() for base in (ROOT, page.parent))}
    assert not missing


def test_every_test_that_the_threat_model_names_exists() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", text_of(ROOT / "docs" / "threat-model.md"))
    missing = [f"{path}::{name}" for path, name in named if f"def {name}(" not in text_of(ROOT / path)]
    assert len(named) > 20 and not missing


def test_the_readme_shows_commands() -> None:
    assert len(list(invocations(text_of(ROOT / "README.md")))) > 8


@pytest.mark.parametrize("name", reference.PAGES)
def test_the_reference_pages_are_current(name: str) -> None:
    """``python -m medfm_compress.cli.reference docs`` makes them."""
    assert (ROOT / "docs" / name).read_text() == reference.PAGES[name]()
