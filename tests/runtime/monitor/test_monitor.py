"""What a device counts, and what it says of it."""

from __future__ import annotations

import json
import random

import msgspec
import numpy as np
import pytest
from released_bundle import as_release

from medfm_compress.runtime import ActiveEngine, Bundle, DeviceFolder, Engine
from medfm_compress.runtime.bundle.bundle import rewrite_bundle
from medfm_compress.runtime.device.options import DeviceOptions
from medfm_compress.runtime.errors import BundleRefused, ImageRefused, InputError
from medfm_compress.runtime.monitor import monitor as monitor_module
from medfm_compress.runtime.monitor.monitor import Monitor, read_record
from medfm_compress.runtime.monitor.record import MAX_WEEKS, Record, Seen, count
from medfm_compress.runtime.monitor.reference import (
    MEMBER,
    NoReference,
    input_features,
    make_reference,
    read_reference,
)
from medfm_compress.runtime.monitor.report import make_report
from medfm_compress.runtime.strict_json import digest, encode


def watch(device, images, **options):
    monitor = Monitor(device.folder, random_source=random.Random(0))
    with ActiveEngine(device, observers=[monitor], **options) as engine:
        for image in images:
            engine.predict(image)


@pytest.fixture(scope="module")
def recorded(watched, tmp_path_factory):
    """A device that has counted, and its record."""
    device = DeviceFolder(
        tmp_path_factory.mktemp("recorded") / "device",
        options=DeviceOptions(backend="onnxruntime", threads=1, trial=0),
    )
    device.install(watched)
    device.activate()
    watch(device, [np.full((40, 36), 110, np.uint8)] * 12)
    path = device.folder / "monitor" / f"{device.state.active.manifest_sha256}.json"
    assert only(make_report(device)).weeks[0].predicted == 12  # sound as it is
    return device, path.read_bytes()


def only(report):
    (bundle,) = report.bundles
    return bundle


def test_images_like_the_references_give_no_alarm_and_brighter_ones_do(device, make_images):
    watch(device, make_images(120, seed=2))
    shown = only(make_report(device))
    assert set(shown.features) == {"mean intensity", "spread of intensity", "score of opacity"}
    assert not shown.alarms and not shown.no_reference and shown.threshold == 300
    assert all(sum(feature.counts) == 120 and feature.distance < 0.25 for feature in shown.features.values())
    watch(device, make_images(100, seed=3, shift=30))
    shown = only(make_report(device))
    alarm = shown.alarms["mean intensity"]
    assert 120 < alarm.images < 200 and alarm.week == shown.weeks[-1].week
    assert sum(week.predicted for week in shown.weeks) == 220


def test_nothing_of_an_image_is_kept(device, make_images, tmp_path):
    from PIL import Image

    path = tmp_path / "Secret^Patient.png"
    for image in make_images(20, seed=4):
        Image.fromarray(image).save(path)
        watch(device, [path])
    (tmp_path / "Secret^Other.png").write_text("no image")
    with ActiveEngine(device, observers=[Monitor(device.folder)]) as engine, pytest.raises(ImageRefused):
        engine.predict(tmp_path / "Secret^Other.png")
    report = encode(make_report(device))
    stored = b"".join(path.read_bytes() for path in (device.folder / "monitor").iterdir())
    assert b"Secret" not in report + stored and str(tmp_path).encode() not in report + stored
    (week,) = only(make_report(device)).weeks
    assert week.predicted == 20 and week.refusals == {"ImageRefused": 1}


def test_a_week_of_few_images_gives_their_number_only(device, make_images):
    watch(device, make_images(9, seed=2))
    (week,) = only(make_report(device)).weeks
    assert week.predicted == 9 and not (week.bins or week.called or week.flags or week.distances)
    watch(device, make_images(1, seed=3))
    (week,) = only(make_report(device)).weeks
    assert sum(week.bins["mean intensity"]) == 10 and 0 <= week.distances["mean intensity"] <= 1


def test_weeks_go_by_the_clock_and_the_test_does_not(device, make_images, monkeypatch):
    weeks = iter(["2026-W01", "1970-W01", "2026-W02"])
    for _ in range(3):
        week = next(weeks)
        monkeypatch.setattr(monitor_module, "this_week", lambda week=week: week)
        watch(device, make_images(10, seed=2))
    shown = only(make_report(device))
    assert [week.week for week in shown.weeks] == ["2026-W01", "1970-W01", "2026-W02"]
    assert read_record(device.folder, device.state.active).watched["mean intensity"].capital.images == 30


def test_its_size_is_bounded():
    record = Record(manifest_sha256="0" * 64, release=1, variant="v")
    for number in range(MAX_WEEKS + 10):
        for flag in range(3):
            record = count(record, Seen(flags=(f"flag-{number}-{flag}",)), f"{number}", 0.5)
    assert len(record.weeks) == MAX_WEEKS and record.earlier_weeks == 10
    many = record
    for flag in range(100):
        many = count(many, Seen(flags=(f"flag-{flag}",)), "last", 0.5)
    assert len(many.weeks[-1].flags) == 32


