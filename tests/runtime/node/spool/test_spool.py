"""The spool keeps what it accepted, in every state, over every end of the process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from bare_spool import CONFIG, CR, Clock, accept, claimed, reopened, result

from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.node.config import SpoolConfig
from medfm_compress.runtime.node.spool.overview import SpoolView
from medfm_compress.runtime.node.spool.spool import Spool, SpoolFull


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def spool(tmp_path: Path, clock: Clock) -> Iterator[Spool]:
    spool = Spool(tmp_path / "spool", CONFIG, clock=clock)
    yield spool
    spool.close()


def files(spool: Spool) -> list[str]:
    return sorted(path.parent.name for path in spool.folder.glob("*/*"))


def test_an_instance_survives_reopening_in_every_state(spool: Spool, clock: Clock) -> None:
    accept(spool)
    spool = reopened(spool)
    assert spool.counts().instances == {"waiting": 1}

    instance = claimed(spool)
    assert (instance.state, instance.attempts, instance.path.read_bytes()) == ("reading", 1, b"headpixels")
    spool = reopened(spool)
    assert spool.counts().instances == {"waiting": 1}

    instance = claimed(spool)
    assert instance.attempts == 2
    spool.finish(instance, [result()])
    spool = reopened(spool)
    assert spool.counts().instances == {"read": 1}

    [delivery] = spool.due_deliveries("pacs", clock.now, 10)
    assert delivery.path.read_bytes() == b"report"
    spool.sent(delivery.id)
    spool = reopened(spool)
    assert spool.due_deliveries("pacs", clock.now, 10) == []

    [delivery] = spool.awaiting_commitment("pacs", clock.now)
    spool.commitment_requested([delivery.id], "2.25.9", clock.now + 60)
    spool = reopened(spool)
    assert spool.awaiting_commitment("pacs", clock.now) == []
    assert [waiting.id for waiting in spool.transaction("pacs", "2.25.9")] == [delivery.id]
    assert [again.id for again in spool.awaiting_commitment("pacs", clock.now + 61)] == [delivery.id]

    assert spool.forget_done(clock.now) == 0
    spool.committed([delivery.id])
    spool = reopened(spool)
    assert spool.forget_done(clock.now) == 1
    assert files(spool) == []
    assert spool.counts().bytes == 0
    assert accept(spool).repeated
    spool.close()


def test_the_same_bytes_again_are_no_second_instance(spool: Spool) -> None:
    first = accept(spool)
    assert accept(spool) == (first.instance_id, True)
    other = accept(spool, data=b"other pixels")
    assert not other.repeated
    assert files(spool) == ["instances", "instances"]
    same = spool.same_instance("1.2.3", before_id=other.instance_id)
    assert same is not None
    assert same.id == first.instance_id
    assert spool.same_instance("1.2.3", before_id=first.instance_id) is None
    assert set(spool.lookup(["1.2.3", "1.2.4"])) == {"1.2.3"}


def test_what_was_not_accepted_leaves_nothing(spool: Spool) -> None:
    with spool.incoming() as incoming:
        incoming.write(b"half of it")
    assert files(spool) == []
    assert spool._used_bytes == 0

    abandoned = spool.begin_incoming()
    abandoned.write(b"half of it")
    abandoned.close()  # as the end of the process does
    (spool.folder / "instances" / "unacknowledged.dcm").write_bytes(b"renamed, then the power failed")
    spool = reopened(spool)
    assert files(spool) == []
    spool.close()


def test_higher_priority_goes_first_then_arrival(spool: Spool) -> None:
    for uid, priority in (("1.1", 5), ("1.2", 9), ("1.3", 5), ("1.4", 0)):
        accept(spool, uid, uid.encode(), priority)
    order = [claimed(spool).arrival.sop_instance_uid for _ in range(4)]
    assert order == ["1.2", "1.1", "1.3", "1.4"]
    assert spool.claim() is None


def test_an_image_that_ends_the_node_is_quarantined_after_its_attempts_and_can_be_replayed(spool: Spool) -> None:
    accept(spool)
    for _ in range(CONFIG.attempts):
        claimed(spool)
        spool = reopened(spool)
    assert spool.claim() is None
    assert spool.counts().quarantine == {"reading-failed": 1}

    view = SpoolView(spool.folder)
    [item] = view.quarantined()
    with pytest.raises(InputError, match="number 77 is not in quarantine"):
        view.replay([item.id, 77])
    assert spool.claim() is None
    assert view.replay([item.id]) == 1
    view.close()
    assert claimed(spool).attempts == 1
    spool.close()


def test_a_released_instance_has_not_been_tried(spool: Spool) -> None:
    accept(spool)
    spool.release(claimed(spool).id)
    assert claimed(spool).attempts == 1


def test_late_images_go_to_quarantine_where_that_is_set(tmp_path: Path, clock: Clock) -> None:
    spool = Spool(tmp_path / "late", SpoolConfig(min_free_gb=0, deadline_s=10, late="quarantine"), clock=clock)
    accept(spool)
    clock.now += 11
    assert spool.claim() is None
    assert spool.counts().quarantine == {"late": 1}
    assert spool.replay() == 1
    assert claimed(spool).deadline_at is None
    spool.close()


def test_finish_is_idempotent_and_owes_every_destination(spool: Spool, clock: Clock) -> None:
    accept(spool)
    instance = claimed(spool)
    spool.finish(instance, [result(destinations=("a", "b"))])
    spool.finish(instance, [result(destinations=("a", "b"))])
    assert spool.counts().deliveries == {"a": {"waiting": 1}, "b": {"waiting": 1}}
    spool.quarantine(instance.id, "late-word", "after it was read")
    assert spool.counts().instances == {"read": 1}


def test_an_instance_of_which_nothing_is_delivered_is_done(spool: Spool, clock: Clock) -> None:
    accept(spool)
    spool.finish(claimed(spool), [])
    assert spool.forget_done(clock.now) == 1
    assert spool.counts().instances == {"done": 1}
    clock.now += (CONFIG.keep_days + 1) * 86400
    spool.forget_done(clock.now)
    assert spool.counts().instances == {}
    assert not accept(spool).repeated


def test_retry_waits_and_refusal_waits_for_replay(spool: Spool, clock: Clock) -> None:
    accept(spool)
    spool.finish(claimed(spool), [result()])
    [delivery] = spool.due_deliveries("pacs", clock.now, 10)
    spool.retry(delivery.id, clock.now + 5, "A700")
    assert spool.due_deliveries("pacs", clock.now, 10) == []
    assert spool.next_due("pacs") == clock.now + 5
    [delivery] = spool.due_deliveries("pacs", clock.now + 5, 10)
    assert (delivery.attempts, delivery.first_attempt_at) == (1, clock.now)

    spool.refused(delivery.id, "0122")
    assert [(item.id, item.destination) for item in spool.quarantined()] == [(delivery.id, "pacs")]
    assert spool.forget_done(clock.now) == 0
    assert spool.replay_deliveries() == 1
    [delivery] = spool.due_deliveries("pacs", clock.now, 10)
    spool.sent(delivery.id)
    spool.commitment_failed([delivery.id], clock.now + 7, "0112")
    assert spool.due_deliveries("pacs", clock.now, 10) == []
    assert len(spool.due_deliveries("pacs", clock.now + 7, 10)) == 1


def test_a_result_that_is_given_up_does_not_hold_its_image(spool: Spool, clock: Clock) -> None:
    accept(spool)
    spool.finish(claimed(spool), [result()])
    [delivery] = spool.due_deliveries("pacs", clock.now, 10)
    spool.refused(delivery.id, "never")
    assert spool.forget_done(clock.now) == 0
    view = SpoolView(spool.folder)
    assert view.discard([], [delivery.id]) == 1
    view.close()
    assert spool.forget_done(clock.now) == 1 and files(spool) == []


def test_a_study_keeps_the_patient_who_came_first(spool: Spool) -> None:
    assert spool.study_patient("1.2.3", "patient 1")
    assert spool.study_patient("1.2.3", "patient 1")
    assert not spool.study_patient("1.2.3", "patient 2")
    assert spool.study_patient("1.2.4", "patient 2")
    assert spool.study_patient("1.2.3", "patient 2", replaces=True)
    assert spool.study_patient("1.2.3", "patient 2") and not spool.study_patient("1.2.3", "patient 1")
    content = b"".join(path.read_bytes() for path in spool.folder.glob("spool.sqlite*"))
    assert b"patient 1" not in content


def test_requests_for_commitment_are_kept_until_answered(spool: Spool, clock: Clock) -> None:
    request_id = spool.commitment_asked("CR1", "2.25.7", [(CR, "1.2.3")])
    assert spool.commitment_asked("CR1", "2.25.7", [(CR, "1.2.3")]) == request_id
    spool = reopened(spool)
    [request] = spool.due_commitment_answers(clock.now)
    assert (request.requester, request.items) == ("CR1", ((CR, "1.2.3"),))
    spool.commitment_retry(request.id, clock.now + 9)
    assert spool.due_commitment_answers(clock.now) == []
    spool.commitment_answered(request.id)
    assert spool.due_commitment_answers(clock.now + 10) == []
    spool.close()


def test_a_full_spool_takes_nothing_more_and_keeps_what_it_has(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "small", SpoolConfig(max_gb=1e-3, min_free_gb=0))
    accept(spool, data=bytes(600_000))
    assert spool.has_room(300_000)
    assert not spool.has_room(500_000)
    with pytest.raises(SpoolFull), spool.incoming() as incoming:
        incoming.write(bytes(500_000))
    assert spool.counts().instances == {"waiting": 1}
    assert files(spool) == ["instances"]
    spool.close()


def test_a_disk_without_the_free_space_asked_for_takes_nothing(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool", SpoolConfig(min_free_gb=1e9))
    with pytest.raises(SpoolFull), spool.incoming():
        pass
    spool.close()


def test_a_vanished_file_is_noticed_and_replaced_when_it_is_sent_again(spool: Spool) -> None:
    accept(spool)
    [path] = (spool.folder / "instances").iterdir()
    path.unlink()
    spool = reopened(spool)
    assert spool.counts().quarantine == {"file-damaged": 1}
    assert not accept(spool).repeated
    assert claimed(spool).path.read_bytes() == b"headpixels"
    spool.close()


def test_only_one_process_holds_a_spool(spool: Spool) -> None:
    with pytest.raises(InputError, match="is in use"):
        Spool(spool.folder, CONFIG)


def test_what_is_no_database_is_refused_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "spool.sqlite").write_bytes(b"no database" * 1000)
    with pytest.raises(InputError, match="cannot use the spool"):
        Spool(tmp_path, CONFIG)
    with pytest.raises(InputError, match="there is no spool"):
        SpoolView(tmp_path / "elsewhere")


def test_a_sleeper_wakes_when_something_arrives(spool: Spool) -> None:
    since = spool.news()
    assert not spool.wait(0.01, since)
    accept(spool)
    assert spool.wait(30, since)
