"""Policy files."""

from __future__ import annotations

import hashlib
import inspect
import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from medfm_compress.bench.evaluate.kinds import check_policy
from medfm_compress.bench.gate import policy_template
from medfm_compress.bench.gate.policy_file import load_policy, parse_policy
from medfm_compress.bench.gate.policy_schema import describe, policy_schema
from medfm_compress.bench.gate.policy_template import ANOMALY_STARTER, SEGMENTATION_STARTER, STARTER, write_starter
from medfm_compress.bench.types.mask_rules import MaskRules
from medfm_compress.bench.types.metric import ALL_METRICS
from medfm_compress.bench.types.policy import (
    Budget,
    ExplanationLimits,
    FidelityLimits,
    NonInferiority,
    Policy,
    Robustness,
    SubgroupRule,
)
from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.strict_json import encode
from medfm_compress.runtime.task import Task

ROOT = Path(__file__).resolve().parents[3]
# What PyYAML's constructors answer with errors that are none of its own: of types, attributes, indices and values.
ODD_SCALARS = (
    *("!!timestamp 99999-99-99", "2026-99-99", '!!int ""', "!!int x", '!!float ""', "!!float x", "!!binary \xc4"),
    *("9" * 5000, "!!int 0x", "!!bool maybe", "2026-01-01T99:99:99Z"),
)
ENTRY = "non_inferiority: [{metric: auroc, margin: 0.02}]\n"
STARTERS = (STARTER, SEGMENTATION_STARTER, ANOMALY_STARTER)
SWITCHED_ON, *OTHERS_SWITCHED_ON = (re.sub(r"^( *)#(?=\S)", r"\1", text, flags=re.MULTILINE) for text in STARTERS)


def test_the_starter_is_a_policy_that_asks_little() -> None:
    policy = parse_policy(STARTER.encode()).policy
    (required,) = policy.non_inferiority
    assert (required.metric, required.teacher_floor) == ("auroc", 0.8)
    assert policy == Policy(non_inferiority=(required,))


