"""What a student's provenance says of how it was made."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")

from medfm_compress.compress.distillation.distill import lineage

TEACHER = ("fine-tuned teacher",)


@pytest.mark.parametrize(
    ("student", "expected"),
    [
        ((), (*TEACHER, "distilled")),
        (("half as wide",), (*TEACHER, "half as wide", "distilled")),
        ((*TEACHER, "pruned"), (*TEACHER, "pruned", "distilled")),
        (TEACHER, (*TEACHER, "distilled")),
        (("fine-tuned another",), (*TEACHER, "fine-tuned another", "distilled")),
    ],
)
def test_the_teachers_steps_come_first_and_once(student: tuple[str, ...], expected: tuple[str, ...]) -> None:
    assert lineage(TEACHER, student, "distilled") == expected


def test_a_step_that_reads_like_an_earlier_one_is_kept() -> None:
    """Recovery after a second cut may end with the same score, word for word, as after the first."""
    student = (*TEACHER, "pruned", "distilled", "pruned")
    assert lineage(TEACHER, student, "distilled") == (*TEACHER, "pruned", "distilled", "pruned", "distilled")
