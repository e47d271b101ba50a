"""Reports reach a FHIR server once each, whatever it answers, and nothing of its answers is logged."""

from __future__ import annotations

import json
import logging
import time
from datetime import datetime, timezone

import pytest
from fhir_server import FhirServer
from raw_server import RawServer
from spool_scene import open_spool, owe, states, wait_until
from tls_files import certificates

from medfm_compress.runtime.node.association import Unreachable
from medfm_compress.runtime.node.config import FhirConfig, RetryConfig
from medfm_compress.runtime.node.delivery_loop import Never, NotNow, Sent
from medfm_compress.runtime.node.fhir_post import Answer, FhirPoster, classify
from medfm_compress.runtime.node.spool.records import ResultObject

pytest.importorskip("fhir.resources")
pytest.importorskip("pynetdicom")  # of the helpers

QUICK = RetryConfig(first_s=0.05, longest_s=0.2)
SECRET = b'{"resourceType": "OperationOutcome", "issue": [{"diagnostics": "patient Jane Roe"}]}'


def bundle(number: int) -> bytes:
    """A transaction of one report with one observation."""
    code = {"coding": [{"system": "http://loinc.org", "code": "18782-3"}]}
    resources = [
        ("Observation", {"status": "preliminary", "code": code}),
        ("DiagnosticReport", {"status": "preliminary", "code": code}),
    ]
    entries = [
        {
            "fullUrl": f"urn:uuid:00000000-0000-0000-0000-00000000000{position}",
            "resource": {"resourceType": kind, **resource},
            "request": {"method": "POST", "url": kind, "ifNoneExist": f"identifier=urn:x|{number}.{position}"},
        }
        for position, (kind, resource) in enumerate(resources)
    ]
    return json.dumps({"resourceType": "Bundle", "type": "transaction", "entry": entries}).encode()


def _reports(count: int) -> list[ResultObject]:
    return [
        ResultObject(
            kind="fhir", sop_class_uid="", sop_instance_uid=f"1.2.8.{n}", content=bundle(n), destinations=("records",)
        )
        for n in range(count)
    ]


@pytest.fixture
def post(tmp_path):
    """``post(server, count, **settings)`` → spool and poster that runs."""
    spool = open_spool(tmp_path)
    ends = []

    def make(server, count=1, objects=None, **settings):
        owe(spool, objects or _reports(count))
        config = FhirConfig(**{"name": "records", "url": server.url, "timeout_s": 5.0, "retry": QUICK, **settings})
        poster = FhirPoster(config, spool)
        ends.extend([lambda: poster.stop(5), server.close])
        poster.start()
        return spool, poster

    yield make
    for end in ends:
        end()
    spool.close()


def _is(spool, **expected):
    return lambda: states(spool, "records") == expected


def test_every_report_is_taken_and_may_be_forgotten(post):
    server = FhirServer()
    spool, _ = post(server, 5)
    wait_until(_is(spool, committed=5))
    assert len(server.kept) == 10 and set(server.paths) == {"/fhir"}
    assert server.requests[0]["Content-Type"] == "application/fhir+json"
    assert "Authorization" not in server.requests[0]


@pytest.mark.parametrize("status", [500, 503, 408, 425, 429])
def test_for_the_moment_means_again(post, status, caplog):
    server = FhirServer()
    server.answer = lambda number: (status, {}, SECRET) if number < 2 else None
    spool, _ = post(server, 2)
    wait_until(_is(spool, committed=2))
    assert "Jane" not in caplog.text


@pytest.mark.parametrize("status", [400, 404, 409, 412, 422])
def test_a_refused_report_is_sent_once_and_set_aside(post, status, caplog):
    caplog.set_level(logging.DEBUG)
    server = FhirServer()
    server.answer = lambda number: (status, {}, SECRET) if number == 0 else None
    spool, _ = post(server, 3)
    wait_until(_is(spool, quarantined=1, committed=2))
    assert len(server.requests) == 3
    assert "Jane" not in caplog.text + spool.quarantined()[0].reason


@pytest.mark.parametrize("status", [301, 307, 401])
def test_what_is_about_the_way_there_quarantines_nothing(post, status):
    elsewhere, server = FhirServer(), FhirServer()
    server.answer = lambda number: (status, {"Location": elsewhere.url}, b"") if number < 3 else None
    spool, _ = post(server, 2)
    wait_until(_is(spool, committed=2))
    assert elsewhere.requests == []
    elsewhere.close()


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"[]", b'{"entry": 3}', b"[" * 100_000, b"x" * 3_000_000, b'{"resourceType": "Bundle"}']
)
def test_success_with_nonsense_is_no_success(post, body):
    server = FhirServer()
    server.answer = lambda number: (200, {}, body) if number == 0 else None
    spool, _ = post(server)
    wait_until(_is(spool, committed=1))
    assert len(server.requests) == 2


