"""Slides for the tests of this folder."""

from __future__ import annotations

import importlib

import pytest

pytest.importorskip("tifffile", reason="slides are written with tifffile")


@pytest.fixture(scope="session")
def scene():
    """The module `slide_scene`."""
    return importlib.import_module("slide_scene")


@pytest.fixture(scope="session")
def picture(scene):
    """What the slides show."""
    return scene.picture()