def test_the_starter_for_a_segmentation_asks_for_overlap_and_lesions(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    write_starter(path, SEGMENTATION_STARTER)
    assert path.read_text() == SEGMENTATION_STARTER
    policy = load_policy(path).policy
    assert [entry.metric for entry in policy.non_inferiority] == [
        "dice",
        "lesion_sensitivity",
        "false_positives_per_image",
    ]
    assert policy.masks == MaskRules()


def test_the_starter_for_an_anomaly_score_asks_for_ranking_and_false_alarms() -> None:
    policy = parse_policy(ANOMALY_STARTER.encode()).policy
    assert [entry.metric for entry in policy.non_inferiority] == ["auroc", "specificity"]
    check_policy(policy, Task(kind="anomaly", labels=("abnormal",), normal=("normal",)))
    switched_on = parse_policy(OTHERS_SWITCHED_ON[1].encode()).policy
    assert {"pixel_auroc", "pro"} <= {entry.metric for entry in switched_on.non_inferiority}
    assert "explanations" not in ANOMALY_STARTER + SEGMENTATION_STARTER  # which bench would refuse


def test_a_distance_may_have_a_margin_above_1_and_a_share_may_not() -> None:
    required = "non_inferiority: [{metric: %s, margin: 5, teacher_floor: 20}]"
    assert parse_policy((required % "hd95").encode()).policy.non_inferiority[0].margin == 5
    with pytest.raises(InputError, match="margin is 5"):
        parse_policy((required % "surface_dice").encode())


def test_the_starter_with_every_setting_switched_on_leaves_no_key_out() -> None:
    policy = parse_policy(SWITCHED_ON.encode()).policy
    assert None not in msgspec.structs.asdict(policy.budget).values()
    assert None not in msgspec.structs.asdict(policy.fidelity).values()
    assert policy.subgroups[1].cuts == (40, 70) and policy.subgroups[1].when_too_few == "named"
    for key in msgspec.structs.asdict(policy.non_inferiority[0]):
        assert any(getattr(entry, key) for entry in policy.non_inferiority), key


def test_the_starter_is_written_with_its_schema_and_never_over_a_file(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "policy.yaml"
    written = write_starter(path)
    assert load_policy(path).policy == parse_policy(STARTER.encode()).policy
    named = re.match(r"# yaml-language-server: \$schema=(.+)\n", path.read_text())
    assert named and path.parent / named[1] == written[1]
    assert json.loads(written[1].read_text()) == policy_schema()
    path.write_text("mine")
    with pytest.raises(InputError, match="not overwritten"):
        write_starter(path)
    assert path.read_text() == "mine"
    written[1].write_text("mine too")
    assert write_starter(path.with_name("other.yaml")) == (path.with_name("other.yaml"),)
    assert written[1].read_text() == "mine too"


def test_without_room_for_the_schema_no_policy_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def on_a_full_disk(path: Path, data: bytes) -> None:
        if path.suffix == ".json":
            raise InputError(f"{path}: there is no room left")
        path.write_bytes(data)

    monkeypatch.setattr(policy_template, "write_atomically", on_a_full_disk)
    with pytest.raises(InputError, match="no room"):
        write_starter(tmp_path / "policy.yaml")
    assert not list(tmp_path.iterdir())


def test_the_schema_in_the_docs_is_the_one_of_the_types() -> None:
    path = ROOT / "docs" / "policy.schema.json"
    remedy = "write it again: Path('docs/policy.schema.json').write_bytes(encode(policy_schema()))"
    assert path.read_bytes() == encode(policy_schema()), remedy


def test_the_docs_explain_every_key_and_their_example_is_a_policy() -> None:
    text = (ROOT / "docs" / "policy.md").read_text()
    explained = {
        name for cell in re.findall(r"^\| (`.+?) \|", text, flags=re.M) for name in re.findall(r"`(\w+)`", cell)
    }
    sections = {"non_inferiority", "budget", "fidelity", "explanations", "subgroups", "robustness", "masks"}
    assert {f"## `{section}`" in text for section in sections} == {True}
    kinds = (Policy, Budget, FidelityLimits, ExplanationLimits, NonInferiority, SubgroupRule, Robustness, MaskRules)
    for kind in kinds:
        assert set(kind.__struct_fields__) - sections <= explained, kind
    assert set(ALL_METRICS) <= explained
    example, *_ = re.findall(r"```yaml\n(.*?)```", text, flags=re.S)
    assert parse_policy(example.encode()).policy.subgroups


def test_every_object_of_the_schema_is_closed_and_every_key_explained() -> None:
    schema = policy_schema()
    for shape in (schema, *schema["$defs"].values()):
        assert shape["additionalProperties"] is False
        assert shape["title"] and shape["description"]
        for name, entry in shape["properties"].items():
            assert entry["description"].strip(), name
            assert "`" not in entry["description"]
    offered = schema["$defs"]["NonInferiority"]["properties"]["metric"]["enum"]
    assert set(ALL_METRICS) - set(offered) == {"ece"}


@pytest.mark.parametrize("text", [*STARTERS, SWITCHED_ON, *OTHERS_SWITCHED_ON])
def test_the_schema_takes_the_starter(text: str) -> None:
    assert complaints(yaml.safe_load(text), policy_schema(), policy_schema()["$defs"]) == []


@pytest.mark.parametrize(
    "text",
    [
        ENTRY + "margins: 3\n",
        "non_inferiority: [{metric: ece, margin: 0.02}]",
        "non_inferiority: [{metric: auroc, margin: 1}]",
        "non_inferiority: [{metric: auroc}]",
        "non_inferiority: [{metric: hd95, margin: 0}]",
        ENTRY + "robustness: [{metric: dice, margin: 2}]",
        ENTRY + "masks: {lesion_overlap: 0}",
        ENTRY + "masks: {lost_below_dice: 2}",
        "non_inferiority: []",
        ENTRY + "budget: {p50_ms: fast}\n",
        ENTRY + "budget: {p50_ms: 0}\n",
        ENTRY + "alpha: 0.5\n",
    ],
)
def test_the_schema_refuses_what_the_reader_refuses(text: str) -> None:
    assert complaints(yaml.safe_load(text), policy_schema(), policy_schema()["$defs"])
    with pytest.raises(InputError):
        parse_policy(text.encode())


def complaints(value: Any, shape: dict[str, Any], shapes: dict[str, Any]) -> list[str]:  # noqa: PLR0912
    """What the words of JSON Schema that the schema uses say against ``value``."""
    if "$ref" in shape:
        shape = {**shape, **shapes[shape["$ref"].rpartition("/")[2]]}
    if "anyOf" in shape:
        per_choice = [complaints(value, choice, shapes) for choice in shape["anyOf"]]
        return min(per_choice, key=len)
    kinds: dict[str, Any] = {
        "object": dict, "array": list, "string": str, "number": (int, float), "integer": int, "null": type(None),
    }  # fmt: skip
    if "type" in shape and not isinstance(value, kinds[shape["type"]]):
        return [f"{value!r} is no {shape['type']}"]
    if "enum" in shape and value not in shape["enum"]:
        return [f"{value!r} is none of {shape['enum']}"]
    against = [f"{name} is missing" for name in shape.get("required", ()) if name not in value]
    if "if" in shape and complaints(value, shape["if"], shapes):
        against += complaints(value, shape["else"], shapes)
    if isinstance(value, dict):
        if shape.get("additionalProperties") is False:
            against += [f"{key} is unknown" for key in value if key not in shape["properties"]]
        for key, entry in value.items():
            against += complaints(entry, shape["properties"].get(key, {}), shapes)
    if isinstance(value, list):
        against += [f"{shape['minItems']} at least"] if len(value) < shape.get("minItems", 0) else []
        for entry in value:
            against += complaints(entry, shape.get("items", {}), shapes)
    if isinstance(value, int | float):
        low, high = shape.get("minimum"), shape.get("maximum")
        above, below = shape.get("exclusiveMinimum"), shape.get("exclusiveMaximum")
        if (low is not None and value < low) or (high is not None and value > high):
            against.append(f"{value} is out of range")
        if (above is not None and value <= above) or (below is not None and value >= below):
            against.append(f"{value} is out of range")
    return against


def test_a_docstring_is_split_by_attribute() -> None:
    docstring = Policy.__doc__ or ""
    whole, attributes = describe(docstring)
    assert (whole, attributes) == describe(inspect.cleandoc(docstring)), "indented or not"
    assert whole == "What must hold, declared before the test split is touched."
    assert set(attributes) == set(Policy.__struct_fields__)
    assert attributes["min_positives"].endswith("before any interval is computed; at least 2.")


def test_yaml_and_json_say_the_same_and_the_hash_is_of_the_bytes(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text(ENTRY)
    (tmp_path / "p.json").write_text('{"non_inferiority": [{"metric": "auroc", "margin": 0.02}]}')
    from_yaml, from_json = load_policy(tmp_path / "p.yaml"), load_policy(tmp_path / "p.json")
    assert from_yaml.policy == from_json.policy
    assert from_yaml.sha256 == hashlib.sha256(ENTRY.encode()).hexdigest() != from_json.sha256


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (ENTRY + "margins: 3\n", "the file has no key 'margins'; its keys are non_inferiority, budget"),
        (ENTRY + "budget: {p50: 3}\n", "policy: budget has no key 'p50'; its keys are p50_ms, p99_ms"),
        (
            ENTRY + "margins: 3\nlimit: 2\nbudget: {p50: 3}\n",
            "no key 'margins' or 'limit'; its keys are .*; budget has no key 'p50'; its keys",
        ),
        ("non_inferiority: [{metric: auroc, margin: 0.02, group: sex}]", r"non_inferiority\[0\] has no key 'group'"),
        (
            "non_inferiority: [{metric: kappa, margin: 0.02}]",
            "metric is 'kappa'; it must be one of .*auroc.*sensitivity",
        ),
        ("non_inferiority: [{metric: [f1], margin: 0.02}]", "metric is"),
        ("non_inferiority: [{metric: ece, margin: 0.02}]", "ece is biased on few cases.*require brier or log_loss"),
        ("non_inferiority: [{metric: auroc, margin: }]", "margin is empty"),
        ("non_inferiority: [{metric: auroc}]", "entry 1 lacks 'margin'"),
        ("non_inferiority: [{metric: auroc, margin: 2%}]", "margin is '2%'; write a number"),
        ("non_inferiority: [{metric: auroc, margin: yes}]", "margin is True; write a number"),
        ("non_inferiority: [{metric: auroc, margin: 0.1, teacher_floor: 80}]", "teacher_floor of auroc is 80"),
        ("non_inferiority: [{metric: brier, margin: 0.1, bundle_floor: -1}]", "this ceiling must be between 0 and 1"),
        ("non_inferiority: [{metric: auroc, margin: 0.1, bundle_floor: .nan}]", "a limit must be finite"),
        ("non_inferiority: [{metric: auroc, margin: 0.1, subgroup: sex}]", "none of the policy's subgroups"),
        (ENTRY + "subgroups: [{column: age, cuts: [70, 50]}]\n", "they must rise"),
        (ENTRY + "subgroups: [{column: age, when_too_few: skip}]\n", "one of inconclusive, named"),
        (ENTRY + "budget: {p50_ms: .inf}\n", "a limit must be finite"),
        (ENTRY + "budget: {p50_ms: fast}\n", "budget: p50_ms is 'fast'.*0.02"),
        (ENTRY + "budget: {p50_ms: }\n", "p50_ms is empty"),
        (ENTRY + "budget: {size_bytes: 2.5}\n", "whole number"),
        (ENTRY + "budget: {min_speedup: 0}\n", "budget.min_speedup is 0"),
        (ENTRY + "fidelity: {min_agreement: 95}\n", "a share is at most 1"),
        ("non_inferiority: [{metric: auroc, margin: 0}]", "margin is 0"),
        ("non_inferiority: [{metric: auroc, margin: .nan}]", "margin is nan; a limit must be finite"),
        ("non_inferiority: []", "at least one non_inferiority"),
        ("alpha: 0.1", "lacks 'non_inferiority'"),
        (ENTRY + "alpha: 0.5\n", "alpha is 0.5"),
        (ENTRY + "resamples: 10\n", "at least 1000"),
        (ENTRY + "resamples: 2000000000\n", "at most 100000"),
        (ENTRY + "resamples: 1" + "0" * 30 + "\n", "at most 100000"),
        (ENTRY + "min_positives: 0\n", "at least 2"),
        (ENTRY + ENTRY, "given twice"),
        ("non_inferiority: [{metric: f1, margin: 0.1}, {metric: f1, margin: 0.2}]", "asks twice for f1"),
        ("[1, 2", "is not YAML"),
        *((f"alpha: {value}", "is not YAML") for value in ODD_SCALARS),
        ("just words", "must be a table"),
        ("", "must be a table"),
        ("!!python/object/apply:os.system ['true']", "is not YAML"),
        (ENTRY + "budget: {p50_ms: fast}\n", "budget: p50_ms"),
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


@pytest.mark.parametrize(
    "number", ["0x" + "f" * 100_000, "1" + ":59" * 50_000, "1" * 4000, "0b" + "1" * 70, "1:9.5" * 200]
)
@pytest.mark.parametrize("key", ["seed", "min_clusters", "alpha", "budget: {size_bytes"])
def test_a_number_without_end_is_refused(key: str, number: str) -> None:
    with pytest.raises(InputError, match=r"^policy") as refused:
        parse_policy(f"{ENTRY}{key}: {number}{'}' * ('{' in key)}\n".encode())
    assert len(str(refused.value)) < 400


def test_a_number_that_no_setting_holds_is_refused_as_such() -> None:
    with pytest.raises(InputError, match="the number in line 2 has more than 100 characters; write a shorter one"):
        parse_policy(f"{ENTRY}seed: {10**100}\n".encode())
    assert parse_policy(f"{ENTRY}seed: {(1 << 63) - 1}\n".encode()).policy.seed == (1 << 63) - 1


def test_a_policy_that_nobody_reads_is_refused_before_it_is_judged() -> None:
    entries = [f"{{metric: auroc, margin: 0.02, finding: f{number}}}" for number in range(1001)]
    assert len(parse_policy(f"non_inferiority: [{', '.join(entries[:1000])}]".encode()).policy.non_inferiority) == 1000
    with pytest.raises(InputError, match="non_inferiority has 1001 entries; at most 1000 can be judged"):
        parse_policy(f"non_inferiority: [{', '.join(entries)}]".encode())
    with pytest.raises(InputError, match=r"has \d+ bytes; at most 262144 are read, make it shorter"):
        parse_policy(f"non_inferiority: [{', '.join(entries * 20)}]".encode())


@pytest.mark.parametrize("severities", ["[1.0]", "[true]", "[4]", "['1']"])
def test_a_severity_of_another_type_is_refused_in_one_sentence(severities: str) -> None:
    text = (
        f"non_inferiority: [{{metric: auroc, margin: 0.1}}]\nrobustness: [{{margin: 0.1, severities: {severities}}}]\n"
    )
    with pytest.raises(InputError, match="must be one of 1, 2, 3"):
        parse_policy(text.encode())
