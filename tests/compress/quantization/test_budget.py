"""The budget of a search counts work, says how much of it is left, and ends on a machine that never gives any."""

from __future__ import annotations

from medfm_compress.compress.quantization.budget import Budget


class Clock:
    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


def test_what_is_left_is_said_until_nothing_is() -> None:
    work, wall = Clock(), Clock()
    budget = Budget(300.0, work, wall)
    assert budget.left_in_words() == "5 min of 5 min"
    work.seconds += 240
    assert (budget.left_in_words(), budget.exhausted()) == ("60 s of 5 min", "")
    work.seconds += 100
    assert budget.left_in_words() == "0 s of 5 min"
    assert budget.exhausted() == "the time budget was used up"


def test_waiting_is_no_work_but_ends_too() -> None:
    work, wall = Clock(), Clock()
    budget = Budget(60.0, work, wall)
    wall.seconds += 299
    assert (budget.left_in_words(), budget.exhausted()) == ("60 s of 60 s", "")
    wall.seconds += 1
    assert budget.exhausted().startswith("the machine was too busy")
