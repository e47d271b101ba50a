"""The table of conformance is what the code and independent decoders give today, file by file."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TABLE = ROOT / "docs" / "dicom-conformance.md"


def script():
    spec = importlib.util.spec_from_file_location("dicom_conformance", ROOT / "experiments" / "dicom_conformance.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def stored_rows(conformance):
    lines = [line for line in TABLE.read_text(encoding="utf-8").splitlines() if line.startswith("| ")][1:]
    return [conformance.Row(*(cell.strip() for cell in line.strip("|").split(" | "))) for line in lines]


def test_no_file_differs_by_more_than_the_last_step_and_every_file_has_a_rule():
    rows = stored_rows(script())
    assert len(rows) == 115
    compared = [row for row in rows if row.difference]
    assert len(compared) >= 80 and all(int(row.difference) <= 1 for row in compared)
    for row in rows:
        assert row.rule.startswith("refused: ") != bool(row.peer), row
        # What needs no window and loses nothing is equal: colour and palettes of lossless and native files.
        if row.difference and row.photometric in ("RGB", "PALETTE COLOR", "YBR_FULL", "YBR_FULL_422", "YBR_RCT"):
            assert row.difference == "0", row


@pytest.mark.shared
def test_the_table_is_what_comes_out_today(shared_data, tmp_path):
    conformance = script()
    missing = [tool for tool in conformance.TOOLS if not shutil.which(tool)]
    if missing:
        pytest.skip(f"DCMTK's {missing[0]} is not installed")
    assert list(conformance.rows(shared_data / "dicom", tmp_path)) == stored_rows(conformance)
