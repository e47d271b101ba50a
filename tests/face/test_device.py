"""``device``: what an integrator types and sees; ``run`` on a device folder."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image
from released_bundle import as_release

from medfm_compress.cli.main import run


@pytest.fixture
def releases(tiny, tmp_path):
    paths = {}
    for release in (1, 2):
        plain = tiny.bundle(tmp_path / "plain.medfm", (tiny.ORT,), model=tiny.network(seed=release))
        paths[release] = as_release(plain, tmp_path / f"tiny-{release}.medfm", release)
    return paths


@pytest.fixture
def call(tmp_path, capsys):
    """``call(words …) -> (exit code, standard output, standard error)`` on one device folder."""

    def run_it(*words):
        code = run([str(word) for word in words])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run_it


@pytest.fixture
def device(call, tmp_path):
    def run_it(verb, *words):
        return call("device", verb, *words, "--device-folder", tmp_path / "device")

    return run_it


def test_install_activate_rollback_status(device, releases):
    code, out, _ = device("install", releases[1])
    assert code == 0 and out.startswith("installed tiny (release 1, ")
    assert "; activate it with: medfm-compress device activate --device-folder " in out
    code, out, _ = device("activate", "--trial", 0, "--threads", 1)
    assert code == 0
    assert out.splitlines()[0].startswith("self-test: onnxruntime-cpu-fp32, 2 golden cases, relative logit error ")
    assert out.splitlines()[1].startswith("active: tiny (release 1, ")
    device("install", releases[2])
    code, out, _ = device("activate", "--threads", 1)
    assert code == 0 and "on trial: 0 predicted, 0 refused; 10 of either end it" in out
    code, out, _ = device("status")
    assert code == 0
    assert "active:     tiny (release 2, " in out and "previous:   tiny (release 1, " in out
    assert "candidate:  none" in out and "committed:  release 1;" in out
    assert [line.split()[1] for line in out.splitlines()[4:]] == [
        *("installed", "activated", "committed"),
        *("installed", "activated"),
    ]
    code, out, _ = device("rollback")
    assert code == 0 and out.startswith("active: tiny (release 1, ")
    code, _, error = device("rollback")
    assert code == 2 and "no earlier bundle" in error


def test_json_is_one_document(device, releases):
    assert json.loads(device("install", releases[1], "--json")[1])["release"] == 1
    document = json.loads(device("activate", "--threads", 1, "--json")[1])
    assert document["self_test"]["golden_cases"] == 2 and document["state"]["trial"]["length"] == 10
    assert json.loads(device("status", "--json")[1])["state"]["active"]["release"] == 1


def test_what_is_refused_is_exit_code_4(device, releases, tiny, tmp_path):
    device("install", releases[2])
    device("activate", "--trial", 0, "--threads", 1)
    code, _, error = device("install", releases[1])
    assert code == 4 and "no newer than release 2" in error
    device("install", as_release(tiny.bundle(tmp_path / "f.medfm", outcome="fail"), tmp_path / "f3.medfm", 3))
    code, _, error = device("activate")
    assert code == 4 and "failed its self-test" in error and "verdict on it is fail" in error
    code, _, error = device("activate")
    assert code == 2 and "no bundle waits" in error
    (tmp_path / "broken.medfm").write_bytes(releases[2].read_bytes()[:-1])
    assert device("install", tmp_path / "broken.medfm")[0] == 4


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("activate", "--trial", "-1"), "--trial is -1"),
        (("activate", "--max-latency", "0"), "--max-latency is 0"),
        (("activate", "--backend", "abacus"), "--backend is 'abacus'"),
        (("install", "absent.medfm"), "cannot read bundle absent.medfm"),
    ],
)
def test_unusable_input(device, words, reason):
    code, _, error = device(*words)
    assert code == 2 and reason in error


def test_without_a_folder_it_says_how_to_name_one(call, releases, monkeypatch, tmp_path):
    monkeypatch.delenv("MEDFM_DEVICE_FOLDER", raising=False)
    code, _, error = call("device", "status")
    assert code == 2 and "--device-folder" in error
    monkeypatch.setenv("MEDFM_DEVICE_FOLDER", str(tmp_path / "device"))
    assert call("device", "install", releases[1])[0] == 0
    assert "candidate:  tiny (release 1" in call("device", "status")[1]


@pytest.mark.parametrize(
    "words",
    [
        *(("device", verb) for verb in ("status", "activate", "rollback", "shadow")),
        *(("monitor", verb) for verb in ("report", "replay")),
    ],
)
def test_a_wrong_path_is_exit_code_2_and_makes_nothing(call, tmp_path, words):
    code, _, error = call(*words, "--device-folder", tmp_path / "typo", "--json")
    assert code == 2 and "typo is not there; correct the path, or install a bundle there" in error
    assert not list(tmp_path.iterdir())


def test_run_takes_a_device_folder_and_counts_its_trial(device, call, releases, tiny, tmp_path):
    Image.fromarray(tiny.image()).save(tmp_path / "one.png")
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "small.png")
    folder = tmp_path / "device"
    code, _, error = call("run", tmp_path / "device", tmp_path / "one.png")
    assert code == 2 and "cannot read bundle" in error
    device("install", releases[1])
    code, _, error = call("run", folder, tmp_path / "one.png")
    assert code == 4 and "no bundle is active" in error
    device("activate", "--trial", 2)
    assert call("run", folder, tmp_path / "one.png", tmp_path / "one.png", "--threads", 1)[0] == 0
    assert "on trial" not in device("status")[1]
    device("install", releases[2])
    device("activate", "--trial", 1)
    code, out, _ = call("run", folder, tmp_path / "small.png", tmp_path / "one.png", "--threads", 1)
    first, second = out.splitlines()
    assert code == 4 and "refused" in first and second.startswith("one.png: opacity")
    assert "rolled-back" in device("status")[1]
    code, _, error = call("run", folder, tmp_path / "one.png", "--unverified")
    assert code == 2 and "--unverified is for bundles" in error
    assert call("run", folder, tmp_path / "one.png", "--threads", 0)[0] == 2  # no fault of the bundle
    assert "active:     tiny (release 1" in device("status")[1]
