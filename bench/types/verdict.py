"""`Verdict`: pass, fail or inconclusive, with the checks that it rests on."""

from __future__ import annotations

import msgspec

from medfm_compress.runtime.bundle.manifest import Outcome


class Check(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One line of a verdict."""

    name: str
    outcome: Outcome
    reason: str


class VariantVerdict(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All checks of one variant and what follows from them."""

    variant: str
    outcome: Outcome
    checks: tuple[Check, ...]


class Verdict(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The answer: pass only if every shipped variant passes.

    ``notes`` is what a reader must know beside the outcome, e.g. that the policy changed after the evaluation.
    """

    outcome: Outcome
    variants: tuple[VariantVerdict, ...]
    policy_sha256: str
    model_digest: str
    notes: tuple[str, ...] = ()
