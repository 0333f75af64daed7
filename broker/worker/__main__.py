"""``python -m broker.worker LIFELINE_FD``: started by the supervisor only."""

from __future__ import annotations

import sys

from broker.worker.main import main

if __name__ == "__main__":
    sys.exit(main())
