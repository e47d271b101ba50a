"""Small networks of seven families in every precision through TensorRT, on every commit: acceptance, not numerics.

The whole table of docs/results/tensorrt-acceptance.md is built again by the slow test.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import pytest

from acceptance import page
from acceptance.accept import Accepted, accept
from acceptance.families import FAMILIES, QUICK, Exported
from acceptance.table import row
from medfm_compress.compress.quantization.tensorrt_graphs import PRECISIONS

RESULTS = Path(__file__).resolve().parents[3] / "docs" / "results" / "tensorrt" / "acceptance.json"


@cache
def exported(name: str) -> Exported:
    return Exported(name, QUICK[name])


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", QUICK)
def test_tensorrt_takes_what_is_exported(name, precision, tmp_path):
    path = tmp_path / "graph.onnx"
    path.write_bytes(exported(name).graph(precision))
    outcome = accept(path)
    assert isinstance(outcome, Accepted), f"{outcome.module} {outcome.operator} {outcome.node}: {outcome.sentence}"


def test_the_table_has_25_families_and_all_precisions():
    rows = [line for line in json.loads(RESULTS.read_text())["rows"] if "precisions" in line]
    assert len(rows) >= 25
    assert all(set(line["precisions"]) == set(PRECISIONS) for line in rows)


def test_the_page_shows_the_results():
    text = (page.RESULTS / "tensorrt-acceptance.md").read_text()
    for part in (page.HEADER, page.families(), page.refusals(), page.peers(), page.counts()):
        assert part in text


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_the_table_is_true(name):
    known = next(line for line in json.loads(RESULTS.read_text())["rows"] if line["network"] == name)
    now = row(name)
    for precision, cell in known["precisions"].items():
        assert ("engine_bytes" in now["precisions"][precision]) == ("engine_bytes" in cell), (precision, now)
