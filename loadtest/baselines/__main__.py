"""``python -m loadtest.baselines send_str|os_write PORT``: one baseline server."""

from __future__ import annotations

import sys

from loadtest.baselines import os_write, send_str

SERVERS = {"send_str": send_str.main, "os_write": os_write.main}


def main() -> None:
    """Serve until stdin closes."""
    SERVERS[sys.argv[1]](int(sys.argv[2]))


if __name__ == "__main__":
    main()
