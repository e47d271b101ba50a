"""``doctor``: one screen for people, one document for programs."""

from __future__ import annotations

import json

import typer
from typer.testing import CliRunner

from medfm_compress.cli.doctor import doctor


def invoke(*arguments):
    app = typer.Typer()
    app.command()(doctor)
    return CliRunner().invoke(app, list(arguments))


def test_for_people():
    result = invoke()
    assert result.exit_code == 0
    for words in ("system", "backends", "onnxruntime", "decoders", "toolchain", "yes"):
        assert words in result.stdout


def test_for_programs():
    result = invoke("--json")
    document = json.loads(result.stdout)
    assert result.exit_code == 0
    assert {"name", "ok", "detail"} == set(document["backends"][0])
