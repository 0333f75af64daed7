"""What processes use of the machine, as the kernel tells it.

Asked at each scrape, and by each worker once a second: a few small files of ``/proc``
and of the cgroup, up to a hundred microseconds.
"""

from __future__ import annotations

import contextlib
import os
import resource
from pathlib import Path
from typing import NamedTuple

CGROUP = Path("/sys/fs/cgroup")
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
    """The memory of a container or a machine.

    Attributes:
        used_bytes: In use, without what the kernel can take back at once. Of a
            container it has the buffers of its sockets in it, which RSS has not.
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


class _Files(NamedTuple):
    """Where a version of the cgroups tells used memory, its limit and file cache."""

    used: str
    limit: str
    details: str
    cache: str


_VERSIONS = (
    _Files("memory.current", "memory.max", "memory.stat", "inactive_file"),
    _Files(
        "memory/memory.usage_in_bytes",
        "memory/memory.limit_in_bytes",
        "memory/memory.stat",
        "total_inactive_file",
    ),
)


def container_memory(cgroup: Path = CGROUP) -> Memory | None:
    """The memory of the container that this is; None where nobody tells a limit.

    Version 1 of the cgroups tells one near 2**63 where there is none.

    Counted as Kubernetes counts a working set: files that were read and are no longer
    looked at are the first that the kernel drops, so they are nobody's need.
    """
    for files in _VERSIONS:
        used, limit = _number(cgroup / files.used), _number(cgroup / files.limit)
        if used is not None and limit is not None:
            cache = _table(cgroup / files.details).get(files.cache, 0)
            return Memory(max(0, used - cache), limit)
    return None


def memory(cgroup: Path = CGROUP, proc: Path = _PROC) -> Memory:
    """The memory that this pod has: the container's, or else the machine's."""
    machine = _machine(proc)
    container = container_memory(cgroup)
    if container is None or container.limit_bytes >= machine.limit_bytes:
        return machine
    return container


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


def _table(path: Path) -> dict[str, int]:
    """Lines of a name and a number; empty if there is no such file."""
    with contextlib.suppress(OSError, ValueError):
        lines = (line.split() for line in path.read_text().splitlines())
        return {name: int(number) for name, number in lines}
    return {}
