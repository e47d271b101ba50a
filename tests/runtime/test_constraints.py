"""Bounds and choices stand in annotations, and hold for a struct that is constructed as for one that is decoded."""

from __future__ import annotations

import re
from typing import Annotated, Literal

import msgspec
import pytest
from msgspec import Meta

from medfm_compress.runtime.constraints import check, fields, read_annotation
from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.strict_json import convert


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    rounds: Annotated[int, Meta(ge=1, le=1_000_000)] = 3
    share: Annotated[float, Meta(gt=0, lt=1, examples=[0.5])] | None = None
    mode: Literal["", "fast", "slow"] = ""
    weights: dict[str, Annotated[float, Meta(gt=0)]] = {}
    names: tuple[Literal["a", "b", "c"], ...] = ()

    def __post_init__(self) -> None:
        check(self)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"rounds": 0}, "rounds is 0; it must be 1 to 1000000"),
        ({"share": 1.0}, "share is 1.0; it must be above 0 and below 1, e.g. 0.5"),
        ({"share": float("nan")}, "share is nan; it must be above 0"),
        ({"weights": {"x": float("inf")}}, "weights is inf; it must be a finite number, above 0"),
        ({"mode": "quick"}, "mode is 'quick'; it must be fast or slow"),
        ({"weights": {"x": 0.0}}, "weights is 0.0; it must be above 0"),
        ({"names": ("a", "d")}, "names is 'd'; it must be a, b or c"),
    ],
)
def test_a_constructed_struct_is_refused_in_one_sentence(change: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        Settings(**change)  # type: ignore[arg-type]
    with pytest.raises(InputError):
        convert(msgspec.to_builtins(change), Settings, source="settings")


def test_a_decoded_value_is_refused_with_its_path_and_what_is_allowed() -> None:
    class Recipe(msgspec.Struct):
        settings: Settings
        name: str = ""

    for change, words in (
        ({"rounds": -1}, "recipe: settings.rounds is -1; it must be 1 to 1000000"),
        ({"mode": "quick"}, "recipe: settings.mode is 'quick'; it must be fast or slow"),
        ({"rounds": "many"}, "recipe: settings.rounds is 'many'; it must be a whole number"),
    ):
        with pytest.raises(InputError, match=f"^{re.escape(words)}"):
            convert({"settings": change}, Recipe, source="recipe")


def test_what_is_allowed_is_accepted() -> None:
    Settings(rounds=1, share=0.1, mode="fast", weights={"x": 2.0}, names=("a", "c"))
    assert fields(Settings)["share"].optional and fields(Settings)["names"].container == "tuple"


def test_a_field_of_several_kinds_bounds_nothing() -> None:
    field = read_annotation(int | float | tuple[int, ...])
    assert not field.optional and not field.allowed()
    assert read_annotation(int | str | None).optional
