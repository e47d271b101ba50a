"""JSON Schema (2020-12) of a policy file, for the editors that complete and check YAML by one.

Keys, types and defaults come from the types, descriptions from their docstrings; the ranges stand here, because the
types check them in code. ``docs/policy.schema.json`` is its output.
"""

from __future__ import annotations

import inspect
import re
from typing import Any

import msgspec

from medfm_compress.bench.types.metric import ALL_METRICS, REPORTED_ONLY, UNBOUNDED
from medfm_compress.bench.types.policy import MOST_RESAMPLES, Policy

DIALECT = "https://json-schema.org/draft/2020-12/schema"
_TITLES = {
    "Policy": "Policy of medfm-compress gate",
    "NonInferiority": "Required comparison",
    "Budget": "Budget",
    "FidelityLimits": "Fidelity limits",
    "ExplanationLimits": "Limits on the agreement of heat maps",
    "SubgroupRule": "Subgroup rule",
    "Robustness": "Required comparison on perturbed images",
    "MaskRules": "How masks are judged",
}
_SECTIONS = ("budget", "fidelity", "explanations", "subgroups", "robustness", "masks")
_POSITIVE = {"exclusiveMinimum": 0}
_RANGES: dict[tuple[str, str], dict[str, Any]] = {
    ("Policy", "non_inferiority"): {"minItems": 1},
    ("Policy", "min_positives"): {"minimum": 2},
    ("Policy", "min_negatives"): {"minimum": 2},
    ("Policy", "min_clusters"): {"minimum": 2},
    ("Policy", "alpha"): {"exclusiveMinimum": 0, "exclusiveMaximum": 0.5},
    ("Policy", "resamples"): {"minimum": 1000, "maximum": MOST_RESAMPLES},
    ("Policy", "seed"): {"minimum": 0},
    ("NonInferiority", "metric"): {"enum": [metric for metric in ALL_METRICS if metric not in REPORTED_ONLY]},
    ("NonInferiority", "margin"): {"exclusiveMinimum": 0},
    ("NonInferiority", "teacher_floor"): {"minimum": 0},
    ("NonInferiority", "bundle_floor"): {"minimum": 0},
    ("SubgroupRule", "column"): {"minLength": 1},
    ("Robustness", "metric"): {"enum": [metric for metric in ALL_METRICS if metric not in REPORTED_ONLY]},
    ("Robustness", "margin"): {"exclusiveMinimum": 0},
    ("Robustness", "perturbations"): {"uniqueItems": True},
    ("Robustness", "severities"): {"uniqueItems": True},
    ("MaskRules", "surface_tolerance_px"): {"minimum": 0},
    ("MaskRules", "surface_tolerance_mm"): {"minimum": 0},
    ("MaskRules", "lesion_overlap"): {"exclusiveMinimum": 0, "maximum": 1},
    ("MaskRules", "small_lesion_percent"): {"exclusiveMinimum": 0, "maximum": 100},
    ("MaskRules", "lost_below_dice"): {"minimum": 0, "maximum": 1},
    ("FidelityLimits", "max_relative_logit_error"): _POSITIVE,
    ("FidelityLimits", "min_agreement"): {"exclusiveMinimum": 0, "maximum": 1},
    ("ExplanationLimits", "min_rank_correlation"): {"exclusiveMinimum": 0, "maximum": 1},
    ("ExplanationLimits", "min_overlap"): {"exclusiveMinimum": 0, "maximum": 1},
}


_SHARE_BELOW_1 = {
    "if": {"properties": {"metric": {"enum": sorted(UNBOUNDED)}}, "required": ["metric"]},
    "else": {"properties": {"margin": {"exclusiveMaximum": 1}}},
}
_CONDITIONS = {"NonInferiority": _SHARE_BELOW_1, "Robustness": _SHARE_BELOW_1}


def policy_schema() -> dict[str, Any]:
    """The schema, as plain data."""
    _, components = msgspec.json.schema_components([Policy], ref_template="#/$defs/{name}")
    shapes = {name: _described(name, shape) for name, shape in components.items()}
    return {"$schema": DIALECT, **shapes.pop("Policy"), "$defs": shapes}


def describe(docstring: str) -> tuple[str, dict[str, str]]:
    """Split a Google-style docstring into what it says of the whole and of each attribute, markup removed.

    It may be indented as in its file, or not: Python 3.13 and msgspec 0.23 take the indentation away.
    """
    whole, _, rest = inspect.cleandoc(docstring).partition("Attributes:")
    attributes = re.findall(r"^ {4}(\w+): (.+(?:\n {5,}.+)*)", rest, flags=re.MULTILINE)
    return _plain(whole), {name: _plain(text) for name, text in attributes}


def _described(name: str, shape: dict[str, Any]) -> dict[str, Any]:
    whole, attributes = describe(shape["description"])
    properties = {
        key: {"description": attributes[key], **_property(name, key, value)}
        for key, value in shape["properties"].items()
    }
    return {
        **shape,
        "title": _TITLES[name],
        "description": whole,
        "properties": properties,
        **_CONDITIONS.get(name, {}),
    }


def _property(name: str, key: str, value: dict[str, Any]) -> dict[str, Any]:
    """One key's own shape: no null where leaving it out says the same, and its range."""
    kept = {word: entry for word, entry in value.items() if not (word == "default" and entry in (None, "", (), []))}
    if isinstance(kept.get("default"), tuple):
        kept["default"] = list(kept["default"])
    if "anyOf" in kept:
        (only,) = [choice for choice in kept.pop("anyOf") if choice != {"type": "null"}]
        kept |= only
    if name == "Policy" and key in _SECTIONS:  # empty where every line of the section is commented out
        kept.pop("default", None)
        return {"anyOf": [kept, {"type": "null"}]}
    return kept | (_POSITIVE if name == "Budget" else _RANGES.get((name, key), {}))


def _plain(text: str) -> str:
    return " ".join(text.replace("`", "").split())
