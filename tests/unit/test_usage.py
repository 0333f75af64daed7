"""What the kernel tells of processes and memory."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

from broker.usage import Memory, container_memory, memory, usage_of

MEMINFO = """\
MemTotal:        1000 kB
MemFree:          100 kB
MemAvailable:     400 kB
HugePages_Total:     0
"""


def write(root: Path, **files: str) -> tuple[Path, Path]:
    """A cgroup of *files* and a machine of 1000 kB; ``__`` in a name is a slash."""
    proc, cgroup = root / "proc", root / "cgroup"
    (cgroup / "memory").mkdir(parents=True)
    proc.mkdir()
    (proc / "meminfo").write_text(MEMINFO)
    for name, text in files.items():
        where = name.replace("__", "/").replace("memory_", "memory.")
        (cgroup / where).write_text(text + "\n")
    return cgroup, proc


def test_a_process_tells_memory_and_descriptors() -> None:
    """Of this one much is known otherwise."""
    used = usage_of(os.getpid())
    assert used is not None
    assert used.resident_bytes > 1 << 20
    assert used.descriptors_limit == resource.getrlimit(resource.RLIMIT_NOFILE)[0]

    opened = [os.open("/dev/null", os.O_RDONLY) for _ in range(50)]
    more = usage_of(os.getpid())
    for fd in opened:
        os.close(fd)
    assert more is not None
    assert more.descriptors == used.descriptors + 50


def test_descriptors_are_counted_where_the_size_does_not_tell(tmp_path: Path) -> None:
    """Before Linux 6.2 the directory of descriptors has no size."""
    own = tmp_path / str(os.getpid())
    own.mkdir()
    (own / "statm").write_text("500 30 20 1 0 100 0\n")
    tasks = Path("/proc/self/task")  # another directory without a size
    (own / "fd").symlink_to(tasks)
    used = usage_of(os.getpid(), tmp_path)
    assert used is not None
    assert used.resident_bytes == 30 * os.sysconf("SC_PAGE_SIZE")
    assert used.descriptors == len(list(tasks.iterdir())) > 0


def test_a_process_that_is_gone_is_no_error() -> None:
    """It may go between two looks."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    assert usage_of(ended.pid) is None


def test_a_process_that_has_ended_and_waits_to_be_reaped_is_no_error() -> None:
    """It uses nothing any more."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)
    used = usage_of(ended.pid)
    ended.wait()
    assert used is None or used.resident_bytes == 0


def test_memory_is_that_of_the_container(tmp_path: Path) -> None:
    """In version 2 of the cgroups."""
    where = write(tmp_path, memory_current="2048", memory_max="409600")
    assert memory(*where) == Memory(2048, 409600)


def test_memory_is_that_of_the_container_in_the_former_version(tmp_path: Path) -> None:
    """Version 1 has other names."""
    where = write(
        tmp_path,
        memory__memory_usage_in_bytes="2048",
        memory__memory_limit_in_bytes="409600",
    )
    assert memory(*where) == Memory(2048, 409600)


def test_files_that_nobody_looks_at_are_no_need(tmp_path: Path) -> None:
    """A container that has read or written much is not full: the kernel drops that."""
    stat = "anon 1000\ninactive_file 1500\nactive_file 10"
    where = write(
        tmp_path, memory_current="2048", memory_max="409600", memory_stat=stat
    )
    assert memory(*where) == Memory(548, 409600)


def test_files_that_nobody_looks_at_are_no_need_in_the_former_version(
    tmp_path: Path,
) -> None:
    """There the whole tree of groups counts, as the limit does."""
    where = write(
        tmp_path,
        memory__memory_usage_in_bytes="2048",
        memory__memory_limit_in_bytes="409600",
        memory__memory_stat="inactive_file 7\ntotal_inactive_file 1500",
    )
    assert memory(*where) == Memory(548, 409600)


def test_no_container_has_no_limit(tmp_path: Path) -> None:
    """Where the files are not there, or say ``max``, nothing is refused."""
    cgroup, _ = write(tmp_path, memory_current="2048", memory_max="max")
    assert container_memory(cgroup) is None
    assert container_memory(tmp_path / "nowhere") is None


def test_memory_is_that_of_the_machine_where_nothing_limits_it(tmp_path: Path) -> None:
    """``max`` is no limit."""
    where = write(tmp_path, memory_current="2048", memory_max="max")
    assert memory(*where) == Memory(600 * 1024, 1000 * 1024)


def test_a_limit_above_the_machine_is_none(tmp_path: Path) -> None:
    """Version 1 says it with a number near 2**63."""
    where = write(
        tmp_path,
        memory__memory_usage_in_bytes="2048",
        memory__memory_limit_in_bytes="9223372036854771712",
    )
    assert memory(*where) == Memory(600 * 1024, 1000 * 1024)
