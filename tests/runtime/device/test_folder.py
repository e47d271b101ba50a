"""A device folder: what is let in, what runs, and what comes back."""

from __future__ import annotations

import multiprocessing
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
from released_bundle import as_release
from signing import Signer, make_store
from updated_device import OPTIONS, releases_of, update

from medfm_compress.runtime import ActiveEngine, Bundle, DeviceFolder, Engine
from medfm_compress.runtime.device import folder as folder_module
from medfm_compress.runtime.device.lock import exclusive
from medfm_compress.runtime.device.options import DeviceOptions
from medfm_compress.runtime.errors import BundleRefused, InputError, Refused
from medfm_compress.runtime.golden_cases import read_golden_logits
from medfm_compress.runtime.trust.store_changes import add_key, remove_key


def test_what_runs_is_what_was_installed_and_activated(device, releases, tiny):
    device.install(releases[1])
    assert releases_of(device.state) == (None, None, 1)
    with pytest.raises(BundleRefused, match="no bundle is active"):
        ActiveEngine(device)
    result = device.activate()
    assert (result.variant, result.golden_cases) == ("onnxruntime-cpu-fp32", 2)
    assert result.golden_error < 1e-4 and result.latency_ms > 0
    with ActiveEngine(device) as active, Engine(releases[1], threads=1) as engine:
        ours, theirs = active.predict(tiny.image()), engine.predict(tiny.image())
    assert (ours.probabilities, ours.model_digest) == (theirs.probabilities, theirs.model_digest)


def test_predictions_commit_and_the_minimum_rises_with_the_commit(device, releases, tiny):
    update(device, releases[2], outcomes=())
    assert device.state.minimum_release == 0 and device.state.trial.length == 2
    with ActiveEngine(device) as active:
        active.predict(tiny.image())
        assert device.state.trial.predicted == 1
        active.predict(tiny.image())
    state = device.state
    assert (state.trial, state.minimum_release) == (None, 2)
    assert [event.what for event in state.events] == ["installed", "activated", "committed"]


def test_a_bundle_that_refuses_its_first_images_goes_and_the_one_before_predicts(device, releases, tiny):
    update(device, releases[1])
    update(device, releases[2], outcomes=())
    bad = np.zeros((4, 4), np.uint8)  # below min_side_px
    with ActiveEngine(device) as active:
        for release in (2, 2, 1):
            assert active.bundle.release == release
            with pytest.raises(Refused):
                active.predict(bad)
        assert active.predict(tiny.image()).model_digest == Bundle.open(releases[1]).model_digest
    state = device.state
    assert releases_of(state) == (1, None, None) and state.minimum_release == 1
    assert state.events[-1].what == "rolled-back" and "2 of its first 2 images" in state.events[-1].reason


def test_what_the_caller_does_wrong_is_no_refusal(device, releases, tiny):
    update(device, releases[1])
    update(device, releases[2], outcomes=())
    with ActiveEngine(device) as active:
        active.close()
        for _ in range(3):
            with pytest.raises(InputError):
                active.predict(tiny.image())
    assert device.state.trial.refused == 0


def test_a_bundle_that_ends_the_process_each_time_goes(device, releases):
    update(device, releases[1])
    update(device, releases[2], outcomes=())
    for _ in range(3):
        assert device.count_start().active.release == 2  # and nothing is ever reported
    assert device.count_start().active.release == 1
    assert "3 starts" in device.state.events[-1].reason
    assert device.count_start() == device.state  # committed: nothing is counted, nothing written


def test_only_newer_bundles_or_those_that_ran_here_are_let_in(device, releases):
    update(device, releases[1])
    update(device, releases[3])
    with pytest.raises(BundleRefused, match="no newer than release 3"):
        device.install(releases[2])
    update(device, releases[1])
    assert device.state.active.release == 1 and device.state.minimum_release == 3
    assert device.state.trial is None  # it passed its trial long ago
    with pytest.raises(BundleRefused, match="no newer than release 3"):
        device.install(releases[2])


def test_another_bundle_of_a_release_that_was_committed_is_refused(device, releases, tiny, tmp_path):
    update(device, releases[2])
    other = as_release(tiny.bundle(tmp_path / "o.medfm", model=tiny.network(seed=9)), tmp_path / "other.medfm", 2)
    with pytest.raises(BundleRefused, match="no newer than release 2"):
        device.install(other)


def test_a_candidate_that_waited_while_a_higher_release_was_committed(device, releases):
    update(device, releases[1])
    device.install(releases[2])
    waiting = device.state.candidate
    update(device, releases[3])
    state = device.state
    assert state.candidate is None and not device.path_of(waiting).exists()


