"""What /proc says about the processes of a test."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def children(pid: int) -> list[int]:
    """The direct children of *pid*."""
    found: list[int] = []
    for task in _listed(f"/proc/{pid}/task"):
        found += map(int, _read(f"/proc/{pid}/task/{task}/children").split())
    return found


def command(pid: int) -> str:
    return _read(f"/proc/{pid}/cmdline").replace("\0", " ").strip()


def state(pid: int) -> str:
    """One letter: R running, S sleeping, T stopped, Z dead but not reaped, "" gone."""
    return _read(f"/proc/{pid}/stat").rpartition(")")[2].strip()[:1]


def is_alive(pid: int) -> bool:
    return state(pid) not in ("", "Z", "X")


def rss_bytes(pid: int) -> int:
    """Resident memory, the shared ring not counted."""
    numbers = dict(
        line.split(":", 1) for line in _read(f"/proc/{pid}/status").splitlines()
    )
    return (
        int(numbers["RssAnon"].split()[0]) + int(numbers["RssFile"].split()[0])
    ) * 1024


def group(pgid: int) -> list[int]:
    """Every living process of a process group."""
    return [
        int(name)
        for name in _listed("/proc")
        if name.isdigit() and is_alive(int(name)) and _group_of(int(name)) == pgid
    ]


def kill_group(pgid: int) -> None:
    """SIGKILL to whatever is left of a group that a test started."""
    for pid in group(pgid):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def kernel_tcp_bytes() -> int:
    """Memory that the kernel holds for TCP buffers of this network namespace."""
    for line in _read("/proc/net/sockstat").splitlines():
        if line.startswith("TCP:"):
            return int(line.split()[-1]) * os.sysconf("SC_PAGE_SIZE")
    return 0


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """Hold a process by SIGSTOP for as long as the block lasts."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def wait_gone(pids: list[int], timeout_s: float) -> list[int]:
    """Wait until none of *pids* lives; returns those that still do."""
    deadline = time.monotonic() + timeout_s
    while alive := [pid for pid in pids if is_alive(pid)]:
        if time.monotonic() > deadline:
            break
        time.sleep(0.01)
    return alive


def _group_of(pid: int) -> int:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return 0


def _listed(path: str) -> list[str]:
    try:
        return os.listdir(path)
    except OSError:
        return []


def _read(path: str) -> str:
    try:
        return Path(path).read_text("utf-8", "replace")
    except OSError:
        return ""
