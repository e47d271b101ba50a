"""The node's page: its queue with the urgent first, quarantine and replay, and nothing of a patient."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pynetdicom")
pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

import msgspec
import node_scene
from chromium import chromium
from page_scene import Client
from running_node import until

from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.node.config import PageConfig
from medfm_compress.runtime.node.config_check import faults
from medfm_compress.runtime.node.last_results import MOST, LastResults
from medfm_compress.runtime.node.page_queue import PageQueue
from medfm_compress.runtime.node.service import Node
from medfm_compress.runtime.node.spool.spool import Spool
from medfm_compress.runtime.prediction import Prediction

SECRETS = (node_scene.PATIENT_NAME, node_scene.PATIENT_ID, "Zzyzx")


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    config = node_scene.config(tmp_path, page=PageConfig(port=0))
    Path(config.folder).mkdir(mode=0o700)
    spool = Spool(Path(config.folder) / "spool", config.spool)
    node_scene.accept(spool, node_scene.image(1))
    node_scene.accept(spool, node_scene.image(2, change={"PatientID": ""}))
    spool.close()
    running = Node(config)
    running.start()
    until(lambda: running.spool.counts().instances.get("read") == 1 and bool(running.spool.quarantined()))
    yield running
    running.stop()


def client_of(node: Node) -> Client:
    client = Client(node._page)
    assert client.log_in().status == 200
    return client


def test_the_queue_is_shown_and_replayed_from(node) -> None:
    client = client_of(node)
    view = client.get("/api/queue").json
    (result,) = view["results"]
    assert result["sender"] == "SCANNER" and set(result["probabilities"]) == {"opacity"}
    assert result["delivery"] == "under way" and view["faults"] == []
    (entry,) = view["quarantine"]
    assert entry["code"] == "no-patient-id" and view["quarantine_total"] == 1
    assert client.post("/api/replay", json.dumps({"names": [entry["name"]]}).encode()).json == {"replayed": 1}
    until(lambda: len(node.spool.quarantined()) == 1)  # it has no Patient ID this time either
    trail = "".join(path.read_text() for path in node.audit.folder.iterdir())
    assert '"event":"replayed"' in trail.replace(": ", ":")
    assert not any(secret in json.dumps(view) for secret in SECRETS)


@pytest.mark.parametrize("names", [["999"], ["d5"], ["x"], ["all"], ["٣"], ["9" * 40], [""]])
def test_what_is_not_in_quarantine_is_not_replayed(node, names) -> None:
    answer = client_of(node).post("/api/replay", json.dumps({"names": names}).encode())
    assert answer.status == 400 and answer.json["exit_code"] == 2
    assert len(node.spool.quarantined()) == 1


def test_the_page_says_why_the_engine_does_not_read(node) -> None:
    engine, node.reader._engine = node.reader._engine, None
    node.reader.fault = "the engine does not read: a golden case gives another result"
    answer = client_of(node).post("/api/predict", b"image")
    node.reader._engine, node.reader.fault = engine, ""
    assert answer.status == 422 and "golden case" in answer.json["error"] and answer.json["exit_code"] == 4


def test_the_token_is_kept_for_this_user_alone(node) -> None:
    file = Path(node.config.folder) / "page.token"
    assert file.stat().st_mode & 0o077 == 0 and file.read_text().strip() == Client(node._page).token


def test_in_a_browser(node, tmp_path) -> None:
    with chromium(tmp_path / "profile") as browser:
        tab = browser.open(node._page.url)
        tab.wait_for("queue")
        tab.until("document.querySelectorAll('#quarantine button').length === 1")
        assert "no-patient-id" in tab.text() and not any(secret in tab.text() for secret in SECRETS)
        tab.click("#quarantine button")
        tab.until("document.getElementById('queue-words').textContent.includes('will be tried again')")
        tab.click("#show-image")
        tab.wait_for("image")
        assert tab.complaints() == []


def prediction(probability: float, *, called: bool | None, label: str | None = None) -> Prediction:
    return Prediction(
        probabilities={"opacity": probability},
        findings={"opacity": called},
        label=label,
        flags=("lossy-compressed",),
        variant="v",
        model_digest="",
        intended_use="",
        elapsed_ms=1.0,
    )


def queue(spool: Any, results: LastResults, urgent: tuple[str, ...] = ()) -> PageQueue:
    return PageQueue(spool, results, None, urgent=urgent, faults=list)  # type: ignore[arg-type]


def test_urgent_findings_go_to_the_top(tmp_path) -> None:
    from medfm_compress.runtime.node.config import SpoolConfig

    spool = Spool(tmp_path / "spool", SpoolConfig(min_free_gb=0))
    results = LastResults()
    numbers = [node_scene.accept(spool, node_scene.image(number), priority=number) for number in range(4)]
    for number, called in zip(numbers, (True, False, True, False), strict=True):
        instance = spool.instance(number)
        assert instance is not None
        results.add(instance, prediction(0.5, called=called))
    view = queue(spool, results).view()
    assert [result.number for result in view.results] == [numbers[i] for i in (2, 0, 3, 1)]
    assert [image.priority for image in view.waiting] == [3, 2, 1, 0] and view.waiting_total == 4
    assert view.results[0].flags == ("the image was compressed with loss",)
    assert not any(result.is_urgent for result in queue(spool, results, ("other",)).view().results)
    assert not any(result.is_urgent for result in _of_classes(spool, numbers[0]).view().results)
    spool.close()


def _of_classes(spool: Any, number: int) -> PageQueue:
    """Of a multiclass task one class is always called, which makes nothing urgent by itself."""
    results = LastResults()
    results.add(spool.instance(number), prediction(0.9, called=True, label="opacity"))
    return queue(spool, results)


def test_of_results_the_last_are_kept(tmp_path) -> None:
    from medfm_compress.runtime.node.config import SpoolConfig

    spool = Spool(tmp_path / "spool", SpoolConfig(min_free_gb=0))
    instance = spool.instance(node_scene.accept(spool, node_scene.image(1)))
    assert instance is not None
    results = LastResults()
    for number in range(MOST + 10):
        results.add(msgspec.structs.replace(instance, id=number), prediction(0.5, called=True))
    results.add(instance, prediction(0.1, called=False))
    assert len(results.all()) == MOST and results.all()[0].number == instance.id
    spool.close()


def test_the_check_names_what_is_wrong_with_the_page(tmp_path) -> None:
    token = tmp_path / "token"
    token.write_text("short")
    page = PageConfig(port=node_scene.free_port(), token_file=str(token), urgent=("pneumothorax",))
    texts = [fault.text for fault in faults(node_scene.config(tmp_path, page=page))]
    assert any("others may read" in text for text in texts)
    assert any(text.startswith("page.urgent: the bundle has no finding 'pneumothorax'") for text in texts)
    with pytest.raises(InputError, match="from where others can see"):
        PageConfig(host="0.0.0.0")
