"""The sensitivity page: worst groups first, chosen widths marked, nothing fetched or executed, any number of groups."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import msgspec
import pytest

pytest.importorskip("torch")

from medfm_compress.bench.render.html.pruning_sensitivity import (
    SENSITIVITY_HTML,
    SENSITIVITY_JSON,
    render_sensitivity,
    write_sensitivity,
)
from medfm_compress.bench.types.sensitivity import SensitivityCurve, SensitivityPoint, SensitivityReport
from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.strict_json import decode

SVG_PARTS = {"svg", "g", "rect", "line", "text", "path", "circle", "polyline"}
VOID = {"meta", "br"}


class Page(HTMLParser):
    """Tags, texts and attributes; refuses tags that do not match."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(content)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.texts.append(data)

    def count(self, style: str) -> int:
        return sum(style in (attributes.get("class") or "").split() for _, attributes in self.tags)


def curve(number: int, *, worst: float = 0.2, score: bool = False, kind: Any = "channels") -> SensitivityCurve:
    if kind == "block":
        point = SensitivityPoint(kept=0, error=worst, score=0.9 if score else None)
        return SensitivityCurve(name=f"stage.{number}", kind=kind, width=1, points=(point,), chosen=1)
    points = tuple(
        SensitivityPoint(
            kept=kept,
            error=worst * ((64 - kept) / 32) ** 2,
            score=0.95 - worst * (64 - kept) / 400 if score else None,
            removed_ms=(64 - kept) / 100,
        )
        for kept in (48, 32, 16)
    )
    return SensitivityCurve(name=f"layer.{number}", kind=kind, width=64, points=points, chosen=32 if number % 2 else 64)


def report(curves: tuple[SensitivityCurve, ...], score: float | None = None) -> SensitivityReport:
    return SensitivityReport(
        model="small",
        target="openvino:cpu:fp32:1",
        metric="relative logit error on val",
        cases=64,
        curves=curves,
        allocation="least error for each millisecond",
        score=score,
        cost="ms",
        cost_before=12.5,
        cost_after=8.0,
    )


def mixed(score: bool = False) -> SensitivityReport:
    kinds = ("channels", "channels", "heads", "embedding", "block")
    curves = tuple(
        curve(number, worst=0.05 * (number + 1), score=score, kind=kind) for number, kind in enumerate(kinds)
    )
    return report(curves, 0.95 if score else None)


def test_the_worst_group_comes_first_everywhere() -> None:
    sensitivity = mixed()
    assert [group.name for group in sensitivity.ranked()] == ["stage.4", "layer.3", "layer.2", "layer.1", "layer.0"]
    content = render_sensitivity(sensitivity)
    assert "1. stage.4" in content and "5. layer.0" in content
    table = content[content.index("<tbody>") :]
    places = [table.index(group.name) for group in sensitivity.ranked()]
    assert places == sorted(places)


def test_half_is_the_nearest_width_that_was_tried() -> None:
    channels = curve(0)
    assert channels.half.kept == 32
    heads = msgspec.structs.replace(
        channels,
        width=3,
        chosen=3,
        kind="heads",
        points=tuple(SensitivityPoint(kept=kept, error=1 / (kept + 1)) for kept in (2, 1)),
    )
    assert heads.half.kept == 1
    assert curve(0, kind="block").half.kept == 0


def test_chosen_widths_are_marked_and_whole_groups_look_different() -> None:
    page = Page(render_sensitivity(mixed()))
    assert page.count("chosen") == 5 and page.count("whole") == 3
    assert page.count("pick") == 5
    assert "33.3%" not in "".join(page.texts) and "".join(page.texts).count("50.0%") == 2


def test_the_cost_left_is_told_in_a_readable_unit() -> None:
    sensitivity = report((curve(0),))
    assert "12.5 → 8 ms" in render_sensitivity(sensitivity) and "64.0%" in render_sensitivity(sensitivity)
    macs = msgspec.structs.replace(sensitivity, cost="MACs", cost_before=4.1e9, cost_after=1.6e9)
    assert "4,100 M → 1,600 M MACs" in render_sensitivity(macs)
    assert "Cost left" not in render_sensitivity(msgspec.structs.replace(sensitivity, cost=""))


def test_milliseconds_have_a_column_only_where_they_are_known() -> None:
    assert "Saves at chosen, ms" in render_sensitivity(mixed())
    blocks = report((curve(0, kind="block"),))
    assert "Saves at chosen, ms" not in render_sensitivity(blocks)