def test_a_server_that_drips_is_left_after_the_total_time(post):
    def drip(raw, connection):
        connection.recv(65536)
        while not raw.ended.wait(0.05):
            connection.sendall(b"H")

    raw = RawServer(drip)
    raw.url = f"http://127.0.0.1:{raw.port}/fhir"
    spool, poster = post(raw, timeout_s=0.2)
    wait_until(lambda: raw.connections >= 2)
    assert poster.is_alive and states(spool, "records") == {"waiting": 1}


def test_a_report_on_which_the_server_hangs_up_does_not_keep_the_others(post):
    server = FhirServer()
    take = server.take

    def hang_up(body):
        if b"urn:x|0.0" in body:
            raise ConnectionAbortedError
        return take(body)

    server.take = hang_up
    server._server.handle_error = lambda *args: None
    spool, _ = post(server, 3)
    wait_until(_is(spool, waiting=1, committed=2))


def test_a_server_that_is_down_gets_everything_when_it_is_back(post):
    server = FhirServer()
    server.close()
    spool, poster = post(server, 50)
    wait_until(lambda: "no connection" in poster.problem)
    assert states(spool, "records") == {"waiting": 50}


def test_damaged_reports_are_set_aside(post):
    server = FhirServer()
    objects = _reports(2)
    objects[0] = ResultObject(
        kind="fhir", sop_class_uid="", sop_instance_uid="1.2.8.0", content=b"[3]", destinations=("records",)
    )
    spool, _ = post(server, objects=objects)
    wait_until(_is(spool, quarantined=1, committed=1))


def test_the_token_is_read_each_time_from_a_file_that_nobody_else_reads(post, tmp_path):
    token = tmp_path / "token"
    token.write_text("first\n")
    token.chmod(0o644)
    server = FhirServer()
    spool, poster = post(server, token_file=str(token))
    wait_until(lambda: "chmod 600" in poster.problem)
    token.chmod(0o600)
    wait_until(_is(spool, committed=1))
    assert server.requests[0]["Authorization"] == "Bearer first"
    token.write_text("second")
    owe(spool, _reports(2)[1:], "1.2.9.2")
    wait_until(_is(spool, committed=2))
    assert server.requests[1]["Authorization"] == "Bearer second"
    token.write_text("two\nlines")
    owe(spool, _reports(3)[2:], "1.2.9.3")
    wait_until(lambda: "no bearer token" in poster.problem)


@pytest.mark.parametrize("trusted", [True, False])
def test_https_needs_a_certificate_that_is_trusted(post, tmp_path, trusted):
    theirs, others = certificates(tmp_path, "theirs"), certificates(tmp_path, "others")
    server = FhirServer(tls=theirs)
    server._server.handle_error = lambda *args: None
    spool, poster = post(server, authorities=theirs[0] if trusted else others[0])
    if trusted:
        wait_until(_is(spool, committed=1))
    else:
        wait_until(lambda: "certificate" in poster.problem)
        assert states(spool, "records") == {"waiting": 1} and server.requests == []


def test_a_stop_does_not_wait_for_a_server_that_hangs(post):
    server = FhirServer()
    server.answer = lambda number: server.ended.wait(30) and None
    spool, poster = post(server, timeout_s=60.0)
    wait_until(lambda: server.requests)
    started = time.monotonic()
    poster.stop(0.1)
    assert not poster.is_alive and time.monotonic() - started < 10
    assert states(spool, "records") == {"waiting": 1}


def _answer(*statuses: str, status: int = 200, retry_after: str = "") -> Answer:
    entries = [{"response": {"status": text}} for text in statuses]
    body = {"resourceType": "Bundle", "type": "transaction-response", "entry": entries}
    return Answer(status, retry_after, json.dumps(body).encode())


def test_the_status_of_every_entry_counts():
    assert classify(_answer("201 Created", "200 OK"), 2) == Sent()
    assert isinstance(classify(_answer("201 Created"), 2), NotNow)
    assert isinstance(classify(_answer("201 Created", "503"), 2), NotNow)
    assert isinstance(classify(_answer("503", "422 Unprocessable"), 2), Never)
    with pytest.raises(Unreachable):
        classify(_answer(status=302), 0)


@pytest.mark.parametrize(
    "text, seconds",
    [
        ("", 0),
        ("120", 120),
        ("999999999999", 86400),
        ("-5", 0),
        ("soon", 0),
        ("Wed, 01 Jan 2020 00:02:00 GMT", 120),
        ("Wed, 01 Jan 2020 00:02:00", 0),
        ("9" * 5000, 0),
    ],
)
def test_retry_after_is_honoured_within_bounds(text, seconds):
    now = datetime(2020, 1, 1, tzinfo=timezone.utc)
    assert classify(Answer(503, text, b""), 1, now).wait_s == seconds


def test_the_wait_that_the_server_asks_for_is_kept(post):
    server = FhirServer()
    server.answer = lambda number: (503, {"Retry-After": "3600"}, b"")
    spool, poster = post(server)
    wait_until(lambda: poster.problem)
    assert not spool.due_deliveries("records", time.time() + 3000, 9)
    assert spool.due_deliveries("records", time.time() + 3700, 9)
    assert spool.due_deliveries("records", time.time() + 3700, 9)[0].path.exists()
