"""The page in a browser, by clicking; skipped where Chromium is not installed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

import node_scene
from chromium import Browser, Tab, chromium
from page_scene import Client, bomb, png, served

from medfm_compress.runtime.engine import Engine
from medfm_compress.runtime.page.server import PageServer

SCRIPT = "<script>document.title='taken'</script><img src=x onerror=alert(1)>"
TAB, ENTER, SPACE = ("Tab", 9), ("Enter", 13), (" ", 32)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with chromium(tmp_path_factory.mktemp("profile")) as started:
        yield started


@pytest.fixture(scope="module")
def server(engine: Engine) -> Iterator[PageServer]:
    with served(engine) as page:
        yield page


@pytest.fixture
def tab(browser: Browser, server: PageServer) -> Iterator[Tab]:
    opened = browser.open(server.url)
    opened.wait_for("image")
    yield opened
    opened.close()


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "image.png"
    path.write_bytes(png())
    return path


def title(tab: Tab) -> str:
    tab.wait_for("outcome")
    return str(tab.run("document.getElementById('outcome-title').textContent"))


def focus(tab: Tab) -> str:
    return str(tab.run("document.activeElement.id"))


def test_from_the_image_to_the_heat_map(tab, server, engine, image) -> None:
    assert "Research use only, not for diagnosis." in tab.text() and "tests only" in tab.text()
    tab.give(image)
    prediction = engine.predict(image)
    called = prediction.findings["opacity"]
    assert title(tab) == ("Called: opacity" if called else "No finding is called")
    assert f"{prediction.probabilities['opacity']:.3f}" in tab.text() and "operating point 0.500" in tab.text()
    width = tab.run("document.querySelector('.part').style.width")
    assert float(width.rstrip("%")) == pytest.approx(100 * prediction.probabilities["opacity"], abs=0.01)
    assert focus(tab) == "outcome"  # so that a screen reader begins there
    tab.click("#map-start")
    tab.until("!document.getElementById('layer').hidden && document.getElementById('layer').complete")
    assert tab.run("document.getElementById('layer').naturalWidth") == 32
    assert tab.run("document.getElementById('map-words').textContent.length > 20")
    assert tab.complaints() == []
    assert all(url.startswith((server.address, f"blob:{server.address}")) for url in tab.requested())


def test_neither_address_nor_title_nor_storage_tell_anything(tab, server, image) -> None:
    tab.give(image.rename(image.with_name("Zzyzx^Quentin.png")))
    tab.wait_for("outcome")
    assert "Zzyzx" in tab.text()
    assert tab.run("location.href") == server.address and tab.run("document.title") == "medfm-compress"
    assert tab.run("document.cookie + localStorage.length + sessionStorage.length") == "00"
    asked = " ".join(tab.requested())
    assert "Zzyzx" not in asked and Client(server).token not in asked.replace(server.url, "")
    entries = tab.call("Page.getNavigationHistory")["entries"]
    assert not any("token" in entry["url"] for entry in entries)


def test_what_is_dropped_is_read(tab, image) -> None:
    tab.drop(image)
    assert title(tab) in ("Called: opacity", "No finding is called")


def test_a_refusal_takes_the_place_of_the_result_before(tab, image, tmp_path) -> None:
    tab.give(image)
    tab.wait_for("picture")
    (tmp_path / "notes.txt").write_text("no image")
    tab.give(tmp_path / "notes.txt")
    tab.until("document.getElementById('outcome-title').textContent === 'Refused'")
    assert "Not a DICOM, PNG, JPEG, TIFF or BMP image." in tab.text()
    assert not tab.shows("seen") and not tab.shows("map-tools") and "0." not in tab.text()


def test_scripts_in_names_and_tags_are_words(tab, tmp_path) -> None:
    name = tmp_path / "<img src=x onerror=document.title='taken'>.png"
    name.write_bytes(png())
    tab.give(name)
    tab.wait_for("picture")
    assert "<img src=x" in tab.text()
    tagged = tmp_path / "tagged.dcm"
    change = {"PatientName": SCRIPT, "StudyDescription": SCRIPT, "BodyPartExamined": SCRIPT, "Modality": SCRIPT}
    tagged.write_bytes(node_scene.image(1, change=change))
    tab.give(tagged)
    tab.until("!document.getElementById('outcome').hidden && document.body.innerText.includes('tagged.dcm')")
    assert tab.run("document.title") == "medfm-compress" and tab.run("document.querySelectorAll('img').length") == 2


def test_hostile_files_are_refused(tab, tmp_path) -> None:
    (tmp_path / "bomb.png").write_bytes(bomb())
    tab.give(tmp_path / "bomb.png")
    assert title(tab) == "Refused" and "megapixels" in tab.text()
    huge = tmp_path / "huge.dcm"
    with huge.open("wb") as file:
        file.truncate(3 * 10**9)
    before, start = len(tab.requested()), time.monotonic()
    tab.give(huge)
    tab.until("document.getElementById('outcome-title').textContent === 'Not read'")
    assert "3000 MB" in tab.text() and time.monotonic() - start < 10
    assert len(tab.requested()) == before  # it was never sent


def test_by_the_keyboard_alone(browser, engine, image) -> None:
    with served(engine) as server:  # where nobody has a session yet
        tab = browser.open(server.address)
        tab.wait_for("login")
        tab.until("document.activeElement.id === 'token'")
        tab.type("wrong" * 8)
        tab.press(*ENTER, text="\r")
        tab.wait_for("login-error")
        tab.run("document.getElementById('token').select()")
        tab.type(Client(server).token)
        tab.press(*ENTER, text="\r")
        tab.wait_for("image")
        reached = []
        for _ in range(6):
            tab.press(*TAB)
            reached.append(focus(tab))
        assert "file" in reached and "log-out" in reached
        tab.give(image)  # what the system's own dialogue does
        tab.wait_for("picture")
        tab.until("document.activeElement.id === 'outcome'")
        for _ in range(12):
            tab.press(*TAB)
            if focus(tab) == "map-start":
                break
        assert focus(tab) == "map-start"
        outline = tab.run("getComputedStyle(document.activeElement).outlineStyle")
        assert outline == "solid"
        tab.press(*SPACE, text=" ")
        tab.until("!document.getElementById('layer').hidden")
        tab.close()


def test_a_heat_map_can_be_cancelled(browser, engine, image, monkeypatch) -> None:
    logits = Engine.logits

    def slow(self, tensor):
        time.sleep(0.05)
        return logits(self, tensor)

    monkeypatch.setattr(Engine, "logits", slow)
    with served(engine) as server:
        tab = browser.open(server.url)
        tab.wait_for("image")
        tab.give(image)
        tab.wait_for("map-start")
        tab.click("#map-start")
        tab.until("document.getElementById('map-progress').value > 0")
        tab.click("#map-cancel")
        tab.until("document.getElementById('map-words').textContent === 'Cancelled.'")
        end = time.monotonic() + 10
        while server.page.desk.running_maps and time.monotonic() < end:
            time.sleep(0.01)
        assert server.page.desk.running_maps == 0 and tab.shows("map-start")
        tab.close()


LUMINANCE = """
(() => {
  const parse = (c) => c.match(/[\\d.]+/g).map(Number);
  const lum = ([r, g, b]) => [r, g, b].map((v) => v / 255).map((v) => v <= 0.03928 ? v / 12.92
    : ((v + 0.055) / 1.055) ** 2.4).reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = (e) => { for (; e; e = e.parentElement) { const c = parse(getComputedStyle(e).backgroundColor);
    if (c.length < 4 || c[3] > 0) return c; } return [255, 255, 255]; };
  const bad = [];
  for (const e of document.querySelectorAll('body *')) {
    const own = [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
    if (!own || !e.checkVisibility() || e.closest('.unseen, .skip, :disabled')) continue;
    const [a, b] = [lum(parse(getComputedStyle(e).color)), lum(ground(e))].sort((x, y) => y - x);
    if ((a + 0.05) / (b + 0.05) < 4.5) bad.push([e.textContent.trim().slice(0, 40), (a + 0.05) / (b + 0.05)]);
  }
  return bad;
})()
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_light_and_dark_have_the_contrast_that_wcag_asks_for(tab, image, scheme) -> None:
    tab.scheme(scheme)
    assert tab.run(LUMINANCE) == []
    tab.give(image)
    tab.wait_for("picture")
    assert tab.run(LUMINANCE) == []
    ground = tab.run("getComputedStyle(document.documentElement).backgroundColor")
    assert (ground == "rgb(255, 255, 255)") == (scheme == "light")


@pytest.mark.parametrize("width", [360, 768, 1280])
def test_nothing_is_cut_off_on_small_screens(tab, image, width) -> None:
    tab.size(width, 900)
    tab.give(image)
    tab.wait_for("picture")
    assert tab.run("document.documentElement.scrollWidth") <= width
    small = tab.run(
        "[...document.querySelectorAll('button, select')].filter((e) => e.checkVisibility() && "
        "e.getBoundingClientRect().height < 44).map((e) => e.id)"
    )
    assert small == []


def test_two_tabs_with_two_bundles(browser, engine, tab, image) -> None:
    with served(engine) as second:
        other = browser.open(second.url)
        other.wait_for("image")
        for opened in (tab, other):
            opened.give(image)
            opened.wait_for("picture")
        other.run("document.getElementById('log-out').click()")
        other.wait_for("login")
        tab.give(image)
        tab.wait_for("picture")
        assert tab.run(f"fetch('{second.address}api/page').then(() => 'answered', () => 'blocked')") == "blocked"
        other.close()
