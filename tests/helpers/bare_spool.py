"""A spool's surroundings for tests: bounds, a clock, instances that arrive and are claimed, results."""

from __future__ import annotations

from medfm_compress.runtime.node.config import SpoolConfig
from medfm_compress.runtime.node.spool.records import Arrival, ResultObject, SpooledInstance
from medfm_compress.runtime.node.spool.spool import Accepted, Spool

CONFIG = SpoolConfig(min_free_gb=0, attempts=2)
CR = "1.2.840.10008.5.1.4.1.1.1"


class Clock:
    def __init__(self) -> None:
        self.now = 1e9

    def __call__(self) -> float:
        return self.now


def accept(spool: Spool, uid: str = "1.2.3", data: bytes = b"pixels", priority: int = 5) -> Accepted:
    arrival = Arrival(
        sop_class_uid=CR, sop_instance_uid=uid, transfer_syntax_uid="1.2.840.10008.1.2", sender="CR1", priority=priority
    )
    with spool.incoming() as incoming:
        incoming.write_header(b"head")
        incoming.file.write(data)
        return spool.accept(incoming, arrival)


def reopened(spool: Spool, config: SpoolConfig = CONFIG) -> Spool:
    spool.close()
    return Spool(spool.folder, config, clock=spool._clock)


def claimed(spool: Spool) -> SpooledInstance:
    instance = spool.claim()
    assert instance is not None
    return instance


def result(uid: str = "2.25.1", destinations: tuple[str, ...] = ("pacs",), content: bytes = b"report") -> ResultObject:
    return ResultObject(
        kind="sr", sop_class_uid="1.2.840.10008.5.1.4.1.1.88.22", sop_instance_uid=uid, content=content,
        destinations=destinations,
    )  # fmt: skip
