"""The templates: everything is escaped, a name that nobody gave is an error, and nothing is loaded at import."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from jinja2 import UndefinedError
from markupsafe import Markup

import medfm_compress.bench.render.html as pages
from medfm_compress.bench.gate.gate import judge
from medfm_compress.bench.render.html.outline import OUTLINE
from medfm_compress.bench.render.html.page import render_html
from medfm_compress.bench.render.html.rendering import _environment, drawing, render
from medfm_compress.bench.render.plots.svg import svg, text

TEMPLATES = sorted(path.name for path in (Path(pages.__file__).parent / "templates").iterdir())
HOSTILE = "<b onclick=\"x('y')\">&\x07\u202e"


@pytest.mark.parametrize("name", TEMPLATES)
def test_every_template_compiles_and_trusts_no_string(name: str) -> None:
    environment = _environment()
    source, _, _ = environment.loader.get_source(environment, name)
    environment.compile(source, name)
    assert "autoescape" not in source
    assert not re.search(r"""(?<!"<br>")\|\s*safe""", source)  # what a template writes itself, and nothing else


def test_every_section_has_a_template() -> None:
    assert {f"{key}.html.j2" for part in OUTLINE for key, _ in part.sections} <= set(TEMPLATES)


@pytest.mark.parametrize("value", [HOSTILE, Markup("{}").format(HOSTILE)])
def test_values_are_escaped_once_and_lose_their_control_characters(value: str) -> None:
    template = _environment().from_string('<p title="{{ value }}">{{ value }}</p>')
    escaped = "&lt;b onclick=&#34;x(&#39;y&#39;)&#34;&gt;&amp;"
    assert template.render(value=value).replace("\x07\u202e", "") == f'<p title="{escaped}">{escaped}</p>'


def test_control_characters_reach_no_page(full: ModuleType) -> None:
    evil = full.hostile_report(full.make_report(), HOSTILE)
    page = render_html(evil, judge(full.make_report()))
    assert "\x07" not in page and "\u202e" not in page
    assert "<b onclick" not in page and "&lt;b onclick" in page


def test_a_drawing_escapes_its_own_texts_and_is_not_escaped_again() -> None:
    plot = drawing(svg(1, 1, HOSTILE, text(0, 0, HOSTILE, "tick"), "curve"))
    template = _environment().from_string("{{ plot }}")
    shown = template.render(plot=plot)
    assert shown.startswith("<svg") and "<b" not in shown
    assert shown.count("&lt;b onclick=") == 2 and "\x07" not in shown


def test_a_name_that_nobody_gave_is_an_error() -> None:
    with pytest.raises(UndefinedError, match="report"):
        render("report.html.j2", {})


def test_importing_the_pages_reads_no_template() -> None:
    program = """
import sys
opened = []
sys.addaudithook(lambda event, arguments: opened.append(str(arguments[0])) if event == "open" else None)
import medfm_compress.bench.render.html.page, medfm_compress.bench.render.html.pruning_sensitivity
print([name for name in opened if name.endswith(".j2")])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
