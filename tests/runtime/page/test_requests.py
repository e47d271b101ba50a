"""What the page's server answers, to its own script and to everybody else."""

from __future__ import annotations

import base64
import io
import json
import logging
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

from page_scene import Client, bomb, png, served
from PIL import Image
from tls_files import certificates

from medfm_compress.runtime.engine import Engine
from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.page import connection, upload
from medfm_compress.runtime.page.app import FILES
from medfm_compress.runtime.page.server import PageServer
from medfm_compress.runtime.page.settings import PageSettings

PATIENT = "Zzyzx^Quentin"


@pytest.fixture(scope="module")
def server(engine: Engine) -> Iterator[PageServer]:
    with served(engine) as page:
        yield page


@pytest.fixture
def client(server: PageServer) -> Client:
    asking = Client(server)
    assert asking.log_in().status == 200
    return asking


def until(condition, seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_an_image_is_read_as_the_engine_reads_it(client, engine) -> None:
    answer = client.post("/api/predict", png()).json
    prediction = engine.predict(png())
    (finding,) = answer["findings"]
    assert finding["probability"] == prediction.probabilities["opacity"] and finding["threshold"] == 0.5
    assert finding["called"] == prediction.findings["opacity"] and finding["name"] == "opacity"
    assert answer["variant"] == prediction.variant and answer["not_reliable"] == ""
    with Image.open(io.BytesIO(base64.b64decode(answer["picture"]))) as picture:
        assert picture.size == (32, 32) and picture.mode == "RGB"


def test_the_picture_is_what_the_network_sees(client, engine) -> None:
    from medfm_compress.runtime.preprocess import prepare
    from medfm_compress.runtime.read_image import read_image

    answer = client.post("/api/predict", png()).json
    seen = np.asarray(Image.open(io.BytesIO(base64.b64decode(answer["picture"]))))
    expected = np.rint(255 * prepare(read_image(png()), engine.manifest.image_spec)[0])
    assert np.abs(seen[..., 0] - expected).max() <= 1


def test_the_heat_map_comes_with_its_progress(client, engine) -> None:
    from medfm_compress.runtime.heat_map import heat_map

    *_, last = client.lines(client.post("/api/heat-map?finding=0", png()))
    prediction, seen = engine.predict_with_input(png())
    expected = heat_map(engine, seen.tensor, prediction)
    assert last["finding"] == "opacity" and last["strongest"] == pytest.approx(float(expected.evidence.max()))
    with Image.open(io.BytesIO(base64.b64decode(last["layer"]))) as layer:
        assert layer.mode == "RGBA" and layer.size == (32, 32)


def test_facts_say_what_the_bundle_is_for(client) -> None:
    facts = client.get("/api/page").json
    assert facts["bundle"] == "tiny" and facts["intended_use"] == "tests only" and facts["is_research"]
    assert facts["findings"] == [{"name": "opacity", "threshold": 0.5, "sensitivity": 0.9, "specificity": 0.8}]
    assert not facts["has_queue"] and client.get("/api/queue").status == 404


@pytest.mark.parametrize(
    ("body", "status", "exit_code", "words"),
    [
        (b"no image at all, really", 422, 4, "not a DICOM, PNG, JPEG, TIFF or BMP image"),
        (b"%PDF-1.7 and so on", 422, 4, "PDF"),
        (b"", 400, 2, "holds no image"),
        (bomb(), 422, 4, "megapixels"),
        (png()[:200], 422, 4, ""),
        (png(np.zeros((8, 8), np.uint8)), 422, 4, "px"),
    ],
    ids=["text", "pdf", "nothing", "bomb", "cut off", "too small"],
)
def test_what_is_no_image_is_refused_in_the_words_of_the_command_line(client, body, status, exit_code, words) -> None:
    answer = client.post("/api/predict", body)
    assert (answer.status, answer.json["exit_code"]) == (status, exit_code) and words in answer.json["error"]
    if exit_code == 4:
        (line,) = client.lines(client.post("/api/heat-map", body))[-1:]
        assert line["error"] == answer.json["error"] and line["exit_code"] == 4


@pytest.mark.parametrize("path", ["/api/page", "/api/queue", "/api/nothing"])
def test_without_a_session_nothing_is_told(server, path) -> None:
    assert Client(server).get(path).status == 401


@pytest.mark.parametrize("path", ["/api/predict", "/api/heat-map", "/api/replay", "/api/logout"])
def test_without_a_session_nothing_is_done(server, path) -> None:
    assert Client(server).post(path, png()).status == 401


def test_the_token_opens_a_session_and_its_end_closes_it(server) -> None:
    client = Client(server)
    assert client.log_in("x" * 32).status == 401 and not client.cookie
    assert client.log_in("ü" * 32).status == 401
    cookie = client.log_in().headers["set-cookie"]
    assert "HttpOnly" in cookie and "SameSite=Strict" in cookie and client.token not in cookie
    assert client.get("/api/page").status == 200
    assert client.post("/api/logout", b"{}").status == 200
    assert client.get("/api/page").status == 401


@pytest.mark.parametrize("body", [b"[]", b"{}", b'{"token": 1}', b"{", b'{"token": "a", "more": 1}', bytes(70_000)])
def test_a_login_that_is_none_is_refused(server, body) -> None:
    answer = Client(server).post("/api/login", body)
    assert answer.status in (400, 413) and "error" in answer.json


@pytest.mark.parametrize(
    "origin", ["", "null", "http://evil.example", "http://127.0.0.1:1", "https://127.0.0.1:{port}", "http://localhost"]
)
def test_no_other_page_acts_for_the_user(client, server, origin) -> None:
    answer = client.post("/api/predict", png(), Origin=origin.format(port=server.port))
    assert answer.status == 403 and "does not come from this page" in answer.json["error"]


@pytest.mark.parametrize("host", ["", "evil.example", "evil.example:{port}", "127.0.0.1:1", "127.0.0.1.evil:{port}"])
def test_a_foreign_name_that_leads_here_is_refused(client, server, host) -> None:
    answer = client.get("/api/page", Host=host.format(port=server.port))
    assert answer.status == (421 if host else 400)
    assert b"tiny" not in answer.body


def test_localhost_is_the_page_too(client, server) -> None:
    own = f"localhost:{server.port}"
    assert client.post("/api/predict", png(), Host=own, Origin=f"http://{own}").status == 200


def test_two_pages_of_one_machine_do_not_mix(engine, client, server) -> None:
    with served(engine) as second:
        other = Client(second)
        other.log_in()
        names = {client.cookie.partition("=")[0], other.cookie.partition("=")[0]}
        assert len(names) == 2
        other.cookie, own = client.cookie, other.cookie
        assert other.get("/api/page").status == 401  # the first one's session opens nothing here
        other.cookie = f"{client.cookie}; {own}"  # as a browser sends them: one jar for all ports
        client.cookie = f"{own}; {client.cookie}"
        assert other.get("/api/page").status == client.get("/api/page").status == 200
        crossed = client.post("/api/predict", png(), Origin=other.origin)
        assert crossed.status == 403
        assert other.log_in(client.token).status == 401


@pytest.mark.parametrize("path", [*FILES, "/api/page", "/nothing", "/static/../page.html"])
def test_every_answer_forbids_everything_else(server, path) -> None:
    headers = Client(server).get(path).headers
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
    assert headers["cache-control"] == "no-store" and headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY" and "server" not in headers


def test_files_of_the_page_fetch_nothing_from_elsewhere(server) -> None:
    for path in FILES:
        text = Client(server).get(path).body.decode()
        assert "http://www.w3.org" in text or "://" not in text.replace("http://www.w3.org", "")
        assert "innerHTML" not in text and "style=" not in text and "onclick" not in text


@pytest.mark.parametrize("method", ["PUT", "DELETE", "OPTIONS", "TRACE", "PATCH"])
def test_other_methods_are_refused(client, method) -> None:
    assert client.ask(method, "/api/page", b"", {"Origin": client.origin}).status == 405


def test_three_gigabytes_are_refused_before_they_are_sent(client, server) -> None:
    start = time.monotonic()
    answer = client.ask("POST", "/api/predict", b"", {"Origin": client.origin, "Content_Length": "3000000000"})
    assert answer.status == 413 and "256 MB" in answer.json["error"] and time.monotonic() - start < 5
    assert server.page.places.taken == 0


def test_what_grows_too_large_is_refused_while_it_arrives(engine) -> None:
    with served(engine, PageSettings(max_upload_mb=1)) as server:
        client = Client(server)
        client.log_in()
        sent = 0
        with socket.create_connection(("127.0.0.1", server.port), 20) as raw:
            head = f"POST /api/predict HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nOrigin: {client.origin}\r\n"
            raw.sendall(f"{head}Cookie: {client.cookie}\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
            with suppress(OSError):  # it is closed in our face
                while sent < 500:
                    raw.sendall(b"10000\r\n" + bytes(65536) + b"\r\n")
                    sent += 1
        assert sent < 500
        until(lambda: server.page.places.taken == 0)


def begin_upload(client: Client, declared: int, part: bytes) -> socket.socket:
    raw = socket.create_connection(("127.0.0.1", client.server.port), 20)
    head = f"POST /api/predict HTTP/1.1\r\nHost: 127.0.0.1:{client.server.port}\r\nOrigin: {client.origin}\r\n"
    raw.sendall(f"{head}Cookie: {client.cookie}\r\nContent-Length: {declared}\r\n\r\n".encode() + part)
    return raw


def test_a_browser_that_leaves_during_the_upload_leaves_nothing(client, server, caplog) -> None:
    for _ in range(2 * upload.PLACES):
        raw = begin_upload(client, 10**6, png())
        until(lambda: server.page.places.taken == 1)
        raw.close()
        until(lambda: server.page.places.taken == 0)
    assert client.post("/api/predict", png()).status == 200 and not caplog.records


def test_a_browser_that_falls_silent_is_answered(client, server, monkeypatch) -> None:
    monkeypatch.setattr(upload, "SILENCE_S", 0.2)
    raw = begin_upload(client, 10**6, png())
    assert b" 408 " in raw.recv(4096)
    raw.close()
    assert server.page.places.taken == 0


def test_a_connection_that_never_asks_is_closed(server, monkeypatch) -> None:
    monkeypatch.setattr(connection, "HEADERS_S", 0.2)
    for begun in (b"", b"GET / HTTP/1.1\r\nHo"):
        with socket.create_connection(("127.0.0.1", server.port), 10) as raw:
            raw.sendall(begun)
            assert raw.recv(4096) == b""


class Blocking:
    """An engine that predicts once it may."""

    def __init__(self, engine: Engine) -> None:
        self._engine, self.go = engine, threading.Event()

    def __call__(self) -> Engine:
        self.go.wait(20)
        return self._engine


def test_few_images_wait_and_the_next_is_told_so(engine) -> None:
    blocking = Blocking(engine)
    with served(blocking) as server:
        client = Client(server)
        client.log_in()
        statuses: list[int] = []
        threads = [
            threading.Thread(target=lambda: statuses.append(client.post("/api/predict", png()).status))
            for _ in range(upload.PLACES)
        ]
        for thread in threads:
            thread.start()
        until(lambda: server.page.places.taken == upload.PLACES)
        assert client.post("/api/predict", png()).status == 503
        blocking.go.set()
        for thread in threads:
            thread.join()
        assert statuses == [200] * upload.PLACES and client.post("/api/predict", png()).status == 200


def test_a_heat_map_ends_when_nobody_waits_for_it(engine, monkeypatch) -> None:
    runs: list[int] = []
    logits = Engine.logits

    def slow(self, tensor):
        runs.append(1)
        time.sleep(0.02)
        return logits(self, tensor)

    monkeypatch.setattr(Engine, "logits", slow)
    with served(engine) as server:
        client = Client(server)
        client.log_in()
        raw = begin_map(client)
        assert b'"total":' in raw.recv(4096) + raw.recv(4096)
        until(lambda: len(runs) > 2)
        assert client.post("/api/predict", png()).status == 200  # is kept waiting by no map
        raw.close()
        until(lambda: server.page.desk.running_maps == 0)
        assert len(runs) < 200


def begin_map(client: Client) -> socket.socket:
    raw = socket.create_connection(("127.0.0.1", client.server.port), 20)
    head = f"POST /api/heat-map HTTP/1.1\r\nHost: 127.0.0.1:{client.server.port}\r\nOrigin: {client.origin}\r\n"
    raw.sendall(f"{head}Cookie: {client.cookie}\r\nContent-Length: {len(png())}\r\n\r\n".encode() + png())
    return raw


def test_a_fault_tells_nothing_of_the_image(engine, caplog) -> None:
    def broken() -> Engine:
        raise RuntimeError(f"cannot read {PATIENT}")

    with served(broken) as server, caplog.at_level(logging.DEBUG):
        client = Client(server)
        client.log_in()
        answer = client.post("/api/predict", png())
    assert answer.status == 500 and answer.json["exit_code"] == 70 and "RuntimeError" in answer.json["error"]
    assert PATIENT not in answer.body.decode() and PATIENT not in caplog.text and client.token not in caplog.text


def test_what_the_engine_withholds_is_told_with_its_reason(engine, monkeypatch) -> None:
    monkeypatch.setattr(engine, "_judge", type("Judge", (), {"judge": lambda *_: (0.001, "it is unlike the others")})())
    monkeypatch.setattr(engine, "_judged", lambda *_: (0.001, "it is unlike the others"))
    with served(engine) as server:
        client = Client(server)
        client.log_in()
        answer = client.post("/api/predict", png()).json
        (line,) = client.lines(client.post("/api/heat-map", png()))[-1:]
    assert answer["findings"] == [] and answer["not_reliable"] == "it is unlike the others"
    assert answer["remarks"][0]["words"] == "the image is unlike those that the network was made for"
    assert "none to explain" in line["error"]


@pytest.mark.parametrize("finding", ["7", "-1", "x", "9" * 30])
def test_a_finding_that_is_none_is_refused(client, finding) -> None:
    answer = client.post(f"/api/heat-map?finding={finding}", png())
    assert "error" in client.lines(answer)[-1]


def test_https_is_served_under_the_names_of_the_certificate(engine, tmp_path) -> None:
    certificate, key = certificates(tmp_path, "page")
    token = tmp_path / "token"
    settings = PageSettings(host="0.0.0.0", certificate=certificate, key=key, token_file=str(token))
    with served(engine, settings) as server:
        client = Client(server)
        assert server.address == f"https://127.0.0.1:{server.port}/" and token.read_text().strip() == client.token
        assert "Secure" in client.log_in().headers["set-cookie"]
        assert client.post("/api/predict", png()).status == 200
        assert client.get("/api/page", Host=f"localhost:{server.port}").status == 421
    assert token.stat().st_mode & 0o077 == 0


def test_a_certificate_and_another_key_are_refused(tmp_path) -> None:
    certificate, _ = certificates(tmp_path, "one")
    _, key = certificates(tmp_path, "two")
    with pytest.raises(InputError, match="belong together"):
        PageServer(PageSettings(certificate=certificate, key=key), None)


def test_a_port_that_is_taken_is_said(server) -> None:
    with pytest.raises(InputError, match="another port"):
        PageServer(PageSettings(port=server.port), None)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"host": "0.0.0.0"}, "from where others can see"),
        ({"host": "192.168.1.1", "token_file": "t"}, "from where others can see"),
        ({"certificate": "c"}, "go together"),
        ({"port": 70000}, "port"),
        ({"max_upload_mb": 0}, "max_upload_mb"),
    ],
)
def test_settings_that_open_too_much_are_refused(changes, words) -> None:
    with pytest.raises(InputError, match=words):
        PageSettings(**changes)


