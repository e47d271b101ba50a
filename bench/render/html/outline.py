"""The report's table of contents, in the order of a predetermined change control plan.

The three parts are those that the FDA recommends (Marketing Submission Recommendations for a Predetermined Change
Control Plan for Artificial Intelligence-Enabled Device Software Functions, December 2024): description of
modifications, modification protocol, impact assessment.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from medfm_compress.runtime.task import Task

Key = Literal[
    "change", "protocol", "cases", "checks", "groups", "robustness", "flips", "accuracy", "curves", "calibration",
    "explanations", "speed", "tradeoff", "limits", "candidates", "provenance", "reading", "masks", "lesions",
]  # fmt: skip


class Part(NamedTuple):
    """One part: its name in the plan, what it answers, and its sections' keys and titles."""

    name: str
    question: str
    sections: tuple[tuple[Key, str], ...]


OUTLINE: tuple[Part, ...] = (
    Part("Description of modifications", "What was changed?", (("change", "From teacher to bundle"),)),
    Part(
        "Modification protocol",
        "How was it tested?",
        (("protocol", "What was required, and how it was judged"), ("cases", "The cases")),
    ),
    Part(
        "Impact assessment",
        "What follows from it?",
        (
            ("checks", "Every requirement, and what was found"),
            ("groups", "Findings and groups of patients against the margin"),
            ("robustness", "Perturbed images"),
            ("flips", "Decisions that changed"),
            ("accuracy", "Accuracy against the teacher"),
            ("curves", "Discrimination and decisions"),
            ("calibration", "Can the probabilities be believed?"),
            ("explanations", "Where the models look"),
            ("speed", "Speed, memory and size"),
            ("tradeoff", "Speed against accuracy"),
            ("limits", "Residual risk and limits"),
        ),
    ),
    Part(
        "Appendix",
        "On what does it rest?",
        (
            ("candidates", "Tried and not shipped"),
            ("provenance", "Identities and machine"),
            ("reading", "How to read this report"),
        ),
    ),
)


_OF_MASKS: dict[Key, tuple[Key, str]] = {
    "curves": ("masks", "Overlap with the truth, case by case"),
    "calibration": ("lesions", "Lesions found, lost and made up"),
    "flips": ("flips", "Structures lost or invented"),
}
"""Section → what stands in its place where the network answers for every pixel."""


def outline_of(task: Task) -> tuple[Part, ...]:
    """The outline of a report on ``task``."""
    if not task.is_dense:
        return OUTLINE
    return tuple(
        part._replace(sections=tuple(_OF_MASKS.get(key, (key, title)) for key, title in part.sections))
        for part in OUTLINE
    )


def number(key: Key) -> int:
    """Number of a section, counted through all parts from 1; one that stands in another's place has its number."""
    places = {instead: replaced for replaced, (instead, _) in _OF_MASKS.items()}
    keys = [section for part in OUTLINE for section, _ in part.sections]
    return keys.index(places.get(key, key)) + 1
