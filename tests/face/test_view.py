"""``view``: a page of a bundle, until a signal ends it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys

import pytest

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

import http.client


def run(*arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "medfm_compress", "view", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_page_until_a_signal_ends_it(tiny, tmp_path, number, code) -> None:
    process = run(tiny.bundle(tmp_path / "tiny.medfm"), "--threads", 1)
    assert process.stdout is not None
    line = process.stdout.readline()
    url, _, token = line.removeprefix("open ").strip().partition("#token=")
    assert url.startswith("http://127.0.0.1:") and len(token) >= 30
    connection = http.client.HTTPConnection(url.split("/")[2], timeout=10)
    connection.request("GET", "/")
    assert connection.getresponse().status == 200
    connection.close()
    process.send_signal(number)
    out, error = process.communicate(timeout=20)
    assert (process.returncode, out) == (code, "") and "Traceback" not in error and token not in error


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--host", "0.0.0.0"], 2, "--host is '0.0.0.0', from where others can see the page"),
        (["--certificate", "page.pem"], 2, "go together"),
        (["--port", "70000"], 2, "--port"),
        (["--backend", "none"], 2, "no backend"),
    ],
)
def test_what_cannot_be_served_is_said(tiny, tmp_path, options, code, words) -> None:
    _, error = (process := run(tiny.bundle(tmp_path / "tiny.medfm"), *options)).communicate(timeout=30)
    assert process.returncode == code and words in error and "Traceback" not in error


def test_a_bundle_without_a_verdict_is_refused(tiny, tmp_path) -> None:
    process = run(tiny.bundle(tmp_path / "tiny.medfm", outcome=None), "--json")
    _, error = process.communicate(timeout=30)
    assert process.returncode == 4 and "no variant that may run here" in error


def test_json_has_the_url(tiny, tmp_path) -> None:
    process = run(tiny.bundle(tmp_path / "tiny.medfm"), "--threads", 1, "--json")
    assert process.stdout is not None
    text = "".join(process.stdout.readline() for _ in range(3))
    process.terminate()
    process.communicate(timeout=20)
    assert "#token=" in json.loads(text)["url"]
