"""The probe entry on a real server."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from broker.store.connection import Connection
from broker.store.embedded import EmbeddedServer
from broker.supervisor.probe import EXPIRE_S, ProbeLog, Prober, probe_session
from tests.harness.redis_server import new_server
from tests.integration.supervisor.pod import Pod, eventually, running_pod

KEY = b"broker:events:_probe:pod"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EmbeddedServer]:
    with new_server(tmp_path) as made:
        yield made


@pytest.fixture
async def connection(server: EmbeddedServer) -> AsyncIterator[Connection]:
    opened = await Connection.open(server.url, client_name="test")
    yield opened
    opened.close()


async def test_probes_leave_one_entry_that_goes_away_by_itself(
    server: EmbeddedServer, connection: Connection
) -> None:
    """A pod that dies leaves nothing behind in Redis."""
    prober = Prober(server.url, KEY, ProbeLog())
    for _ in range(3):
        await prober.write()

    assert await connection.call("XLEN", KEY) == 1
    assert 0 < await connection.call("TTL", KEY) <= EXPIRE_S


async def test_probe_is_noted_by_the_time_in_its_id(
    server: EmbeddedServer, connection: Connection
) -> None:
    """That is what a worker puts on the board when it has drained the probe."""
    noted: list[int] = []

    class Notes(ProbeLog):
        def note(self, ms: int) -> None:
            noted.append(ms)

    await Prober(server.url, KEY, Notes()).write()

    ((entry_id, fields),) = await connection.call("XRANGE", KEY, "-", "+")
    assert noted == [int(entry_id.split(b"-")[0])]
    assert fields == [b"event", b"probe"]


async def test_probe_that_is_refused_or_unanswered_is_a_failure(
    server: EmbeddedServer, connection: Connection
) -> None:
    """Neither a wrong type nor an absent server raises; both are noted."""
    probes = ProbeLog()
    prober = Prober(server.url, KEY, probes)
    await connection.call("SET", KEY, "x")
    await prober.write()
    assert not probes.note_failure()

    await connection.call("DEL", KEY)
    await prober.write()
    assert probes.note_failure()

    server.kill()
    await prober.write()
    assert not probes.note_failure()


async def test_running_supervisor_probes_under_the_name_of_its_pod(
    server: EmbeddedServer, connection: Connection
) -> None:
    """The key is that of a session which no client can name."""
    async with running_pod({"redis_url": server.url}) as pod:
        name = (await pod.ask("/healthz")).json()["pod"]
        key = f"broker:events:{probe_session(name)}"

        await eventually(lambda: connection.call("EXISTS", key))


QUICK = {"PROBE_EVERY_S": 0.5, "DEAF_S": 4.0, "RETURN_S": 1.0}
QUICKER = {"PROBE_EVERY_S": 0.2, "DEAF_S": 1.0, "RETURN_S": 1.0}
"""For those who hear nothing anyway."""


async def test_worker_that_hears_nothing_fails_readiness_and_is_replaced(
    server: EmbeddedServer, tmp_path: Path
) -> None:
    """Its loop turns and its port is open: only the probe tells that it is useless."""
    named = tmp_path / "deaf"
    named.write_text("nobody")
    settings = {"redis_url": server.url}
    roles = {"reader": "real", "worker": f"deaf {named}"}
    async with running_pod(settings, QUICK, **roles) as pod:
        await eventually(lambda: heard(pod, 2))
        before, other = [(await pod.child(f"worker_{n}"))["pid"] for n in (1, 2)]
        named.write_text("1")

        gone = await pod.logged("child_deaf")
        reasons = await pod.reasons()
        assert gone["child"] == "worker_1"
        assert "worker_1_deaf" in reasons
        assert await pod.metric("broker_workers_deaf") == 1
        assert await pod.metric("broker_child_deaf_kills_total", role="worker") == 1

        named.write_text("nobody")
        await eventually(pod.is_ready)
        assert (await pod.child("worker_1"))["pid"] != before
        assert (await pod.child("worker_2"))["pid"] == other
        assert await pod.metric("broker_workers_deaf") == 0
        assert (await pod.child("reader"))["starts"] == 1


async def test_reader_is_replaced_if_no_worker_hears_anything(
    server: EmbeddedServer,
) -> None:
    """Stand-ins take no probe, whoever reads: first it is blamed, then they are."""
    async with running_pod({"redis_url": server.url}, QUICKER, reader="real") as pod:
        assert (await pod.logged("child_deaf"))["child"] == "reader"
        assert (await pod.logged("child_deaf", 2))["child"] == "worker_1"
        assert await pod.metric("broker_child_deaf_kills_total", role="reader") == 1
        assert (await pod.ask("/livez")).json() == {"live": True, "reasons": []}


async def heard(pod: Pod, count: int) -> bool:
    """Whether workers have taken so many probes."""
    return await pod.metric("broker_probe_seconds_count") >= count