def test_rolling_back_by_hand_and_forth(device, releases):
    update(device, releases[1])
    with pytest.raises(InputError, match="no earlier bundle"):
        device.roll_back()
    update(device, releases[2])
    assert releases_of(device.roll_back()) == (1, 2, None)
    assert releases_of(device.roll_back()) == (2, 1, None)
    assert device.state.minimum_release == 2 and device.state.trial is None


def test_a_bundle_on_trial_that_is_left_by_hand_is_forgotten(device, releases):
    update(device, releases[1])
    update(device, releases[2], outcomes=(True,))
    assert releases_of(device.roll_back()) == (1, None, None)
    with pytest.raises(InputError, match="no earlier bundle"):
        device.roll_back()


def test_what_never_passed_its_trial_is_no_way_back_from_what_did(device, releases):
    update(device, releases[1], outcomes=())
    update(device, releases[2], outcomes=())
    assert releases_of(device.state) == (2, 1, None)
    device.report(refused=False)
    assert releases_of(device.report(refused=False)) == (2, None, None)


def test_a_newer_one_after_one_on_trial_keeps_the_committed_one_behind_it(device, releases):
    update(device, releases[1])
    update(device, releases[2], outcomes=(True,))
    update(device, releases[3], outcomes=())
    assert releases_of(device.state) == (3, 1, None)


def failing(tiny, tmp_path, kind):
    path = tmp_path / "bad.medfm"
    if kind == "goldens":
        files = tiny.contents((tiny.ORT,)) | {"model.onnx": tiny.network(seed=7)}
        tiny.write(path, (tiny.ORT,), files)
        from medfm_compress.runtime.bundle.bundle import rewrite_bundle

        rewrite_bundle(path, path, verdicts=[tiny.verdict(path, tiny.ORT.name, "pass")])
    else:
        tiny.bundle(path, outcome="fail" if kind == "verdict" else "pass")
    return path


@pytest.mark.parametrize(
    ("kind", "words"),
    [("goldens", "computes something else"), ("verdict", "verdict on it is fail"), ("latency", "allowed are 1e-06 ms")],
)
def test_a_failed_self_test_leaves_what_ran(device, releases, tiny, tmp_path, kind, words):
    update(device, releases[1])
    bad = as_release(failing(tiny, tmp_path, kind), tmp_path / "bad-2.medfm", 2)
    if kind == "latency":
        device.options = DeviceOptions(backend="onnxruntime", threads=1, max_latency_ms=1e-6)
    device.install(bad)
    with pytest.raises(BundleRefused, match=words):
        device.activate()
    assert releases_of(device.state) == (1, None, None)
    assert device.state.events[-1].what == "self-test-failed" and words in device.state.events[-1].reason
    with ActiveEngine(device) as active:
        assert active.bundle.release == 1


def test_a_backend_that_is_not_there_says_nothing_of_the_bundle(device, releases):
    device.install(releases[1])
    with pytest.raises(InputError, match="no backend 'abacus'"):
        DeviceFolder(device.folder, options=DeviceOptions(backend="abacus")).activate()
    assert device.state.candidate is not None


def test_the_trust_store_is_asked_at_every_border(device, releases, tmp_path, tiny):
    approver = Signer.make("approver", "approver")
    builders = {release: Signer.make(f"builder {release}", "builder") for release in (1, 2, 3)}
    signed = {}
    for release, builder in builders.items():
        signed[release] = tmp_path / f"{release}.medfm"
        shutil.copy(releases[release], signed[release])
        builder.sign(signed[release])
        approver.sign(signed[release])
    store = make_store(tmp_path / "store", approver, builders[1], builders[2])
    asked = DeviceFolder(device.folder, options=OPTIONS, trust=store)
    for refused in (signed[3], releases[3]):
        with pytest.raises(BundleRefused):
            asked.install(refused)
    update(asked, signed[1])
    asked.install(signed[2])
    remove_key(store, builders[2].public.name)
    with pytest.raises(BundleRefused):
        asked.activate()
    add_key(store, builders[2].public)
    update(asked, signed[2])
    remove_key(store, builders[2].public.name)  # the start goes back by itself
    with ActiveEngine(asked) as active:
        assert active.bundle.release == 1 and "unsigned-bundle" not in active.predict(tiny.image()).flags


def _hold(path, held, done):
    with exclusive(Path(path)):
        held.set()
        done.wait(30)


