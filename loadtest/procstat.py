"""CPU and memory of processes, and of the kernel's TCP, from /proc."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

import msgspec

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_TICK_S = 1 / os.sysconf("SC_CLK_TCK")


class Cpu(msgspec.Struct, frozen=True):
    """CPU time of a process and its threads since it started.

    Attributes:
        run_s: On a core, by the scheduler's clock.
        wait_s: Ready to run, but waiting for a core.
        user_s: Of ``run_s`` by ticks: outside the kernel.
        system_s: The same inside the kernel.
    """

    run_s: float = 0
    wait_s: float = 0
    user_s: float = 0
    system_s: float = 0

    def since(self, before: Cpu) -> Cpu:
        """The time that passed from *before* to this."""
        return Cpu(
            self.run_s - before.run_s,
            self.wait_s - before.wait_s,
            self.user_s - before.user_s,
            self.system_s - before.system_s,
        )


class Memory(msgspec.Struct, frozen=True):
    """Memory of a process.

    Attributes:
        rss: Resident bytes, shared ones included.
        pss: Resident bytes, each shared page divided by its users.
    """

    rss: int = 0
    pss: int = 0


def parse_stat(line: str) -> tuple[float, float]:
    """User and system seconds from ``/proc/<pid>/stat``."""
    # The name, in parentheses, may itself have blanks and parentheses.
    fields = line.rpartition(")")[2].split()
    return int(fields[11]) * _TICK_S, int(fields[12]) * _TICK_S


def read_cpu(pid: int) -> Cpu:
    """CPU time of process *pid*; zero if it is gone.

    ``/proc/<pid>/schedstat`` is of the first thread only, so threads are summed up.
    """
    root = Path(f"/proc/{pid}")
    run_ns = wait_ns = 0
    try:
        for task in (root / "task").iterdir():
            on_core, waiting, _ = (task / "schedstat").read_text().split()
            run_ns += int(on_core)
            wait_ns += int(waiting)
        user_s, system_s = parse_stat((root / "stat").read_text())
    except (FileNotFoundError, ProcessLookupError):
        return Cpu()
    return Cpu(run_ns / 1e9, wait_ns / 1e9, user_s, system_s)


def parse_pss(smaps_rollup: str) -> int:
    """The ``Pss`` line of ``/proc/<pid>/smaps_rollup`` in bytes."""
    for line in smaps_rollup.splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return 0


def read_rss(pid: int) -> int:
    """Resident bytes of process *pid*; zero if it is gone."""
    try:
        words = Path(f"/proc/{pid}/statm").read_text().split()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return int(words[1]) * _PAGE_BYTES


def read_memory(pid: int) -> Memory:
    """Memory of process *pid*; zero if it is gone.

    The kernel walks all its pages for that, so it is not for use under load.
    """
    try:
        pss = parse_pss(Path(f"/proc/{pid}/smaps_rollup").read_text())
    except (FileNotFoundError, ProcessLookupError):
        return Memory()
    return Memory(read_rss(pid), pss)


def parse_tcp_memory(sockstat: str) -> int:
    """Bytes that the kernel holds for TCP, from ``/proc/net/sockstat``."""
    for line in sockstat.splitlines():
        if line.startswith("TCP:"):
            words = line.split()
            return int(words[words.index("mem") + 1]) * _PAGE_BYTES
    return 0


def tcp_memory() -> int:
    """Bytes that the kernel holds for TCP now: of the whole machine."""
    return parse_tcp_memory(Path("/proc/net/sockstat").read_text())


def parse_busy(stat: str, cores: Collection[int]) -> float:
    """Seconds that *cores* were not idle, from ``/proc/stat``."""
    ticks = 0
    for line in stat.splitlines():
        words = line.split()
        number = words[0].removeprefix("cpu")
        if number.isdigit() and int(number) in cores:
            user, nice, system, _idle, _iowait, *others = map(int, words[1:9])
            ticks += user + nice + system + sum(others)
    return ticks * _TICK_S


def busy_seconds(cores: Collection[int]) -> float:
    """Seconds since boot that *cores* were not idle, whoever used them."""
    return parse_busy(Path("/proc/stat").read_text(), cores)


def children_of(pid: int) -> list[int]:
    """Process ids of all descendants of *pid*."""
    found: list[int] = []
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        lines = [(task / "children").read_text() for task in tasks]
    except (FileNotFoundError, ProcessLookupError):
        return found
    for child in (int(word) for line in lines for word in line.split()):
        found += [child, *children_of(child)]
    return found


def command_line(pid: int) -> list[str]:
    """The words that process *pid* was started with; empty if it is gone."""
    try:
        raw = Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return []
    return [word.decode() for word in raw.split(b"\0") if word]


class Usage(msgspec.Struct, frozen=True):
    """The CPU of several processes at one moment, by name."""

    cpu: dict[str, Cpu]

    @classmethod
    def of(cls, processes: dict[str, int]) -> Usage:
        """Read it now."""
        return cls({name: read_cpu(pid) for name, pid in processes.items()})

    def since(self, before: Usage) -> dict[str, Cpu]:
        """CPU used from *before* to this, by process name."""
        return {
            name: cpu.since(before.cpu.get(name, Cpu()))
            for name, cpu in self.cpu.items()
        }
