"""A real worker that takes nothing from the ring while a file has its number.

``argv`` is the file and the number of the lifeline's descriptor. Its loop turns, it
beats and accepts connections as ever.
"""

from __future__ import annotations

import sys
from pathlib import Path

from broker.worker.dispatcher import Dispatcher
from broker.worker.main import main

NAMED, LIFELINE = Path(sys.argv[1]), sys.argv[2]

drain_for_real = Dispatcher._drain


def drain(self: Dispatcher) -> None:
    if NAMED.read_text() != str(self._row):
        drain_for_real(self)


if __name__ == "__main__":
    Dispatcher._drain = drain  # type: ignore[method-assign]
    sys.argv[1:] = [LIFELINE]
    sys.exit(main())
