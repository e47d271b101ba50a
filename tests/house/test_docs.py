"""README and docs stay true where a test can tell."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from medfm_compress.cli.app import COMMANDS, GROUPS
from medfm_compress.cli.reference import PAGES

ROOT = Path(__file__).resolve().parents[2]


def test_every_command_that_the_readme_shows_exists() -> None:
    names = {command.__name__ for command in COMMANDS} | {name for name, _ in GROUPS}
    shown = set(re.findall(r"^medfm-compress (\w+)", (ROOT / "README.md").read_text(), flags=re.M))
    assert shown
    assert shown <= names


def test_every_file_that_the_readme_names_exists() -> None:
    named = set(re.findall(r"`((?:docs|examples|scripts)/[\w./-]+)`", (ROOT / "README.md").read_text()))
    assert {name for name in named if not (ROOT / name).exists()} == set()


@pytest.mark.parametrize("name", PAGES)
def test_the_reference_pages_are_current(name: str) -> None:
    """``python -m medfm_compress.cli.reference docs`` makes them."""
    assert (ROOT / "docs" / name).read_text() == PAGES[name]()
