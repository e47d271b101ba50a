"""What is said of plain data that does not fit a struct: every unknown key, and the tags that a union allows."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.strict_json import convert


class Circle(msgspec.Struct, forbid_unknown_fields=True, tag_field="shape", tag="circle"):
    radius: float


class Square(msgspec.Struct, forbid_unknown_fields=True, tag_field="shape", tag="square"):
    side: float


class Style(msgspec.Struct, forbid_unknown_fields=True):
    colour: str = ""


class Loose(msgspec.Struct, frozen=True):
    known: int = 0


class Page(msgspec.Struct, forbid_unknown_fields=True):
    shapes: tuple[Circle | Square, ...] = ()
    first: Circle | Square | None = None
    styles: dict[str, Style] = {}
    loose: Loose = Loose()


def said(value: Any) -> str:
    with pytest.raises(InputError) as refused:
        convert(value, Page, source="page")
    return str(refused.value)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"first": {"shape": "oval"}}, "first.shape is 'oval'; it must be circle or square"),
        ({"first": {"shape": 3}}, "first.shape is 3; it must be circle or square"),
        ({"shapes": [{"shape": "oval", "radius": 1.0}]}, "shapes[0].shape is 'oval'; it must be circle or square"),
        ({"shapes": [{"radius": 1.0}]}, "shapes[0] lacks the key 'shape'; give it, circle or square"),
        ({"shapes": [{"shape": "circle"}]}, "shapes[0] lacks the key 'radius'; give it"),
        ({"shapes": [{"shape": "square", "side": "x"}]}, "shapes[0].side is 'x'; it must be a number"),
        ({"shapes": ["circle"]}, "shapes[0] is 'circle'; it must be a section with the shape circle or square"),
        ({"first": 3}, "first is 3; it must be a section with the shape circle or square, or null"),
    ],
)
def test_a_union_names_the_tag_that_was_given_and_those_it_has(value: Any, message: str) -> None:
    assert said(value) == f"page: {message}"


def test_every_unknown_key_is_named_at_once() -> None:
    message = said(
        {
            "colour": "red",
            "size": 3,
            "shapes": [{"shape": "circle", "radius": 1.0}, {"shape": "square", "side": 2.0, "radius": 1.0}],
            "styles": {"plain": {"color": "red"}, "fine": {"colour": "blue"}},
            "loose": {"more": 1},  # takes what it does not know
        }
    )
    assert message == (
        "page: the file has no key 'colour' or 'size'; its keys are shapes, first, styles and loose; "
        "shapes[1] has no key 'radius'; its keys are side and shape; "
        "styles.plain has no key 'color'; its keys are colour"
    )


def test_of_very_many_unknown_keys_the_first_are_named() -> None:
    message = said({f"key{number}": 1 for number in range(100)})
    assert "'key19' and 80 more; its keys are shapes" in message
    assert "'key20'" not in message
