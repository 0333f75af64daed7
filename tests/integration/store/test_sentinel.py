"""The primary is found by Sentinels, whoever it is at the moment."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from broker.client import CommandConsumer, Publisher
from broker.config import load_settings
from broker.doctor.examine import examine_redis
from broker.doctor.finding import Finding
from broker.errors import StoreRefused, StoreUnavailable
from broker.store import sentinel as module
from broker.store.address import parse_url
from broker.store.client import connect, publish
from broker.store.embedded import EmbeddedServer, free_port
from tests.harness.redis_server import SERVICE, Sentinel, SentinelGroup
from tests.integration.store.conftest import BINARIES, Open, StartServer

StartSentinel = Callable[[int], Sentinel]


@pytest.fixture(scope="module")
def shared_group(
    flavor: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[SentinelGroup]:
    """A group for the tests that leave it as it is."""
    directory = tmp_path_factory.mktemp("sentinels")
    group = SentinelGroup(
        BINARIES[flavor], directory, password="pw", sentinel_password="own"
    )
    yield group.start()
    group.stop()


@pytest.fixture
async def group(flavor: str, tmp_path: Path) -> AsyncIterator[SentinelGroup]:
    """A group of the test's own, ready for a failover."""
    group = SentinelGroup(BINARIES[flavor], tmp_path, password="pw").start()
    try:
        await group.until_watched()
        yield group
    finally:
        group.stop()


@pytest.fixture
def start_sentinel(flavor: str, tmp_path: Path) -> Iterator[StartSentinel]:
    """Starts Sentinels that take whoever listens at a port for the primary."""
    started: list[Sentinel] = []

    def start(port: int) -> Sentinel:
        settings = [f"sentinel monitor {SERVICE} 127.0.0.1 {port} 1"]
        place = tmp_path / f"sentinel{len(started)}"
        started.append(Sentinel(BINARIES[flavor], place, settings))
        started[-1].start()
        return started[-1]

    yield start
    for sentinel in started:
        sentinel.kill()


def url_of(*sentinels: EmbeddedServer, service: str = SERVICE) -> str:
    nodes = ",".join(f"127.0.0.1:{one.port}" for one in sentinels)
    return f"redis+sentinel://{nodes}/{service}"


async def test_connection_leads_to_the_primary_with_its_log_in_and_database(
    shared_group: SentinelGroup, open_connection: Open
) -> None:
    """The Sentinels have a password of their own, which is not the primary's."""
    url = shared_group.url.replace("/main/0", "/main/3")
    connection = await open_connection(url)

    assert (await connection.call("ROLE"))[0] == b"master"
    assert b"db=3" in await connection.call("CLIENT", "INFO")


@pytest.mark.parametrize(
    ("old", "new"), [("sentinel_password=own", ""), ("=own", "=wrong")]
)
async def test_sentinels_that_refuse_the_log_in_say_so(
    shared_group: SentinelGroup, open_connection: Open, old: str, new: str
) -> None:
    """Each of them is asked, and what it answers is told."""
    with pytest.raises(StoreUnavailable, match=r"(?s)(NOAUTH|WRONGPASS).*;.*;"):
        await open_connection(shared_group.url.replace(old, new))


async def test_primary_that_refuses_the_log_in_is_not_asked_again(
    shared_group: SentinelGroup, open_connection: Open
) -> None:
    """No other Sentinel would make the password right."""
    with pytest.raises(StoreRefused, match="WRONGPASS"):
        await open_connection(shared_group.url.replace(":pw@", ":bad@"))


async def test_service_that_nobody_knows_is_named(
    shared_group: SentinelGroup, open_connection: Open
) -> None:
    """A wrong name in the settings is found by reading one line of the log."""
    with pytest.raises(StoreUnavailable, match="does not know the service 'mian'"):
        await open_connection(shared_group.url.replace("/main/", "/mian/"))


async def test_sentinel_that_names_a_replica_is_passed_over(
    start_server: StartServer, start_sentinel: StartSentinel, open_connection: Open
) -> None:
    """It was cut off while the others agreed; next time it is asked last."""
    primary = start_server()
    replica = start_server("--replicaof", f"127.0.0.1 {primary.port}")
    stale, fresh = start_sentinel(replica.port), start_sentinel(primary.port)
    url = url_of(stale, fresh)
    connection = await open_connection(url)
    order = module._order(parse_url(url))

    assert (await connection.call("CONFIG", "GET", "port"))[b"port"] == b"%d" % (
        primary.port
    )
    assert [port for _, port in order] == [fresh.port, stale.port]