@pytest.mark.parametrize("content", ["", "short", "with blanks in between them", "ä" * 30])
def test_a_token_file_without_a_token_is_refused(tmp_path: Path, content) -> None:
    file = tmp_path / "token"
    file.write_text(content)
    file.chmod(0o600)
    with pytest.raises(InputError, match="holds no token"):
        PageServer(PageSettings(token_file=str(file)), None)


def test_a_token_file_that_others_may_read_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("x" * 32)
    file.chmod(0o644)
    with pytest.raises(InputError, match="others may read"):
        PageServer(PageSettings(token_file=str(file)), None)


def test_a_session_ends_after_a_long_silence() -> None:
    from medfm_compress.runtime.page.access import MAX_SESSIONS, SESSION_S, Access

    now = [0.0]
    access = Access("x" * 20, scheme="http", names=["127.0.0.1"], port=1, clock=lambda: now[0])
    first = str(access.log_in("x" * 20)).partition(";")[0]
    now[0] = SESSION_S - 1
    assert access.has_session(first)
    now[0] += SESSION_S + 1
    assert not access.has_session(first)
    cookies = [str(access.log_in("x" * 20)).partition(";")[0] for _ in range(MAX_SESSIONS + 1)]
    assert not access.has_session(cookies[0]) and access.has_session(cookies[-1])
    assert not access.has_session("\0=;;=\x7f") and not access.has_session(json.dumps({}))
