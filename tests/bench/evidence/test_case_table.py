"""Cases are named by salted hashes that the owner of study and salt can resolve."""

from __future__ import annotations

import csv
import hashlib
import hmac
import io

import pytest
from msgspec.structs import replace
from tiny_report import evaluation

from medfm_compress.bench.evaluate.evaluate import EvaluationTable
from medfm_compress.bench.evidence.case_table import case_csv, case_ids, check_case_csv
from medfm_compress.data.open import open_study
from medfm_compress.runtime.errors import EvidenceRefused, InputError


class OfTables:
    """As much of a report as the table needs."""

    split = "test"

    def __init__(self, *tables):
        self.evaluations = tables
        self.teacher = tables[0]


def test_with_salt_and_study_a_case_is_found_again(discs_path):
    study = open_study(discs_path)
    cases = [case for case in study.cases if case.split == "test"]
    keys = hashlib.sha256("\0".join(case.image for case in cases).encode()).hexdigest()
    table = EvaluationTable.from_evaluation(evaluation("teacher", len(cases)))
    report = OfTables(replace(table, cases_sha256=keys))
    ids = case_ids(report, b"salt", study)
    assert ids.cases[3] == hmac.new(b"salt", b"case\0" + cases[3].image.encode(), hashlib.sha256).hexdigest()[:32]
    assert len(set(ids.cases)) == len(cases)
    assert not set(ids.cases) & set(case_ids(report, b"other", study).cases)
    with pytest.raises(InputError, match="give the study that was benched"):
        case_ids(OfTables(table), b"salt", study)


def test_cells_that_a_spreadsheet_runs_do_not(tiny):
    table = EvaluationTable.from_evaluation(evaluation("teacher", 4))
    report = OfTables(replace(table, subgroups={"=site": ("=1+1", "a", "b", "c")}))
    content = case_csv(report, case_ids(report, b"salt"))
    rows = list(csv.reader(io.StringIO(content.decode())))
    assert rows[0][2] == "'=site" and rows[1][2] == "'=1+1" and len(rows) == 5
    check_case_csv(content, report, "p")


def test_metrics_of_masks_have_columns(tiny):
    table = EvaluationTable.from_evaluation(evaluation("teacher", 3))
    finding = table.findings[0]
    metrics = {"dice": ((0.25,), (None,), (1.0,)), "hd95": ((3.5,), (None,), (0.0,))}
    report = OfTables(replace(table, findings=(finding,), case_metrics=metrics))
    content = case_csv(report, case_ids(report, b"salt"))
    rows = list(csv.reader(io.StringIO(content.decode())))
    assert rows[0][-2:] == [f"dice {finding}, teacher", f"hd95 {finding}, teacher"]
    assert [row[-2:] for row in rows[1:]] == [["0.25", "3.5"], ["", ""], ["1.0", "0.0"]]
    check_case_csv(content, report, "p")
    with pytest.raises(EvidenceRefused, match=f"case 3, column 'dice {finding}, teacher'"):
        check_case_csv(content.replace(b"1.0,0.0", b"0.9,0.0"), report, "p")


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"\xff", "is no table"), (b"a,b\n", "cases.csv has 0 cases"), (b"", "cases.csv is empty")],
)
def test_what_is_no_table(content, words):
    report = OfTables(EvaluationTable.from_evaluation(evaluation("teacher", 4)))
    with pytest.raises(EvidenceRefused, match=words):
        check_case_csv(content, report, "p")
