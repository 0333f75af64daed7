"""Run a command within a time limit and fail if it leaves a process behind.

Usage: watched.py SECONDS COMMAND...

Whatever loses its parent below this process becomes its child (a Linux "subreaper"),
so nothing can get away by starting a session of its own or by changing its name.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
GRACE_S = 5.0
"""How long what was told to end may take."""


def main() -> int:
    """Return the status of the command, 124 after the limit, 1 for leftovers."""
    limit_s, command = float(sys.argv[1]), sys.argv[2:]
    prctl = ctypes.CDLL(None).prctl
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        status = subprocess.run(command, timeout=limit_s, check=False).returncode  # noqa: S603  the caller's command
    except subprocess.TimeoutExpired:
        print(f"stopped after {limit_s:g} s: {' '.join(command)}", file=sys.stderr)
        status = 124
    except KeyboardInterrupt:
        status = 130
    finally:
        left = end_children()
    return status or (1 if left else 0)


def end_children() -> list[str]:
    """Wait for what is ending, kill the rest; return what had to be killed."""
    deadline = time.monotonic() + GRACE_S
    left: list[str] = []
    while children := living_children():
        if time.monotonic() > deadline:
            for pid in children:
                line = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ")
                left.append(f"{pid} {line.decode(errors='replace')}")
                print(f"left behind: {left[-1]}", file=sys.stderr)
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)
    return left


def living_children() -> list[int]:
    """The children of this process after those that have ended were reaped."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return []
    listed = Path(f"/proc/self/task/{os.getpid()}/children").read_text()
    return [int(pid) for pid in listed.split()]


if __name__ == "__main__":
    sys.exit(main())