def test_two_processes_count_together(device, make_images):
    first, second = Monitor(device.folder), Monitor(device.folder)
    with ActiveEngine(device, observers=[first]) as one, ActiveEngine(device, observers=[second]) as two:
        for image in make_images(40, seed=2):
            one.predict(image)
            two.predict(image)
    assert read_record(device.folder, device.state.active).weeks[-1].predicted == 80


def test_a_bundle_without_a_reference_says_so_and_is_counted(releases_plain, make_images, tmp_path):
    device = DeviceFolder(tmp_path / "d", options=DeviceOptions(backend="onnxruntime", threads=1, trial=0))
    device.install(releases_plain)
    device.activate()
    watch(device, make_images(12, seed=2))
    shown = only(make_report(device))
    assert "holds no reference" in shown.no_reference and shown.features == {}
    assert shown.weeks[0].predicted == 12


@pytest.fixture
def releases_plain(tiny, tmp_path):
    return as_release(tiny.bundle(tmp_path / "plain.medfm", (tiny.ORT,)), tmp_path / "plain-1.medfm", 1)


def test_what_damages_the_record_begins_it_anew(device, make_images):
    watch(device, make_images(12, seed=2))
    (path,) = (device.folder / "monitor").glob("*.json")
    content = bytearray(path.read_bytes())
    content[40] ^= 1
    path.write_bytes(content)
    assert make_report(device).problems
    watch(device, make_images(5, seed=2))
    assert only(make_report(device)).weeks[0].predicted == 5


def changed(content, path, value):
    """``content`` with ``value`` at ``path``, keys and positions in turn."""
    *way, last = path
    inner = content
    for key in way:
        inner = inner[key]
    inner[last] = value
    return content


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("weeks", 0, "predicted"), -5),
        (("weeks", 0, "predicted"), 10**18),
        (("weeks", 0, "predicted"), 10**30),
        (("weeks", 0, "week"), "../x"),
        (("weeks", 0, "week"), "2026-W54"),
        (("weeks", 0, "week"), "2026-W48\n"),
        (("weeks", 0, "refusals"), {"ImageRefused": -1}),
        (("weeks", 0, "called"), {"opacity": 10**13}),
        (("weeks", 0, "flags"), {"x": -1}),
        (("weeks", 0, "bins"), {"mean intensity": [1]}),
        (("weeks", 0, "bins"), {"never watched": [1, 2, 3]}),
        (("watched", "mean intensity", "counts", 0), -1),
        (("watched", "mean intensity", "counts"), [1]),
        (("watched", "mean intensity", "missing"), -1),
        (("watched", "mean intensity", "reference", "counts", 0), -10),
        (("watched", "mean intensity", "capital", "images"), -1),
        (("watched", "mean intensity", "capital", "bets"), [1.0]),
        (("watched", "mean intensity", "capital", "bets", 0), -1.0),
        (("watched", "mean intensity", "alarm"), {"week": "x", "images": 1}),
        (("replays",), [{"week": "2026-W48", "error": -1.0}]),
        (("earlier_weeks",), -1),
    ],
)
def test_a_record_that_no_device_could_have_counted_is_damaged(recorded, path, value):
    device, content = recorded
    file = device.folder / "monitor" / f"{device.state.active.manifest_sha256}.json"
    content = changed(json.loads(content)["content"], path, value)
    sealed = "" if value == 10**30 else digest(content)  # a number that cannot be sealed
    file.write_text(json.dumps({"content": content, "sha256": sealed}))
    report = make_report(device)
    assert report.bundles == () and len(report.problems) == 1
    assert ("is damaged" in report.problems[0]) == (value == 10**30)  # the digest holds, and what it seals does not


def test_what_cannot_count_predicts(device, make_images, monkeypatch):
    def full(*_):
        raise InputError("no space left")

    monkeypatch.setattr(monitor_module, "write_sealed", full)
    watch(device, make_images(20, seed=2))
    monkeypatch.setattr(Monitor, "predicted", full)
    watch(device, make_images(2, seed=2))
    assert make_report(device).bundles == ()


def test_golden_cases_are_replayed_from_time_to_time(device, make_images):
    watch(device, make_images(3, seed=2), replay_every_s=0.0)
    watch(device, make_images(3, seed=2))
    replays = only(make_report(device)).replays
    assert len(replays) == 3 and all(replay.error < 1e-4 for replay in replays)


def test_a_golden_case_that_gives_another_result_later_brings_the_previous_bundle_back(
    device, tiny, make_images, tmp_path, monkeypatch
):
    later = as_release(tiny.bundle(tmp_path / "l.medfm", model=tiny.network(seed=5)), tmp_path / "later.medfm", 2)
    device.install(later)
    device.activate()
    real = Engine.replay_goldens

    def replay(engine):
        if engine.manifest.release_number == 2:
            raise BundleRefused("computes something else")
        return real(engine)

    with ActiveEngine(device, observers=[Monitor(device.folder)], replay_every_s=0.0) as engine:
        monkeypatch.setattr(Engine, "replay_goldens", replay)
        failed = engine.bundle
        assert engine.predict(next(make_images(1, seed=2))).model_digest != Bundle.open(later).model_digest
        assert engine.bundle.release == 1
    assert device.state.active.release == 1 and "something else" in device.state.events[-1].reason
    assert read_record(device.folder, failed).replays[-1].error is None
    monkeypatch.setattr(Engine, "replay_goldens", lambda _: (_ for _ in ()).throw(BundleRefused("something else")))
    with ActiveEngine(device, replay_every_s=0.0) as engine, pytest.raises(BundleRefused):
        engine.predict(next(make_images(1, seed=2)))


