"""``python -m loadtest.fleet COUNTERS_FD ROWS ROW``: one process of the fleet."""

from __future__ import annotations

import gc
import sys

from loadtest.command import CommandPipe
from loadtest.counters import Counters
from loadtest.fleet.loop import FleetLoop


def main() -> None:
    """Serve commands until the controller is gone."""
    fd, rows, row = (int(word) for word in sys.argv[1:4])
    # Nothing here is a cycle, and a collection over 10 000 sockets is a pause.
    gc.disable()
    FleetLoop(CommandPipe(), Counters(fd, rows).row(row)).run()


if __name__ == "__main__":
    main()
