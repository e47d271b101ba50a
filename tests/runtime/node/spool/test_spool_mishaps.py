"""The spool beside a database that is gone or broken, a clock that jumps, destinations that are no more."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from bare_spool import CONFIG, Clock, accept, claimed, reopened, result

from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.node.audit import Audit
from medfm_compress.runtime.node.backoff import FEWEST_ATTEMPTS, gives_up
from medfm_compress.runtime.node.config import RetryConfig
from medfm_compress.runtime.node.identifiers import Marks
from medfm_compress.runtime.node.keeper import Keeper
from medfm_compress.runtime.node.metrics import Metrics
from medfm_compress.runtime.node.progress import Progress
from medfm_compress.runtime.node.spool.overview import SpoolView
from medfm_compress.runtime.node.spool.schema import DATABASE
from medfm_compress.runtime.node.spool.spool import Spool

YEARS = 10 * 365 * 86400.0


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def spool(tmp_path: Path, clock: Clock) -> Iterator[Spool]:
    spool = Spool(tmp_path / "spool", CONFIG, clock=clock)
    yield spool
    spool.close()


@pytest.mark.parametrize("damage", ["removed", "emptied"])
@pytest.mark.parametrize("kind", ["instances", "objects"])
def test_images_outlive_their_database(spool: Spool, damage: str, kind: str) -> None:
    accept(spool)
    if kind == "objects":
        spool.finish(claimed(spool), [result()])
    spool.close()
    kept = sorted(spool.folder.glob("*/*"))
    for path in spool.folder.glob(f"{DATABASE}*"):
        path.unlink()
    if damage == "emptied":
        (spool.folder / DATABASE).touch()
    with pytest.raises(InputError, match="missing or empty; put that back"):
        Spool(spool.folder, CONFIG)
    assert kept and sorted(spool.folder.glob("*/*")) == kept


def test_a_database_that_breaks_is_an_image_that_cannot_be_written_now(spool: Spool) -> None:
    spool._connection.execute("DROP TABLE instances")
    with pytest.raises(OSError, match="database"):
        accept(spool)
    assert not list((spool.folder / "incoming").iterdir())


def test_a_broken_database_is_said_in_one_sentence(spool: Spool) -> None:
    spool.close()
    database = sqlite3.connect(spool.folder / DATABASE)
    database.executescript("DROP TABLE instances; DROP TABLE deliveries")
    database.close()
    with pytest.raises(InputError, match="cannot use the spool"):
        Spool(spool.folder, CONFIG)
    view = SpoolView(spool.folder)
    for look in (view.counts, view.quarantined, view.replay, view.replay_deliveries):
        with pytest.raises(InputError, match="database cannot be used"):
            look()
    view.close()


def test_waits_end_where_the_clock_goes_back(spool: Spool, clock: Clock) -> None:
    folder = spool.folder.parent
    keeper = Keeper(spool, Audit(folder, Marks.of_folder(folder)), Metrics(), Progress(), clock=clock)
    accept(spool)
    clock.now += YEARS
    spool.finish(claimed(spool), [result()])
    [delivery] = spool.due_deliveries("pacs", clock.now, 9)
    spool.retry(delivery.id, clock.now + 60, "busy")
    spool.commitment_asked("CR1", "1.2.9", [("1.2", "1.2.3")])
    keeper.look()
    assert not spool.due_deliveries("pacs", clock.now, 9)
    clock.now -= YEARS
    assert not spool.due_deliveries("pacs", clock.now, 9)
    keeper.look()
    assert spool.due_deliveries("pacs", clock.now, 9) and spool.due_commitment_answers(clock.now)


def test_waits_end_with_a_new_start(spool: Spool, clock: Clock) -> None:
    accept(spool)
    clock.now += YEARS
    spool.finish(claimed(spool), [result()])
    clock.now -= YEARS
    assert not spool.due_deliveries("pacs", clock.now, 9)
    again = reopened(spool)
    assert len(again.due_deliveries("pacs", clock.now, 9)) == 1
    again.close()


def test_a_clock_that_was_put_right_gives_nothing_up() -> None:
    retry = RetryConfig(give_up_days=7)
    assert not gives_up(retry, 0.0, YEARS, 1)
    assert gives_up(retry, 0.0, YEARS, FEWEST_ATTEMPTS)
    assert not gives_up(retry, 0.0, 86400.0, 10 * FEWEST_ATTEMPTS)


@pytest.mark.parametrize("is_sent", [False, True])
def test_results_for_a_destination_that_is_gone_are_seen_and_sent_once_it_is_back(
    spool: Spool, clock: Clock, is_sent: bool
) -> None:
    accept(spool)
    spool.finish(claimed(spool), [result(destinations=("pacs", "old'; --"))])
    assert spool.set_destinations(["pacs", "old'; --"]) == (0, 0)
    [delivery] = spool.due_deliveries("old'; --", clock.now, 9)
    if is_sent:
        spool.sent(delivery.id)
    assert spool.set_destinations(["pacs"]) == (1, 0)
    [entry] = spool.quarantined()
    assert entry.destination == "old'; --" and "configuration" in entry.reason
    assert len(spool.due_deliveries("pacs", clock.now, 9)) == 1
    assert spool.forget_done(clock.now) == 0
    assert spool.set_destinations(["pacs", "old'; --"]) == (0, 1)
    assert len(spool.due_deliveries("old'; --", clock.now, 9)) == 1 and not spool.quarantined()


def test_what_a_destination_refused_is_not_sent_because_the_destination_was_away(spool: Spool, clock: Clock) -> None:
    accept(spool)
    spool.finish(claimed(spool), [result()])
    [delivery] = spool.due_deliveries("pacs", clock.now, 9)
    spool.refused(delivery.id, "A900H")
    assert spool.set_destinations([]) == (0, 0) and spool.set_destinations(["pacs"]) == (0, 0)
    assert [entry.reason for entry in spool.quarantined()] == ["A900H"]
