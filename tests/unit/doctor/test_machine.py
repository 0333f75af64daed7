"""Limits of a machine, compared with the settings."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from broker.config import Settings, load_settings
from broker.doctor.finding import Finding, worst
from broker.doctor.machine import check_machine, judge_descriptors, judge_memory
from broker.doctor.probes import judge_clock

MIB = 1024 * 1024


def settings(**given: object) -> Settings:
    env = {f"BROKER_{name.upper()}": str(one) for name, one in given.items()}
    return load_settings(env, None)


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    """Settings of a kernel that are enough."""
    for name in ("net/core/somaxconn", "net/ipv4/tcp_max_syn_backlog", "fs/file-max"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("1000000\n")
    return tmp_path


def found(proc: Path, check: str, **given: object) -> list[Finding]:
    return [one for one in check_machine(settings(**given), proc) if one.check == check]


@pytest.mark.parametrize(
    ("limit", "verdict"),
    [(1024, "fail"), (15_199, "fail"), (15_200, "ok"), (resource.RLIM_INFINITY, "ok")],
)
def test_descriptors_must_suffice_for_the_connections_of_a_worker(
    limit: int, verdict: str
) -> None:
    """Each takes one, and the process some more."""
    finding = judge_descriptors(settings(max_connections=15_000), limit)

    assert finding.verdict == verdict


def test_files_of_the_machine_must_suffice_for_all_workers(proc: Path) -> None:
    """It is said only if they do not."""
    enough = found(proc, "file-max", workers=2, max_connections=1000)
    (proc / "fs/file-max").write_text("2399\n")
    (few,) = found(proc, "file-max", workers=2, max_connections=1000)

    assert enough == []
    assert few.verdict == "fail"
    assert "fs.file-max=4800" in few.advice


def test_backlog_of_the_kernel_must_take_a_second_of_newcomers(proc: Path) -> None:
    """Which setting is too small, and what it should be."""
    (enough,) = found(proc, "backlog")
    (proc / "net/core/somaxconn").write_text("128\n")
    (small,) = found(proc, "backlog")
    (modest,) = found(proc, "backlog", accept_rate_per_s=100)

    assert [one.verdict for one in (enough, small, modest)] == ["ok", "warn", "ok"]
    assert small.advice == "set net.core.somaxconn=4096"


def test_kernel_that_tells_nothing_is_not_blamed(tmp_path: Path) -> None:
    """Containers do not always see the machine's settings."""
    (backlog,) = found(tmp_path, "backlog")

    assert backlog.verdict == "ok"
    assert found(tmp_path, "file-max") == []


@pytest.mark.parametrize(
    ("limit_mib", "verdict"), [(300, "fail"), (500, "warn"), (1000, "ok")]
)
def test_memory_must_suffice_for_ring_processes_and_connections(
    limit_mib: int, verdict: str
) -> None:
    """Without room for the ring nothing works; with less than all, fewer get in."""
    given = settings(workers=1, ring_bytes="64MiB", max_connections=15_000)

    assert judge_memory(given, limit_mib * MIB).verdict == verdict


def test_kernel_bounds_what_it_keeps_for_slow_clients(proc: Path) -> None:
    """Linux has known the option since 3.12."""
    (finding,) = found(proc, "notsent-lowat")

    assert finding.verdict == "ok"


@pytest.mark.parametrize(
    ("redis_s", "verdict"),
    [
        (100.0, "ok"),
        (100.5, "ok"),  # within the round trip
        (102.4, "warn"),
        (98.5, "warn"),
        (99.5, "ok"),
        (135.0, "fail"),
        (60.0, "fail"),
    ],
)
def test_clocks_must_agree_but_for_the_round_trip(redis_s: float, verdict: str) -> None:
    """The answer was made at any moment between question and arrival."""
    assert judge_clock(redis_s, 100.0, 101.0).verdict == verdict


def test_worst_verdict_counts() -> None:
    """It is the exit status."""
    one = Finding(check="a", verdict="ok", text="")
    other = Finding(check="b", verdict="warn", text="")
    bad = Finding(check="c", verdict="fail", text="")

    assert worst([]) == "ok"
    assert worst([one, other]) == "warn"
    assert worst([bad, one]) == "fail"
