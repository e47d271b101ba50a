"""README and docs stay true where a test can tell."""

from __future__ import annotations

import re
from pathlib import Path

from medfm_compress.__main__ import COMMANDS

ROOT = Path(__file__).resolve().parents[2]


def test_every_command_that_the_readme_shows_exists() -> None:
    names = {command.__name__ for command in COMMANDS} | {"study"}
    shown = set(re.findall(r"^medfm-compress (\w+)", (ROOT / "README.md").read_text(), flags=re.M))
    assert shown
    assert shown <= names


def test_every_file_that_the_readme_names_exists() -> None:
    named = set(re.findall(r"`((?:docs|examples|scripts)/[\w./-]+)`", (ROOT / "README.md").read_text()))
    assert {name for name in named if not (ROOT / name).exists()} == set()
