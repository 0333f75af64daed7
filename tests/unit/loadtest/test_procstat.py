from __future__ import annotations

import os
import subprocess
import sys
import threading
import time

import pytest

from loadtest import procstat


def test_cpu_of_all_threads_is_counted() -> None:
    """The scheduler's file of a process is of its first thread only."""
    spun, measured = threading.Event(), threading.Event()
    before = procstat.read_cpu(os.getpid())
    thread = threading.Thread(target=spin, args=(0.1, spun, measured))
    thread.start()
    spun.wait(30)
    used = procstat.read_cpu(os.getpid()).since(before)
    measured.set()
    thread.join()

    assert used.run_s >= 0.1


def spin(seconds: float, spun: threading.Event, measured: threading.Event) -> None:
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass
    spun.set()
    measured.wait(30)


def test_process_names_with_parentheses_do_not_shift_the_fields() -> None:
    """User and system time are found from the last parenthesis on."""
    tick_s = 1 / os.sysconf("SC_CLK_TCK")
    line = "7 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 300 200 0 0"

    assert procstat.parse_stat(line) == pytest.approx((300 * tick_s, 200 * tick_s))


def test_kernel_tcp_memory_is_in_bytes() -> None:
    """The file counts pages."""
    text = "sockets: used 15\nTCP: inuse 1 orphan 0 tw 0 alloc 1 mem 420\nUDP: mem 9\n"

    assert procstat.parse_tcp_memory(text) == 420 * os.sysconf("SC_PAGE_SIZE")


def test_busy_time_is_of_the_chosen_cores_and_leaves_idling_out() -> None:
    """Idle and waiting for disks is not busy; guests are counted in user already."""
    tick_s = 1 / os.sysconf("SC_CLK_TCK")
    text = "cpu 9 9 9 9 9 9 9 9 9 9\ncpu0 1 2 3 70 80 4 5 6 7 8\ncpu1 9 9 9 9 9 9 9 9\n"

    assert procstat.parse_busy(text, {0}) == pytest.approx(21 * tick_s)


def test_proportional_memory_is_in_bytes() -> None:
    """The file counts kibibytes."""
    assert procstat.parse_pss("Rss:  9 kB\nPss:  7 kB\nPss_Anon: 3 kB\n") == 7 * 1024


def test_children_are_found_by_their_parent() -> None:
    """The broker's processes are known by their supervisor's id alone."""
    argv = [sys.executable, "-c", "print(flush=True);input()", "a-marker"]
    pipe = subprocess.PIPE
    child = subprocess.Popen(argv, stdin=pipe, stdout=pipe)
    assert child.stdout is not None
    try:
        child.stdout.readline()
        found = procstat.children_of(os.getpid())
        words = procstat.command_line(child.pid)
    finally:
        child.communicate(b"\n")

    assert child.pid in found
    assert words[-1] == "a-marker"


def test_process_that_is_gone_has_no_cpu_and_no_memory() -> None:
    """A server that died in a run must not end the load test."""
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()

    assert procstat.read_cpu(child.pid) == procstat.Cpu()
    assert procstat.read_memory(child.pid) == procstat.Memory()