async def test_only_stale_sentinels_lead_nowhere(
    start_server: StartServer, start_sentinel: StartSentinel, open_connection: Open
) -> None:
    """Better no connection than one to a server whose writes will be lost."""
    primary = start_server()
    replica = start_server("--replicaof", f"127.0.0.1 {primary.port}")

    with pytest.raises(StoreUnavailable, match="which is a slave"):
        await open_connection(url_of(start_sentinel(replica.port)))


async def test_sentinel_that_hangs_is_given_up_for_the_next_one(
    start_server: StartServer, start_sentinel: StartSentinel, open_connection: Open
) -> None:
    """It may not take the time that the others need."""
    primary = start_server()
    hung, well = start_sentinel(primary.port), start_sentinel(primary.port)
    hang(hung)
    await open_connection(url_of(hung, well), connect_timeout_s=4)


async def test_sentinel_that_took_all_the_time_is_asked_last_from_then_on(
    start_server: StartServer, start_sentinel: StartSentinel, open_connection: Open
) -> None:
    """Who was in a hurry did not reach the others; the next one does."""
    primary = start_server()
    hung, well = start_sentinel(primary.port), start_sentinel(primary.port)
    hang(hung)
    url = url_of(hung, well)
    with pytest.raises(StoreUnavailable, match=r"no answer within 0\.2 s"):
        await open_connection(url, connect_timeout_s=0.2)
    await open_connection(url, connect_timeout_s=module.SENTINEL_TIMEOUT_S * 0.9)

    assert module._order(parse_url(url))[0][1] == well.port


def hang(server: EmbeddedServer) -> None:
    """Let it take connections and say nothing."""
    assert server.pid is not None
    os.kill(server.pid, signal.SIGSTOP)


async def test_nobody_there_is_told_for_each_sentinel(open_connection: Open) -> None:
    """An operator sees all the addresses that were tried."""
    first, second = free_port(), free_port()
    url = f"redis+sentinel://:canary@127.0.0.1:{first},127.0.0.1:{second}/main"
    with pytest.raises(
        StoreUnavailable, match=rf":{first}: .*refused.*:{second}: "
    ) as e:
        await open_connection(url)

    assert "canary" not in str(e.value)


async def test_services_go_on_with_the_next_primary(group: SentinelGroup) -> None:
    """Publishing by program and by hand, and the consumer of commands."""
    old, new = group.servers
    command = {"session": "s", "user": "u", "connection": "c", "cmd": "x", "data": "1"}
    async with (
        Publisher(group.url, give_up_s=30) as say,
        connect(group.url) as by_hand,
        CommandConsumer(group.url, group="agents", name="one") as commands,
    ):
        await say("s", "before")
        await publish(by_hand, "k", "before")
        incoming = aiter(commands)
        await by_hand.call_all(_add(command))
        async with asyncio.timeout(20):
            first = await anext(incoming)
        await first.done()
        # Else the replica might not have it yet.
        await by_hand.call_all(("WAIT", 1, 5000))
        old.kill()
        await say("s", "after")
        await publish(by_hand, "k", "after")
        added = await by_hand.call_all(_add(command))
        async with asyncio.timeout(20):
            second = await anext(incoming)
        events = await by_hand.call_all(("XLEN", "broker:events:s"))
        port = await by_hand.call_all(("CONFIG", "GET", "port"))

    assert port[0][b"port"] == b"%d" % new.port
    assert events == [2]
    assert second.id == added[0].decode()


def _add(fields: dict[str, str]) -> tuple[str, ...]:
    pairs = [part for pair in fields.items() for part in pair]
    return ("XADD", "broker:commands", "*", *pairs)


async def test_doctor_asks_each_sentinel(
    start_server: StartServer, start_sentinel: StartSentinel
) -> None:
    """Who is dead, and who names another primary, nobody else would notice."""
    primary, other = start_server(), start_server()
    first, second, third = (start_sentinel(primary.port) for _ in range(3))
    stale = start_sentinel(other.port)
    well = await watching(first, second, third)
    apart = await watching(first, stale)
    third.kill()
    one_dead = await watching(first, second, third)
    second.kill()
    two_dead = await watching(first, second, third)

    assert (well.verdict, well.text) == ("ok", f"all 3 name 127.0.0.1:{primary.port}")
    assert [one.verdict for one in (apart, one_dead, two_dead)] == [
        *("warn", "warn", "fail"),
    ]
    assert f"127.0.0.1:{other.port}" in apart.text
    assert f"127.0.0.1:{third.port}" in one_dead.text


async def watching(*sentinels: Sentinel) -> Finding:
    """What the doctor says about them."""
    found = await examine_redis(url_of(*sentinels), load_settings({}, None))
    return next(one for one in found if one.check == "sentinels")