def test_a_reference_of_another_model_is_not_used(watched, tiny, tmp_path):
    engine = Engine(watched, threads=1)
    assert read_reference(engine.bundle, engine.variant).cases == 150
    point = msgspec.structs.replace(tiny.POINT, threshold=0.4)
    task = msgspec.structs.replace(tiny.TASK, operating_points=(point,))
    rewrite_bundle(watched, tmp_path / "other.medfm", task=task)
    opened = Bundle.open(tmp_path / "other.medfm")
    answer = read_reference(opened, tiny.ORT)
    assert isinstance(answer, NoReference) and "of another model" in answer.reason
    renamed = msgspec.structs.replace(tiny.ORT, name="another")
    assert "no scores of variant another" in read_reference(engine.bundle, renamed).reason


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b'{"model_digest": 1}'])
def test_a_reference_that_is_none_is_refused_and_the_bundle_predicts(watched, tmp_path, make_images, content):
    rewrite_bundle(watched, tmp_path / "odd.medfm", files={MEMBER: content})
    opened = Bundle.open(tmp_path / "odd.medfm")
    with pytest.raises(BundleRefused, match="reference"):
        read_reference(opened, opened.manifest.variants[0])
    device = DeviceFolder(tmp_path / "d", options=DeviceOptions(backend="onnxruntime", threads=1, trial=0))
    device.install(as_release(tmp_path / "odd.medfm", tmp_path / "odd-1.medfm", 1))
    device.activate()
    watch(device, make_images(2, seed=2))
    assert "cannot be used" in only(make_report(device)).no_reference


def test_adding_a_reference_keeps_the_verdicts(watched):
    bundle = Bundle.open(watched)
    assert bundle.verdict("onnxruntime-cpu-fp32").outcome == "pass"


def test_a_reference_of_few_cases_is_refused(watched):
    with pytest.raises(InputError, match="at least 50"):
        make_reference(Bundle.open(watched), "val", [{"mean intensity": 0.5}] * 49, {})


def test_intensity_is_that_of_the_image_before_normalisation(watched, tiny):
    image = np.full((40, 40), 51, np.uint8)
    with Engine(watched, threads=1) as engine:
        values = input_features(engine.predict_with_input(image)[1], engine.manifest.image_spec)
    assert values["mean intensity"] == pytest.approx(0.2, abs=1e-6)
    assert values["spread of intensity"] == pytest.approx(0, abs=1e-6) and "pixel spacing" not in values


def test_the_spacing_of_a_dicom_file_is_watched(tiny, tmp_path, make_dicom):
    with Engine(tiny.bundle(tmp_path / "a.medfm"), threads=1) as engine:
        for attributes, expected in (
            ({"PixelSpacing": [0.1, 0.4]}, 0.2),
            ({"ImagerPixelSpacing": [0.5, 0.5]}, 0.5),
            ({"PixelSpacing": [0, 1], "ImagerPixelSpacing": [0.5, 0.5]}, 0.5),
            ({}, None),
        ):
            seen = engine.predict_with_input(make_dicom(tiny.image(), **attributes))[1]
            assert seen.spacing_mm == (expected if expected is None else pytest.approx(expected))


def test_several_images_of_an_examination_are_tested_once(device, make_images, make_dicom):
    files = [
        make_dicom(image, StudyInstanceUID=f"1.2.{number // 3}") for number, image in enumerate(make_images(12, 2))
    ]
    watch(device, files)
    watched = read_record(device.folder, device.state.active).watched["mean intensity"]
    assert sum(watched.counts) == watched.capital.images == 4
    (week,) = only(make_report(device)).weeks
    assert week.predicted == sum(week.bins["mean intensity"]) == 12
    stored = b"".join(path.read_bytes() for path in (device.folder / "monitor").iterdir())
    assert b"1.2." not in stored


def test_the_mark_of_an_examination_means_nothing_elsewhere(make_dicom, tiny):
    import subprocess
    import sys

    from medfm_compress.runtime.read_image import read_image

    code = (
        "import pydicom; from medfm_compress.runtime.dicom.examination import examination\n"
        "ds = pydicom.Dataset(); ds.StudyInstanceUID = '1.2.3'; print(examination(ds).hex())"
    )
    marks = {
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    }
    assert len(marks) == 2
    one, same, other = (read_image(make_dicom(tiny.image(), StudyInstanceUID=uid)) for uid in ("1.2", "1.2", "1.3"))
    assert one.examination == same.examination != other.examination
    assert read_image(make_dicom(tiny.image())).examination is None
