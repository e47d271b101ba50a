"""What `check_study` says of a study's table, without an image being read."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

from medfm_compress.data.identifiers import identifying
from medfm_compress.data.labels import LEARNED, class_counts
from medfm_compress.data.normal_labels import normal_cases
from medfm_compress.data.study import Study
from medfm_compress.data.written_forms import normal_form, similar_forms

_FEW_CASES = 50
_FEW_PER_CLASS = 10
_FEW_EXAMPLES = 3
_FEW_FORMS = 4


def class_sizes(study: Study, split: str) -> dict[str, int]:
    """Cases of each label in one split, in the order of the labels."""
    counts = class_counts(study, split)
    return {label: counts[label] for label in study.labels}


def identifying_reason(study: Study, column: str) -> str:
    """Why a subgroup column may identify patients; empty where nothing says so."""
    return identifying(column, [case.subgroups.get(column, "") for case in study.cases])


def what_cannot_be_learned(study: Study) -> Iterator[str]:
    """Labels that no case of train has, and findings that all of them have."""
    train = study.split("train")
    if not train or study.kind == "anomaly":  # of which opening it made sure
        return
    counts = class_sizes(study, "train")
    untrained = [label for label, count in counts.items() if not count]
    if untrained:
        yield f"train has no case of {', '.join(map(repr, untrained))}, which can therefore not be learned"
    # Of a segmentation every image may show a structure: it is learned from where in them it is.
    whole = study.independent and study.kind != "segmentation"
    always = [label for label, count in counts.items() if count == len(train) and whole]
    if always:
        yield f"every case of train has {', '.join(map(repr, always))}, which can therefore not be learned"


def remarks_on(study: Study) -> Iterator[str]:
    """One sentence for each thing worth knowing."""
    suspects = {name: reason for name in study.subgroup_names() if (reason := identifying_reason(study, name))}
    if suspects:
        named = "; ".join(f"{name!r} ({reason})" for name, reason in suspects.items())
        yield (
            f"may identify patients: {named}. 'study split' copies such columns into its table; no model, bundle or "
            "report holds them, unless a policy divides patients by them"
        )
    if study.mask_columns and not study.normal:
        yield (
            f"the masks of {', '.join(map(repr, study.mask_columns))} were not looked at; --structure NAME, once for "
            "each structure that they show, makes it a segmentation study"
        )
    if not study.labels:
        yield "no labels: nothing can be trained or evaluated on this study"
    yield from study.remarks
    yield from _patient_remarks(study)
    yield from (
        f"no {split} cases; cut them with 'medfm-compress study split'"
        for split in LEARNED
        if study.labels and not study.split(split)
    )
    yield from _group_remarks(study)
    yield from _small_splits(study)


def _patient_remarks(study: Study) -> Iterator[str]:
    unknown = sum(not case.patient_key for case in study.cases)
    if unknown == len(study.cases):
        yield "no patient column: each image counts as a patient of its own, and shared patients cannot be noticed"
        return
    if unknown:
        yield (
            f"{unknown} of {len(study.cases)} images have no patient: each counts as a patient of its own, and shared "
            "patients cannot be noticed among them"
        )
    several = _written_in_several_ways(case.patient for case in study.cases)
    if several:
        yield (
            f"{len(several)} patient(s) are written in several ways and count as one each: {_examples(several)}; if "
            "one of them is two people, give their keys a difference other than case, spaces, quotes, Unicode form, "
            "'.0' or leading zeros"
        )
    padded = [forms for forms in several if len({len(form) for form in forms if form.isdecimal()}) > 1]
    if padded:
        yield (
            f"look at {_examples(padded)}: where numbers with leading zeros come from another system than those "
            "without, they may be different people"
        )
    yield from _similar_patients(study)


def _similar_patients(study: Study) -> Iterator[str]:
    """Patient keys that may be one patient's and are not taken for it, with how many of them splits share."""
    groups = similar_forms(case.patient for case in study.cases)
    if not groups:
        return
    splits: dict[str, set[str]] = defaultdict(set)
    for case in study.cases:
        splits[case.patient_key].add(case.split)
    across = [group for group in groups if len(set.union(*(splits[key] for key in group)) & set(LEARNED)) > 1]
    where = f", {len(across)} of them in several splits, which would be leakage" if across else ""
    yield (
        f"{len(groups)} groups of patient keys differ in punctuation, zeros, accents or letters that look alike, and "
        f"in nothing else{where}: "
        f"{_examples(across or groups)}; they count as different patients, so write one patient's key in one way"
    )


def _group_remarks(study: Study) -> Iterator[str]:
    unrecorded = {name: sum(not case.subgroups.get(name) for case in study.cases) for name in study.subgroup_names()}
    partly = [f"{name!r} of {count} cases" for name, count in unrecorded.items() if 0 < count < len(study.cases)]
    if partly:
        yield f"not recorded: {', '.join(partly)}; they are in no group"
    for name in study.subgroup_names():
        alike = _written_in_several_ways(case.subgroups.get(name, "") for case in study.cases)
        if alike and not identifying_reason(study, name):
            yield f"{name!r} has groups that differ only in writing: {_examples(alike)}; write them alike"


def _small_splits(study: Study) -> Iterator[str]:
    for split in ("val", "test"):
        cases, sizes = study.split(split), class_sizes(study, split)
        if not cases or not study.labels:
            continue
        if study.normal:
            normal = len(normal_cases(study, split))
            sizes = {"normal": normal} if split == "val" else {"normal": normal, **sizes}
        if len(cases) < _FEW_CASES or min(sizes.values()) < _FEW_PER_CLASS:
            smallest = min(sizes, key=lambda label: sizes[label])
            yield (
                f"{split} has {len(cases)} images and {sizes[smallest]} of {smallest!r}: too few to choose or to prove "
                "anything; cut a larger one with 'medfm-compress study split'"
            )


def _written_in_several_ways(texts: Iterable[str]) -> list[list[str]]:
    """The different ways in which one thing is written, for each thing that has several."""
    written: dict[str, dict[str, None]] = defaultdict(dict)
    for text in texts:
        written[normal_form(text)][text] = None
    return [list(forms) for key, forms in written.items() if key and len(forms) > 1]


def _examples(groups: Sequence[Sequence[str]]) -> str:
    """The first few groups of ways to write one thing; quoted so that spaces and invisible characters show."""
    shown = [" and ".join(map(ascii, forms[:_FEW_FORMS])) for forms in groups[:_FEW_EXAMPLES]]
    return "; ".join(shown) + (" …" if len(groups) > _FEW_EXAMPLES else "")
