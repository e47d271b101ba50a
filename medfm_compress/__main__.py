"""The command line's way in and out. It loads nothing before it can be interrupted in good order."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and exit with the design's exit codes."""
    # No library of the toolchain may reach for the network on its own: telemetry off, hubs asked only on request.
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("DO_NOT_TRACK", "1")
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    # OpenMP's threads spin while they wait, which on a shared machine takes the processor from those they wait for.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        from medfm_compress.cli.main import run

        code = run(arguments)
    except KeyboardInterrupt:  # while the command line itself was loaded
        sys.stderr.write("error: interrupted; nothing was begun\n")
        code = 130
    sys.exit(code)


if __name__ == "__main__":
    main()
