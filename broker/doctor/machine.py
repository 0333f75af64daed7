"""Limits of this machine and container, compared with the settings."""

from __future__ import annotations

import resource
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from broker.config import Settings
from broker.doctor.finding import Finding, fail, ok, warn
from broker.usage import memory

PROC: Final = Path("/proc/sys")
BACKLOG: Final = 4096
"""Connections that may wait to be accepted, per worker, as the worker asks for."""
SPARE_DESCRIPTORS: Final = 200
PER_PROCESS_BYTES: Final = 80 * 1024 * 1024
PER_CONNECTION_BYTES: Final = 16 * 1024
"""Of this process and of the kernel, for a connection that reads as fast as it gets."""
TCP_NOTSENT_LOWAT: Final = 25
MIB: Final = 1024 * 1024


def check_machine(settings: Settings, proc: Path = PROC) -> Iterator[Finding]:
    """Whether this machine has room for all that the settings allow.

    Args:
        settings: Of the broker.
        proc: Where the kernel's settings are.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield judge_descriptors(settings, hard)
    yield from _files_of_machine(settings, proc)
    yield _backlog(settings, proc)
    yield judge_memory(settings, memory().limit_bytes)
    yield _notsent_lowat(settings)


def judge_descriptors(settings: Settings, hard_limit: int) -> Finding:
    """Whether a worker may open as many sockets as it may have connections."""
    need = settings.max_connections + SPARE_DESCRIPTORS
    text = f"a process may open {hard_limit} files; each connection takes one"
    if hard_limit != resource.RLIM_INFINITY and hard_limit < need:
        return fail(
            "descriptors",
            f"{text}, and BROKER_MAX_CONNECTIONS={settings.max_connections} per worker",
            f"start the broker with LimitNOFILE or ulimit -Hn {need} at least, or "
            "lower BROKER_MAX_CONNECTIONS",
        )
    return ok("descriptors", text)


def _files_of_machine(settings: Settings, proc: Path) -> Iterator[Finding]:
    limit = _number(proc / "fs/file-max")
    need = settings.workers * (settings.max_connections + SPARE_DESCRIPTORS)
    if limit is not None and limit < need:
        yield fail(
            "file-max",
            f"this machine may open {limit} files, all workers together {need}",
            f"set the kernel's fs.file-max={2 * need}",
        )


def _backlog(settings: Settings, proc: Path) -> Finding:
    want = min(settings.accept_rate_per_s, BACKLOG)
    names = ("net/core/somaxconn", "net/ipv4/tcp_max_syn_backlog")
    found = {name.replace("/", "."): _number(proc / name) for name in names}
    small = [name for name, value in found.items() if value and value < want]
    if not small:
        return ok("backlog", f"{want} connections may wait to be accepted, per worker")
    shown = " and ".join(f"{name}={found[name]}" for name in small)
    return warn(
        "backlog",
        f"{shown}: when many clients come at once, connections are dropped by the "
        "kernel and tried again after a second or more",
        " and ".join(f"set {name}={want}" for name in small),
    )


def judge_memory(settings: Settings, limit_bytes: int) -> Finding:
    """Whether the ring and all connections fit below where newcomers are refused."""
    processes = settings.workers + 2
    connections = settings.workers * settings.max_connections
    need = (
        settings.ring_bytes
        + processes * PER_PROCESS_BYTES
        + connections * PER_CONNECTION_BYTES
    )
    may = int(limit_bytes * settings.memory_high_ratio)
    text = (
        f"about {need // MIB} MiB are needed for {connections} connections, the ring "
        f"and {processes} processes; newcomers are refused above {may // MIB} MiB"
    )
    if settings.ring_bytes + processes * PER_PROCESS_BYTES > may:
        advice = "give it more memory, or lower BROKER_RING_BYTES or BROKER_WORKERS"
        return fail("memory", text, advice)
    if need > may:
        advice = "give it more memory, or lower BROKER_MAX_CONNECTIONS"
        return warn("memory", text, advice)
    return ok("memory", text)


def _notsent_lowat(settings: Settings) -> Finding:
    wanted = settings.notsent_lowat_bytes
    try:
        with socket.socket() as trial:
            trial.setsockopt(socket.IPPROTO_TCP, TCP_NOTSENT_LOWAT, wanted)
            got = trial.getsockopt(socket.IPPROTO_TCP, TCP_NOTSENT_LOWAT)
    except OSError:
        got = 0
    if got == wanted:
        return ok("notsent-lowat", "the kernel bounds what it keeps for slow clients")
    return warn(
        "notsent-lowat",
        "the kernel does not know TCP_NOTSENT_LOWAT: each slow client takes megabytes",
        "run the broker on Linux 3.12 or newer",
    )


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None  # Not told to containers on some hosts.