def test_darker_is_worse() -> None:
    page = Page(render_sensitivity(report((curve(0, worst=0.001), curve(1, worst=4.0)))))
    cells = [
        attributes["class"] for tag, attributes in page.tags if tag == "rect" and "cell" in (attributes["class"] or "")
    ]
    assert cells == ["cell h0"] * 4 + ["cell h0", "cell h5", "cell h5", "cell h5"]


def test_auroc_is_drawn_only_where_it_was_measured() -> None:
    without, with_it = (render_sensitivity(mixed(score)) for score in (False, True))
    assert "Loss of AUROC" not in without and "Loss of AUROC" in with_it
    assert Page(with_it).count("cell") == 2 * Page(without).count("cell")
    assert Page(without).count("score") == 0 and Page(with_it).count("score") > 0


@pytest.mark.parametrize("count", [1, 150])
def test_any_number_of_groups_is_drawn_inside_its_frame(count: int) -> None:
    sensitivity = report(tuple(curve(number, worst=0.002 * (number + 1), score=True) for number in range(count)), 0.95)
    content = render_sensitivity(sensitivity)
    page = Page(content)
    assert page.count("cell") == 2 * 4 * count
    assert content.count('<tr><th scope="row" class="text">layer.') == count
    assert len(content) < 600_000
    drawings = [part for part in content.split("<svg")[1:] if 'class="strip"' in part]
    assert len(drawings) == math.ceil(count / 45)
    for drawing in drawings:
        root = ET.fromstring("<svg" + drawing[: drawing.index("</svg>")] + "</svg>")
        width, height = float(root.attrib["width"]), float(root.attrib["height"])
        for part in root.iter():
            assert part.tag in SVG_PARTS
            if part.tag in {"rect", "text"}:
                x, y = float(part.attrib["x"]), float(part.attrib["y"])
                assert x >= 0 and x + float(part.attrib.get("width", 0)) <= width and 0 <= y <= height


def test_the_page_needs_nothing_and_runs_nothing() -> None:
    page = Page(render_sensitivity(mixed(score=True)))
    tags = {tag for tag, _ in page.tags}
    assert not tags & {"script", "img", "link", "iframe", "a", "object"}
    names = {name for _, attributes in page.tags for name in attributes}
    assert not {name for name in names if name.startswith("on")} | (names & {"src", "href", "style"})
    policy = next(dict(attributes) for _, attributes in page.tags if "http-equiv" in attributes)
    assert policy["content"] == "default-src 'none'; style-src 'unsafe-inline'"


def test_names_are_escaped() -> None:
    bad = msgspec.structs.replace(curve(0), name='<script>alert("x")</script>')
    content = render_sensitivity(msgspec.structs.replace(report((bad,)), model="<b>&", metric="<i>"))
    assert "<script" not in content and "<b>&" not in content and "<i>" not in content
    assert "&lt;script&gt;" in content


def test_both_files_are_written_and_the_json_reads_back(tmp_path: Path) -> None:
    sensitivity = mixed(score=True)
    page, data = write_sensitivity(sensitivity, tmp_path / "out")
    assert (page.name, data.name) == (SENSITIVITY_HTML, SENSITIVITY_JSON)
    assert page.read_text("utf-8") == render_sensitivity(sensitivity)
    assert decode(data.read_bytes(), SensitivityReport, source="sensitivity.json") == sensitivity


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"points": ()}, "were tried"),
        ({"points": (SensitivityPoint(kept=64, error=0.1),)}, "different ones from 0 to 63"),
        ({"points": (SensitivityPoint(kept=8, error=0.1), SensitivityPoint(kept=8, error=0.2))}, "different ones"),
        ({"points": (SensitivityPoint(kept=8, error=math.nan),)}, "must be >= 0"),
        ({"points": (SensitivityPoint(kept=8, error=-0.1),)}, "must be >= 0"),
        ({"chosen": 65}, "must be 0 to 64"),
    ],
)
def test_impossible_curves_are_refused(change: dict[str, Any], complaint: str) -> None:
    fields = {name: getattr(curve(0), name) for name in ("name", "kind", "width", "points", "chosen")}
    with pytest.raises(InputError, match=complaint):
        SensitivityCurve(**{**fields, **change})


def test_a_report_without_groups_is_refused() -> None:
    with pytest.raises(InputError, match="at least one group"):
        report(())
