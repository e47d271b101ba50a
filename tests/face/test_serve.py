"""``serve``: its configuration, what is wrong with one, and what is to be seen of a node."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import node_scene
import pytest

from medfm_compress.cli.main import run
from medfm_compress.cli.node_config import read_node_config, starter
from medfm_compress.data.strict_yaml import load_yaml
from medfm_compress.runtime.node.config import NodeConfig

EMPTY = "folder: node\nreceive: {ae_title: A, senders: [{ae_title: S}]}\nengine: {bundle: b.medfm}\n"


def written(folder: Path, **changes: Any) -> Path:
    """The configuration of a node that can run, as YAML."""
    path = folder / "node.yaml"
    plain = msgspec.to_builtins(node_scene.config(folder, **changes))
    path.write_bytes(msgspec.json.encode(plain))  # JSON is YAML
    return path


def test_init_writes_what_can_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "node.yaml"
    assert run(["serve", "init", "--out", str(path)]) == 0
    assert "--check" in capsys.readouterr().out
    config = read_node_config(path)
    assert config.receive.ae_title == "MEDFM" and config.pacs[0].name == "archive"
    before = path.read_bytes()
    assert run(["serve", "init", "--out", str(path)]) == 2
    assert path.read_bytes() == before


def test_the_starter_has_every_key_and_its_settings_switched_on_are_allowed() -> None:
    either = ("bundle:", "unverified:")  # not beside device
    lines = []
    for line in starter().splitlines():
        bare = line.lstrip()
        is_setting = bare.startswith("#") and not bare.startswith("# ") and bare != "#"
        if is_setting and bare.removeprefix("#").startswith(either):
            continue
        lines.append(line.replace("#", "", 1) if is_setting else line)
    plain = load_yaml("\n".join(lines).encode(), "starter")
    config = msgspec.convert(plain, NodeConfig)

    def check(section: Any, values: Any) -> None:
        keys = set(section.__struct_fields__) - {name.rstrip(":") for name in either}
        assert set(values) == keys
        for name in keys:
            value = getattr(section, name)
            if isinstance(value, msgspec.Struct):
                check(value, values[name])
            elif isinstance(value, tuple) and value and isinstance(value[0], msgspec.Struct):
                check(value[0], values[name][0])

    check(config, plain)


def test_paths_are_those_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "node.yaml"
    path.write_text(
        EMPTY + "pacs: [{name: p, ae_title: P, host: h, port: 1, tls: {certificate: c, key: /k, authorities: a}}]"
    )
    monkeypatch.chdir("/")
    config = read_node_config(path)
    assert config.folder == str(tmp_path / "node") and config.engine.bundle == str(tmp_path / "b.medfm")
    tls = config.pacs[0].tls
    assert tls is not None and (tls.certificate, tls.key) == (str(tmp_path / "c"), "/k")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (EMPTY, "neither pacs nor fhir"),
        (EMPTY + "pasc: []", "has no key 'pasc'"),
        (EMPTY + "receive: {}", "given twice"),
        ("receive: {ae_title: A}", "lacks the key"),
        (EMPTY.replace("ae_title: A", "ae_title: 'A\\B'"), "AE title"),
        (EMPTY.replace("{ae_title: S}", ""), "senders is empty"),
        ("[", "is not YAML"),
        ("3", "node.yaml"),
    ],
)
@pytest.mark.parametrize("command", [["serve"], ["serve", "start"], ["serve", "status"]])
def test_a_configuration_that_cannot_be_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, said: str, command: list[str]
) -> None:
    path = tmp_path / "node.yaml"
    path.write_text(text)
    assert run([*command, str(path)]) == 2
    error = capsys.readouterr().err
    assert said in error and "Traceback" not in error


def test_a_configuration_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["serve", str(tmp_path / "none.yaml"), "--check"]) == 2
    assert "serve init" in capsys.readouterr().err


def test_check_finds_nothing_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("pynetdicom")
    assert run(["serve", str(written(tmp_path)), "--check"]) == 0
    assert capsys.readouterr().out == "the configuration can be used\n"
    assert not (tmp_path / "node").exists()


def test_check_says_all_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("pynetdicom")
    path = written(tmp_path)
    plain = json.loads(path.read_text())
    (tmp_path / "k.pem").write_text("no key")
    (tmp_path / "k.pem").chmod(0o644)
    tls = {"certificate": "k.pem", "key": "k.pem", "authorities": "absent.pem"}
    plain["engine"]["bundle"] = "absent.medfm"
    plain["results"]["findings"] = {}
    plain["receive"]["tls"] = tls
    plain["pacs"][0]["host"] = "no-such-name.invalid"
    plain["watch"] = {"folder": "absent"}
    plain["fhir"] = [{"name": "f", "url": "https://h/fhir", "token_file": "absent.token"}]
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        plain["receive"]["port"] = taken.getsockname()[1]
        path.write_text(json.dumps(plain))
        assert run(["serve", str(path), "--check", "--json"]) == 2
    faults = [fault["text"] for fault in json.loads(capsys.readouterr().out)["faults"]]
    for word in (
        "absent.medfm",
        "others may read",
        "cannot be used together",
        "absent.pem",
        "no-such-name",
        "watch.folder",
        "absent.token",
        "cannot listen",
    ):
        assert any(word in fault for fault in faults), (word, faults)


def test_check_tells_what_is_refused_from_what_cannot_be_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("pynetdicom")
    path = written(tmp_path)
    bundle = tmp_path / "tiny.medfm"
    data = bytearray(bundle.read_bytes())
    data[len(data) // 2] ^= 1
    bundle.write_bytes(data)
    assert run(["serve", str(path), "--check"]) == 4
    assert "engine: " in capsys.readouterr().out
    command = [sys.executable, "-m", "medfm_compress", "serve", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 4 and "error: " in done.stderr  # and nothing was received


def test_two_listeners_of_one_port(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("pynetdicom")
    path = written(tmp_path)
    plain = json.loads(path.read_text())
    plain["operate"]["port"] = plain["receive"]["port"]
    path.write_text(json.dumps(plain))
    assert run(["serve", str(path), "--check"]) == 2
    assert "operate: cannot listen" in capsys.readouterr().out


def test_a_finding_that_the_bundle_does_not_have(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("pynetdicom")
    path = written(tmp_path)
    plain = json.loads(path.read_text())
    plain["results"]["findings"] = {"opacty": {"value": "1", "scheme": "SCT", "meaning": "x"}}
    path.write_text(json.dumps(plain))
    assert run(["serve", str(path), "--check"]) == 2
    assert "no finding 'opacty'; it has opacity" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["status", "quarantine", "audit"])
def test_a_node_that_never_ran(tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str) -> None:
    path = written(tmp_path)
    assert run(["serve", command, str(path)]) == 2
    assert "error: " in capsys.readouterr().err
    assert not (tmp_path / "node").exists()


def test_quarantine_and_replay_without_a_running_node(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from medfm_compress.runtime.node.spool.spool import Spool

    path = written(tmp_path)
    config = read_node_config(path)
    spool = Spool(Path(config.folder) / "spool", config.spool)
    ids = [node_scene.accept(spool, node_scene.image(number)) for number in range(3)]
    for number in ids[:2]:
        spool.quarantine(number, "image-refused", "three frames; give one")
    spool.close()
    assert run(["serve", "quarantine", str(path)]) == 0
    assert "three frames" in capsys.readouterr().out
    assert run(["serve", "status", str(path), "--json"]) == 0
    seen = json.loads(capsys.readouterr().out)
    assert seen["health"] == "not running" and seen["instances"] == {"quarantined": 2, "waiting": 1}
    for wrong in ("x", "99", str(ids[2]), "d1", "1e3"):
        assert run(["serve", "replay", str(path), wrong]) == 2
    capsys.readouterr()
    assert run(["serve", "replay", str(path), str(ids[0])]) == 0
    assert run(["serve", "replay", str(path), "all"]) == 0
    assert capsys.readouterr().out == "1 will be tried again\n" * 2
    assert run(["serve", "status", str(path)]) == 0
    assert "images:      3 waiting" in capsys.readouterr().out


def test_discarded_is_gone_for_good_and_asked_for_twice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from medfm_compress.runtime.node.spool.spool import Spool

    path = written(tmp_path)
    config = read_node_config(path)
    spool = Spool(Path(config.folder) / "spool", config.spool)
    ids = [node_scene.accept(spool, node_scene.image(number)) for number in range(2)]
    spool.quarantine(ids[0], "image-refused", "three frames; give one")
    assert run(["serve", "discard", str(path), str(ids[0])]) == 2
    assert "--yes" in capsys.readouterr().err
    for wrong in ("all", str(ids[1]), "d1"):
        assert run(["serve", "discard", str(path), wrong, "--yes"]) == 2
    assert run(["serve", "replay", str(path), str(ids[0]), "--accept-patient"]) == 2  # it is there for another reason
    assert run(["serve", "discard", str(path), str(ids[0]), "--yes"]) == 0
    again = node_scene.accept(spool, node_scene.image(0))  # not answered with success for what is about to go
    assert spool.forget_discarded() == () and spool.claim().id == again
    spool.quarantine(again, "image-refused", "three frames; give one")
    assert run(["serve", "discard", str(path), str(again), "--yes"]) == 0
    assert spool.forget_discarded() == (node_scene.uid_of(node_scene.image(0)),)
    assert spool.instance(again) is None and spool.counts().instances == {"waiting": 1}
    spool.close()


@pytest.mark.parametrize("arguments", [["node.yaml"], ["conformance"]])
def test_without_the_extra_the_pip_command_is_named(tmp_path: Path, arguments: list[str]) -> None:
    (tmp_path / "hidden").mkdir()
    (tmp_path / "hidden" / "pynetdicom.py").write_text("raise ImportError(name='pynetdicom')")
    written(tmp_path)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "hidden")}
    command = [sys.executable, "-m", "medfm_compress", "serve", *arguments]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "pip install 'medfm-compress[node]'" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.skipif(os.name == "nt", reason="devices are files of their own kind")
def test_files_that_never_end_are_not_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["serve", "/dev/zero", "--check"]) == 2
    assert "not a regular file" in capsys.readouterr().err
    plain = msgspec.to_builtins(node_scene.config(tmp_path))
    plain["fhir"] = [{"name": "f", "url": "https://127.0.0.1/fhir", "token_file": "/dev/zero"}]
    path = tmp_path / "node.yaml"
    path.write_bytes(msgspec.json.encode(plain))
    assert run(["serve", str(path), "--check"]) == 2
    assert "token_file" in capsys.readouterr().out
