"""Cut train, val and test by patient, stratified by label, seeded.

Cases that share a patient, or whose stored images are identical, form a group; a group goes to one split as a whole.
Groups are dealt label by label (a group's label is its rarest), shuffled, each to the split that lacks most cases. Of a
multi-label study, combinations of findings are dealt, of a segmentation study combinations of structures that an image
shows; rare ones together. What nobody drew is set apart as ``unlabelled``. Of an anomaly study, whose abnormal cases
teach nothing, a new test split gets every group that has one.
"""

from __future__ import annotations

from collections import defaultdict

import msgspec
import numpy as np

from medfm_compress.data.fingerprint import content_hashes
from medfm_compress.data.labels import LEARNED, check_classes
from medfm_compress.data.normal_labels import is_normal
from medfm_compress.data.study import Case, Study
from medfm_compress.runtime.errors import StudyError

_RARE_GROUPS = 20


class SplitPlan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How to cut.

    Attributes:
        val: fraction of the cases that become val.
        test: fraction of the cases that become test; 0 with ``keep_test``.
        keep_test: leave the test split as it is; val is cut out of all other labelled cases.
        drop_leaking: with ``keep_test``, leave out whatever shares a patient or an image with test.
        seed: of the shuffle; equal seeds give equal splits.
    """

    val: float = 0.1
    test: float = 0.0
    keep_test: bool = True
    drop_leaking: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.val < 1 or not 0 <= self.test < 1 or self.val + self.test >= 1:
            raise StudyError(f"val {self.val} and test {self.test} must be fractions whose sum is below 1, val above 0")
        if self.keep_test and self.test > 0:
            raise StudyError(
                f"keep_test leaves the test split as it is, and test {self.test} cuts a new one; give one of them"
            )
        if not self.keep_test and not self.test:
            raise StudyError(
                f"val {self.val} alone does not say what becomes of the test split: leave the one that the study has "
                "as it is with --keep-test, or cut a new one, e.g. --test 0.2"
            )
        if self.drop_leaking and not self.keep_test:
            raise StudyError("drop_leaking goes with keep_test: splits that are cut anew by patient do not leak")
        if self.seed < 0:
            raise StudyError(f"seed is {self.seed}; it must be 0 or more")


class SplitResult(msgspec.Struct, frozen=True, kw_only=True):
    """What came of it.

    Attributes:
        study: with the new splits.
        dropped: cases that were left out because they leak.
        undrawn: cases of a segmentation study without a mask, which are ``unlabelled`` now.
    """

    study: Study
    dropped: tuple[Case, ...]
    undrawn: tuple[Case, ...] = ()


def split_study(study: Study, plan: SplitPlan) -> SplitResult:
    """Cut splits; cases without a label keep the split they had.

    Raises:
        StudyError: patients that stand in the kept test split and elsewhere, unless they may be dropped; too few cases.
    """
    undrawn = tuple(c for c in study.cases if study.kind == "segmentation" and not c.masks and c.split in LEARNED)
    study = _set_apart(study, undrawn)
    group = _groups(study)
    kept = {c.image for c in study.cases if plan.keep_test and c.split == "test"}
    if plan.keep_test and not kept:
        raise StudyError(f"{study.root} has no test split to keep; give the fraction of a new one")
    fixed = {group[image] for image in kept}
    cut = [c for c in study.cases if c.split in LEARNED and c.target and c.image not in kept]
    leaking = tuple(c for c in cut if group[c.image] in fixed)
    if leaking and not plan.drop_leaking:
        raise StudyError(
            f"{len(leaking)} images outside the test split share a patient or an image with it; drop them "
            "(--drop-leaking) or cut a new test split"
        )
    dropped = {c.image for c in leaking}
    dealt = [c for c in cut if c.image not in dropped]
    if study.normal and not plan.keep_test:
        tested = {group[c.image] for c in dealt if not is_normal(c)}
        assigned = _deal([c for c in dealt if group[c.image] not in tested], group, plan)
        assigned |= {c.image: "test" for c in dealt if group[c.image] in tested}
    else:
        assigned = _deal(dealt, group, plan)
    cases = tuple(
        msgspec.structs.replace(case, split=assigned.get(case.image, case.split))
        for case in study.cases
        if case.image not in dropped
    )
    result = msgspec.structs.replace(study, cases=cases)
    check_classes(result)
    return SplitResult(study=result, dropped=leaking, undrawn=undrawn)


def _set_apart(study: Study, cases: tuple[Case, ...]) -> Study:
    images = {case.image for case in cases}
    return msgspec.structs.replace(
        study,
        cases=tuple(
            msgspec.structs.replace(case, split="unlabelled") if case.image in images else case for case in study.cases
        ),
    )


def _groups(study: Study) -> dict[str, int]:
    """Image → number of its group: connected components over shared patients and shared contents."""
    hashes = content_hashes(study.source, [case.image for case in study.cases])
    parent: dict[str, str] = {}

    def root(key: str) -> str:
        parent.setdefault(key, key)
        while parent[key] != key:
            parent[key] = parent[parent[key]]
            key = parent[key]
        return key

    for case, content in zip(study.cases, hashes, strict=True):
        parent[root(f"content:{content}")] = root(f"cluster:{case.cluster}")
    numbers: dict[str, int] = {}
    return {c.image: numbers.setdefault(root(f"cluster:{c.cluster}"), len(numbers)) for c in study.cases}


def _deal(cases: list[Case], group: dict[str, int], plan: SplitPlan) -> dict[str, str]:
    members: dict[int, list[Case]] = defaultdict(list)
    for case in cases:
        members[group[case.image]].append(case)
    frequency: dict[tuple[int, ...], int] = defaultdict(int)
    for case in cases:
        frequency[case.target] += 1
    strata: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for number, part in members.items():
        strata[min((c.target for c in part), key=lambda target: (frequency[target], target))].append(number)
    generator = np.random.Generator(np.random.PCG64(plan.seed))
    # A combination of findings that is rarer than the smallest share can hold would always go to train.
    rare = [target for target, numbers in strata.items() if len(target) > 1 and len(numbers) < _RARE_GROUPS]
    if rare:
        strata[()] = [number for target in sorted(rare) for number in strata.pop(target)]
    shares = {"train": 1 - plan.val - plan.test, "val": plan.val, "test": plan.test}
    assigned: dict[str, str] = {}
    for _, numbers in sorted(strata.items()):
        have = dict.fromkeys(shares, 0)
        total = sum(len(members[n]) for n in numbers)
        for n in generator.permutation(np.array(numbers)):
            split = max(shares, key=lambda name: (shares[name] * total - have[name], name))
            have[split] += len(members[int(n)])
            assigned.update({case.image: split for case in members[int(n)]})
    for name, share in shares.items():
        if share > 0 and name not in assigned.values():
            raise StudyError(f"too few patients to give split {name!r} a share of {share:g}")
    return assigned
