"""What a server says about itself, judged: what takes too long to provoke for real."""

from __future__ import annotations

import pytest

from broker.config import load_settings
from broker.doctor.finding import Finding
from broker.doctor.server import judge_server

INFO = {
    "redis_version": "7.0.15",
    "role": "master",
    "maxmemory_policy": "noeviction",
    "connected_slaves": "2",
    "slave0": "ip=10.0.0.1,port=6379,state=online,offset=9,lag=1",
    "slave1": "ip=10.0.0.2,port=6379,state=online,offset=9,lag=0",
}
CONFIG = {"min-replicas-to-write": "1", "tracking-table-max-keys": "1000000"}


def judge(check: str, **facts: str) -> list[Finding]:
    found = judge_server(INFO | facts, CONFIG, load_settings({}, None))
    return [one for one in found if one.check == check]


def test_replicas_that_keep_up_are_counted() -> None:
    """Nothing has to be done."""
    (found,) = judge("replication")

    assert (found.verdict, found.text) == ("ok", "replicas in step: 2")


@pytest.mark.parametrize("state", ["online,offset=1,lag=6", "wait_bgsave,lag=0"])
def test_replica_that_does_not_keep_up_is_named(state: str) -> None:
    """A failover to it would lose what it does not have."""
    (found,) = judge("replication", slave1=f"ip=10.0.0.2,port=6379,state={state}")

    assert found.verdict == "warn"
    assert "the replica 10.0.0.2:6379" in found.text


@pytest.mark.parametrize(
    ("facts", "verdict"),
    [
        ({"redis_version": "6.2.14"}, "fail"),
        ({"redis_version": "7.0.0"}, "ok"),
        ({"redis_version": "7.2.4", "server_name": "valkey"}, "fail"),
        ({"server_name": "valkey", "valkey_version": "7.2.5"}, "ok"),
        ({"redis_version": ""}, "fail"),
    ],
)
def test_version_must_be_able_to_count_what_is_lost(
    facts: dict[str, str], verdict: str
) -> None:
    """Valkey names a version of Redis as well, which is not its own."""
    (found,) = judge("version", **facts)

    assert found.verdict == verdict


@pytest.mark.parametrize(
    ("keys", "verdict"), [("1", "ok"), ("500001", "warn"), ("900001", "fail")]
)
def test_tracking_table_that_fills_is_told_before_it_is_full(
    keys: str, verdict: str
) -> None:
    """Above nine tenths the broker takes no further sessions."""
    (found,) = judge("tracking-table", tracking_total_keys=keys)

    assert found.verdict == verdict


@pytest.mark.parametrize("name", ["aof_last_write_status", "aof_last_bgrewrite_status"])
def test_append_only_file_that_cannot_be_written_fails(name: str) -> None:
    """Redis stops to take writes."""
    (found,) = judge("saving", **{name: "err"})

    assert found.verdict == "fail"


def test_memory_that_is_nearly_full_is_a_warning() -> None:
    """There is still time to do something."""
    (found,) = judge("maxmemory", used_memory="850", maxmemory="1000")

    assert found.verdict == "warn"
