"""Policy files."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from medfm_compress.bench.policy import load_policy, parse_policy, policy_template
from medfm_compress.runtime.errors import InputError

ENTRY = "non_inferiority: [{metric: auroc, margin: 0.02}]\n"


def test_the_template_is_a_policy() -> None:
    policy = parse_policy(policy_template().encode()).policy
    assert policy.non_inferiority[0].metric == "auroc"
    assert policy.non_inferiority[0].teacher_floor == 0.8
    assert policy.budget.p50_ms is None
    assert policy.alpha == 0.025


def test_yaml_and_json_say_the_same_and_the_hash_is_of_the_bytes(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text(ENTRY)
    (tmp_path / "p.json").write_text('{"non_inferiority": [{"metric": "auroc", "margin": 0.02}]}')
    one, two = load_policy(tmp_path / "p.yaml"), load_policy(tmp_path / "p.json")
    assert one.policy == two.policy
    assert one.sha256 == hashlib.sha256(ENTRY.encode()).hexdigest() != two.sha256


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (ENTRY + "margins: 3\n", "unknown field `margins`"),
        ("non_inferiority: [{metric: dice, margin: 0.02}]", "dice"),
        ("non_inferiority: [{metric: auroc, margin: 0}]", "margin is 0"),
        ("non_inferiority: [{metric: auroc, margin: .nan}]", "margin is nan"),
        ("non_inferiority: []", "at least one non_inferiority"),
        ("alpha: 0.1", "missing required field `non_inferiority`"),
        (ENTRY + "alpha: 0.5\n", "alpha is 0.5"),
        (ENTRY + "resamples: 10\n", "at least 1000"),
        (ENTRY + "min_positives: 0\n", "at least 2"),
        (ENTRY + ENTRY, "given twice"),
        ("non_inferiority: [{metric: f1, margin: 0.1}, {metric: f1, margin: 0.2}]", "asks twice for f1"),
        ("[1, 2", "is not YAML"),
        ("just words", "must be a table"),
        ("", "must be a table"),
        ("!!python/object/apply:os.system ['true']", "is not YAML"),
        (ENTRY + "budget: {p50_ms: fast}\n", "budget.p50_ms"),
        (ENTRY + "? [a, b]\n: 1\n", "policy"),
    ],
)
def test_an_unusable_policy_is_one_sentence(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        parse_policy(text.encode())
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere\.yaml"):
        load_policy(tmp_path / "nowhere.yaml")
