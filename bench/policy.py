"""Read a policy: what must hold, written down and committed before the test split is touched.

A policy's identity is the sha256 of its file's bytes, comments and all.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from medfm_compress.bench.types import Policy
from medfm_compress.runtime.codec import convert
from medfm_compress.runtime.errors import InputError

TEMPLATE = """\
# What must hold before a bundle ships. Commit this file before any model has seen a test case: the report cites its
# hash, and the gate refuses a policy that changed afterwards.

# Required comparisons: bundle - teacher on the same cases, paired, clustered by patient. Each passes where the lower
# end of its interval lies above -margin. Metrics: auroc, auprc, accuracy, sensitivity, specificity, ppv, …
non_inferiority:
  - metric: auroc
    margin: 0.02
    # finding: pneumonia      # one finding; without it, every finding of the task
    teacher_floor: 0.80       # a poor teacher proves nothing
    # bundle_floor: 0.80

# Hard limits for every variant; leave out what does not bind.
budget:
  # p50_ms: 50                # latency of the network alone, batch 1
  # p99_ms: 100
  # size_bytes: 20000000      # files that one variant needs
  # peak_rss_bytes: 500000000
  # min_speedup: 4.0          # teacher in PyTorch / variant, at p50, on the same number of threads
  # min_compression: 4.0      # teacher's files / variant's files

# Fewer patients than these are inconclusive before any interval is computed.
min_positives: 20
min_negatives: 20
min_clusters: 40

alpha: 0.025                  # one-sided; 0.025 gives two-sided 95% intervals
resamples: 2000
seed: 0
"""


class LoadedPolicy(NamedTuple):
    """A policy and the hex sha256 of the file it came from."""

    policy: Policy
    sha256: str


def load_policy(path: str | Path) -> LoadedPolicy:
    """Read a policy from YAML or JSON.

    Raises:
        InputError: the file cannot be read, is neither, or has an unknown key or a value outside its range.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as exc:
        raise InputError(f"cannot read policy {path}: {exc.strerror}") from None
    return parse_policy(data, source=f"policy {path}")


def parse_policy(data: bytes, *, source: str = "policy") -> LoadedPolicy:
    """Decode the bytes of a policy file, YAML or JSON; raises like :func:`load_policy`."""
    try:
        value = yaml.load(data, Loader=_Strict)  # noqa: S506 (a SafeLoader)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as exc:
        raise InputError(f"{source} is not YAML: {' '.join(str(exc).split())}") from None
    if not isinstance(value, dict):
        raise InputError(f"{source} must be a table of keys; `policy_template()` shows one")
    # An empty section is what remains when every line of it is commented out.
    present = {key: entry for key, entry in value.items() if entry is not None}
    return LoadedPolicy(convert(present, Policy, source=source), hashlib.sha256(data).hexdigest())


def policy_template() -> str:
    """A commented starter policy, YAML."""
    return TEMPLATE


class _Strict(yaml.SafeLoader):
    """SafeLoader that refuses a key given twice instead of keeping the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Construct one mapping; raises ``ConstructorError`` for a repeated key."""
        keys = [key.value for key, _ in node.value]
        twice = sorted({str(key) for key in keys if keys.count(key) > 1})
        if twice:
            problem = f"key {', '.join(twice)} is given twice"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
        return super().construct_mapping(node, deep=deep)
