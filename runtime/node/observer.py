"""Where deliveries and storage commitment tell what happened: counted, and put into the audit trail."""

from __future__ import annotations

import time
from typing import Any

from medfm_compress.runtime.node.audit import Audit
from medfm_compress.runtime.node.metrics import Metrics
from medfm_compress.runtime.node.spool.spool import Spool


class NodeObserver:
    """Metrics and audit trail as one."""

    def __init__(self, metrics: Metrics, audit: Audit, spool: Spool) -> None:
        self._metrics, self._audit, self._spool = metrics, audit, spool

    def count(self, name: str, **labels: str) -> None:
        """Count an event."""
        self._metrics.count(name, **labels)

    def record(self, event: str, **facts: Any) -> None:
        """Put an event into the audit trail; of a delivery also how long its image was under way."""
        if event == "sent":
            instance = self._spool.instance(int(facts["instance"]))
            if instance is not None:
                waited = max(0.0, time.time() - instance.received_at)
                self._metrics.observe("delivered_seconds", waited, destination=facts["destination"])
        self._audit.record(event, **facts)