def test_two_processes_do_not_change_one_folder_at_once(device, releases, monkeypatch):
    monkeypatch.setattr("medfm_compress.runtime.device.lock.PATIENCE_S", 0.1)
    monkeypatch.setattr(folder_module, "exclusive", lambda path: exclusive(path, 0.1))
    update(device, releases[1])
    context = multiprocessing.get_context("spawn")
    held, done = context.Event(), context.Event()
    process = context.Process(target=_hold, args=(str(device.folder / "lock"), held, done))
    process.start()
    try:
        assert held.wait(30)
        with pytest.raises(InputError, match="another process is changing"):
            device.install(releases[2])
        with ActiveEngine(device) as active:  # who only reads does not wait
            assert active.bundle.release == 1
    finally:
        process.kill()  # the system gives the lock back
        process.join()
    device.install(releases[2])


def test_threads_that_report_lose_no_count(device, releases):
    device.options = DeviceOptions(backend="onnxruntime", threads=1, trial=100)
    update(device, releases[1], outcomes=())
    workers = [threading.Thread(target=lambda: [device.report(refused=False) for _ in range(5)]) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert device.state.trial.predicted == 20


def test_histories_stay_bounded(device, releases, monkeypatch):
    monkeypatch.setattr(folder_module, "self_test", lambda *_, **__: None)
    update(device, releases[1])
    update(device, releases[2])
    for _ in range(70):
        device.roll_back()
    assert len(device.state.events) == 64 and len(device.state.accepted) == 2


def test_all_goldens_are_replayed_by_the_self_test(device, releases, monkeypatch):
    replayed = []
    real = Engine.replay_goldens
    monkeypatch.setattr(Engine, "replay_goldens", lambda self: replayed.append(self.variant) or real(self))
    update(device, releases[1])
    assert len(replayed) == 1
    with Engine(releases[1], threads=1) as engine:
        assert len(read_golden_logits(engine.bundle, engine.variant)) == 2 and engine.replay_goldens() < 1e-4


def raise_input_error():
    raise InputError("cannot use the cache folder")


def test_what_ails_every_bundle_brings_none_back(device, releases, monkeypatch):
    update(device, releases[1])
    update(device, releases[2])
    device.install(releases[3])
    device.activate()
    before = device.state
    with pytest.raises(InputError, match="threads is -1"):
        ActiveEngine(device, threads=-1)
    store = make_store(device.folder.parent / "store", Signer.make("builder", "builder"))
    store.chmod(0o777)
    with pytest.raises(Refused, match="store"):
        ActiveEngine(DeviceFolder(device.folder, trust=store))
    monkeypatch.setattr("medfm_compress.runtime.engine.open_variant", lambda *_: raise_input_error())
    for _ in range(5):
        with pytest.raises(InputError, match="cannot use the cache"):
            ActiveEngine(device)
    assert device.state.active == before.active and device.state.trial.starts == 0


def test_backend_and_threads_are_those_of_the_activation(device, releases):
    update(device, releases[1])
    with ActiveEngine(device.folder) as active:
        assert (active.engine.info.backend, active.engine.info.threads) == ("onnxruntime", 1)
    with ActiveEngine(device.folder, threads=2) as active:
        assert active.engine.info.threads == 2


def test_what_another_process_activates_predicts_from_the_next_image_on(device, releases, tiny):
    update(device, releases[1])
    with ActiveEngine(device.folder) as active:
        first = active.predict(tiny.image()).model_digest
        update(device, releases[2], outcomes=())
        assert active.predict(tiny.image()).model_digest == Bundle.open(releases[2]).model_digest != first
        assert device.state.trial.predicted == 1  # it is counted for the bundle that predicted
        device.roll_back()
        assert active.predict(tiny.image()).model_digest == first


def test_an_outcome_of_the_bundle_before_is_not_counted_for_the_new_one(device, releases):
    update(device, releases[1])
    before = device.state.active
    update(device, releases[2], outcomes=())
    assert device.report(refused=True, bundle=before).trial.refused == 0
    assert device.report(refused=True, bundle=device.state.active).trial.refused == 1


def test_an_engine_that_is_closed_in_good_order_is_no_start_that_came_to_nothing(device, releases):
    update(device, releases[1])
    update(device, releases[2], outcomes=())
    for _ in range(6):
        with ActiveEngine(device) as active:
            assert active.replay_goldens() < 1e-4
    assert device.state.trial.starts == 0 and device.state.active.release == 2


def test_an_answer_that_is_withheld_counts_as_refused(device, releases, tiny, monkeypatch):
    import msgspec

    update(device, releases[1])
    update(device, releases[2], outcomes=())
    real = Engine.predict_with_input

    def withhold(engine, source, **options):
        prediction, seen = real(engine, source, **options)
        return msgspec.structs.replace(prediction, probabilities={}, findings={}, not_reliable="unlike"), seen

    monkeypatch.setattr(Engine, "predict_with_input", withhold)
    with ActiveEngine(device) as active:
        active.predict(tiny.image())
        assert active.predict(tiny.image()).not_reliable and active.bundle.release == 1
