"""The page asks for the columns of a model, and what it is given reaches the network and no address."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

from page_scene import Client, png, served

from medfm_compress.runtime.engine import Engine
from tests.helpers import node_scene, tiny_columns

GIVEN = {"age": "63", "sex": "female"}


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with Engine(tiny_columns.bundle(tmp_path_factory.mktemp("page") / "columns.medfm"), threads=1) as opened:
        yield opened


@pytest.fixture(scope="module")
def client(engine: Engine) -> Iterator[Client]:
    with served(engine) as page:
        asking = Client(page)
        asking.log_in()
        yield asking


def header(values: object) -> dict[str, str]:
    return {"Medfm_Columns": quote(json.dumps(values))}


def test_the_page_knows_what_to_ask_for(client: Client) -> None:
    age, sex, view = client.get("/api/page").json["columns"]
    assert (age["name"], age["categories"], age["is_needed"], age["dicom"]) == ("age", [], True, "PatientAge")
    assert sex["categories"] == ["female", "male"] and view["allowed"] == "one of AP, PA"
    assert client.get("/columns.js").status == 200


def test_what_is_given_reaches_the_network(client: Client, engine: Engine) -> None:
    answer = client.post("/api/predict", png(), **header(GIVEN)).json
    expected = engine.predict(png(), columns=GIVEN)
    assert answer["findings"][0]["probability"] == expected.probabilities["opacity"]
    assert answer["columns"] == {"age": "argument", "sex": "argument", "view": "imputed"}
    *_, last = client.lines(client.post("/api/heat-map?finding=0", png(), **header(GIVEN)))
    assert last["finding"] == "opacity" and "layer" in last


def test_a_dicom_file_needs_nothing(client: Client) -> None:
    answer = client.post("/api/predict", node_scene.image(change={"ViewPosition": "PA"})).json
    assert answer["columns"]["age"] == "PatientAge"


@pytest.mark.parametrize(
    ("values", "status", "words"),
    [
        ({}, 422, "age is missing"),
        ({"age": "x"}, 422, "give a number"),
        ({"age": "3", "sex": "X"}, 422, "takes female, male"),
        ({"weight": "3"}, 400, "no column 'weight'"),
        (["age"], 400, "reload it"),
        ({"age": {}}, 400, "reload it"),
    ],
)
def test_what_is_refused(client: Client, values: object, status: int, words: str) -> None:
    answer = client.post("/api/predict", png(), **header(values))
    assert answer.status == status and words in answer.json["error"]


def test_in_a_browser(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path, engine: Engine) -> None:
    from chromium import chromium

    path = tmp_path / "image.png"
    path.write_bytes(png())
    with chromium(tmp_path_factory.mktemp("profile")) as browser, served(engine) as page:
        tab = browser.open(page.url)
        tab.wait_for("image")
        assert tab.shows("beside") and "0 to 110 years; or from PatientAge" in tab.text()
        tab.give(path)
        tab.until("document.getElementById('outcome-title').textContent === 'Refused'")
        assert "Age is missing" in tab.text()
        tab.run("document.getElementById('column-age').value = '63'")
        tab.run("document.getElementById('column-sex').value = 'female'")
        tab.run("document.querySelector('#beside button').click()")
        tab.until("!document.getElementById('outcome-by').textContent.includes('No finding is given')")
        tab.until("document.getElementById('outcome-by').textContent.includes('age: given here')")
        expected = engine.predict(path, columns=GIVEN).probabilities["opacity"]
        assert f"{expected:.3f}" in tab.text()
        assert all("422" in complaint for complaint in tab.complaints())  # the first answer, without an age
        assert not any("?" in url for url in tab.requested())
        tab.close()
