"""`Node`: the parts of a node, put together: spool, reader, deliveries, ways in, health; started and stopped in order.

    start    spool ─▶ engine ─▶ deliveries ─▶ reader ─▶ ways in ─▶ READY
    stop     ways in ─▶ reader ─▶ deliveries ─▶ spool, within ``operate.stop_s``

A part that ends, or does not get on, ends the process with exit code 70: what was acknowledged is in the spool, and
whoever supervises the node starts it again. A node that goes on without one of its parts would look well and not be.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Protocol

from medfm_compress import __version__
from medfm_compress.runtime.errors import EXIT_INTERNAL, EXIT_OK, InputError, MissingDependency
from medfm_compress.runtime.node import systemd
from medfm_compress.runtime.node.audit import Audit
from medfm_compress.runtime.node.config import NodeConfig
from medfm_compress.runtime.node.health import Health
from medfm_compress.runtime.node.identifiers import Marks
from medfm_compress.runtime.node.log import set_up_log
from medfm_compress.runtime.node.metrics import Metrics
from medfm_compress.runtime.node.progress import Progress
