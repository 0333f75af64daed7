"""What processes use of the machine, as the kernel tells it; asked at each scrape.

A few small files of ``/proc`` per process: some ten microseconds each.
"""

from __future__ import annotations

import contextlib
import os
import resource
from pathlib import Path
from typing import NamedTuple

_CGROUP = Path("/sys/fs/cgroup")
_IN_CGROUP = (
    ("memory.current", "memory.max"),
    ("memory/memory.usage_in_bytes", "memory/memory.limit_in_bytes"),
)
"""Memory used and its limit, in version 2 and in version 1."""
_PROC = Path("/proc")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class Usage(NamedTuple):
    """What one process uses.

    Attributes:
        resident_bytes: Memory, what it shares with others included.
        descriptors: How many it has open.
        descriptors_limit: How many it may have open.
    """

    resident_bytes: int
    descriptors: int
    descriptors_limit: int


class Memory(NamedTuple):
    """The memory of the container, or of the machine where nothing limits it.

    Attributes:
        used_bytes: In use; of a container as the kernel counts it against the limit.
        limit_bytes: How much there is.
    """

    used_bytes: int
    limit_bytes: int


def usage_of(pid: int, proc: Path = _PROC) -> Usage | None:
    """What the process *pid* uses; None if it is gone."""
    own = proc / str(pid)
    try:
        resident = int((own / "statm").read_text().split()[1]) * _PAGE_BYTES
        limit, _hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        return Usage(resident, _count_descriptors(own / "fd"), limit)
    except (OSError, IndexError, ValueError):
        return None  # A zombie has no memory and lets nobody look.


def _count_descriptors(directory: Path) -> int:
    # Since Linux 6.2 the size says it; before, the directory has to be read.
    return directory.stat().st_size or len(os.listdir(directory))


def memory(cgroup: Path = _CGROUP, proc: Path = _PROC) -> Memory:
    """The memory that this pod has, and what of it is used."""
    machine = _machine(proc)
    for used_name, limit_name in _IN_CGROUP:
        used, limit = _number(cgroup / used_name), _number(cgroup / limit_name)
        if used is not None and limit is not None and limit < machine.limit_bytes:
            return Memory(used, limit)
    return machine


def _machine(proc: Path) -> Memory:
    lines = [line.split(":") for line in (proc / "meminfo").read_text().splitlines()]
    kilobytes = {name: int(rest.split()[0]) for name, rest in lines}
    total = kilobytes["MemTotal"]
    return Memory((total - kilobytes["MemAvailable"]) * 1024, total * 1024)


def _number(path: Path) -> int | None:
    """The number in a file; None if there is none, such as where it says ``max``."""
    with contextlib.suppress(OSError, ValueError):
        return int(path.read_text())
    return None
