"""What a scrape of a real broker shows while it works, and while it is hurt."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from prometheus_client.parser import text_string_to_metric_families

from broker.store.embedded import EmbeddedServer
from tests.conftest import StartBroker
from tests.harness import http
from tests.harness.client import WebSocketClient
from tests.harness.processes import stopped
from tests.harness.publisher import Author
from tests.harness.servers import BrokerServer

Series = dict[str, float]
"""Each series as ``name{label="value",…}`` with its number."""

HURT = "child_ended|child_hung|reader_lost"


@pytest.fixture
def started(start_broker: StartBroker, shared_redis: EmbeddedServer) -> BrokerServer:
    """A broker of the test's own: what others do is not counted."""
    broker = start_broker(shared_redis.url, session_lease_s=1)
    broker.allowed.append(HURT)
    return broker


async def scrape(broker: BrokerServer) -> Series:
    text = (await http.get(broker.admin, "/metrics")).body.decode()
    return {
        f"{sample.name}{labelled(sample.labels)}": sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def labelled(labels: dict[str, str]) -> str:
    text = ",".join(f'{name}="{value}"' for name, value in sorted(labels.items()))
    return f"{{{text}}}" if text else ""


def counters(series: Series) -> Series:
    """Those that must never fall."""
    ends = ("_total", "_bucket", "_count", "_sum")
    return {k: v for k, v in series.items() if k.partition("{")[0].endswith(ends)}


def fallen(before: Series, after: Series) -> list[str]:
    return [name for name, value in counters(before).items() if after[name] < value]


async def until(broker: BrokerServer, is_so: Callable[[Series], object]) -> Series:
    """Scrape again and again until it shows what it must."""
    async with asyncio.timeout(30):
        # Another process is asked: there is nothing to wait on.
        while not is_so(series := await scrape(broker)):  # noqa: ASYNC110
            await asyncio.sleep(0.1)
    return series


@asynccontextmanager
async def readers(
    broker: BrokerServer, session: str, count: int
) -> AsyncIterator[list[WebSocketClient]]:
    """Users who read *session*."""
    path = f"/v1/ws/{session}"
    clients = [
        await WebSocketClient.connect(broker.public, path, {"user": f"u{n}-{session}"})
        for n in range(count)
    ]
    for client in clients:
        await client.until("subscribed")
    yield clients
    for client in clients:
        client.cut()


async def test_a_scrape_tells_who_is_here_and_what_was_done(
    started: BrokerServer, author: Author, session: str
) -> None:
    """Connections, users, sessions, leases, and the commands that all this took."""
    async with readers(started, session, 3):
        await author.publish(session, 5)
        series = await until(
            started,
            lambda now: (
                now["broker_events_delivered_total"] == 15
                and now['broker_lease_renewals_total{result="renewed"}'] >= 3
                and now["broker_users_connected"] == 3
                and now["broker_probe_seconds_count"] >= 2
            ),
        )

    assert series['broker_connections_open{protocol="websocket"}'] == 3
    assert series["broker_sessions_open"] in (1, 2)
    assert series['broker_lease_renewals_total{result="lost"}'] == 0
    assert series['broker_lease_renewals_total{result="failed"}'] == 0
    for role in ("reader", "worker", "supervisor"):
        assert series[f'broker_redis_commands_total{{role="{role}"}}'] > 0
    assert 0 <= series['broker_probe_age_seconds{worker="1"}'] < 30
    assert series["broker_workers_deaf"] == 0


async def test_a_scrape_tells_what_the_pod_may_use_and_uses(
    started: BrokerServer,
) -> None:
    """Every limit beside what is held against it."""
    series = await scrape(started)

    assert series["broker_ready"] == 1
    assert series["broker_draining"] == 0
    assert series["broker_connections_limit"] > 0
    assert series["broker_ring_bytes"] >= 1 << 20
    assert series["broker_start_time_seconds"] > 1.6e9
    assert 0 < series["broker_memory_bytes"] < series["broker_memory_limit_bytes"]
    for role in ("reader", "worker", "supervisor"):
        which = f'{{process="{role}"}}'
        opened = series[f"broker_open_descriptors{which}"]
        assert 0 < opened < series[f"broker_descriptors_limit{which}"]
        assert series[f"broker_process_resident_memory_bytes{which}"] > 1 << 20


async def test_a_socket_that_takes_nothing_shows_as_a_queue(
    started: BrokerServer, author: Author, session: str
) -> None:
    """In entries, in bytes and as a subscription, although ordinals are missing."""
    path = f"/v1/ws/{session}"
    slow = await WebSocketClient.connect(
        started.public, path, {"user": "slow"}, receive_buffer_bytes=4096
    )
    await slow.until("subscribed")
    slow.pause()
    for _ in range(10):
        await author.publish(session, 50, pad_bytes=20_000)
    lagging = 'broker_queue_depth_entries{state="lagging"}'
    series = await until(started, lambda now: now[lagging] > 100)
    slow.cut()

    depth = series[lagging]
    assert depth <= 500
    assert series["broker_queue_depth_max_entries"] == depth
    assert 15_000 * depth < series["broker_queue_depth_bytes"] < 30_000 * depth
    over = 'broker_queue_depth_subscriptions{entries_over="%d"}'
    assert [series[over % step] for step in (0, 100, 1000)] == [1, 1, 0]
    await until(started, lambda now: now[lagging] == 0)


async def test_a_loop_that_stood_still_shows_in_the_scrapes_after_it(
    started: BrokerServer,
) -> None:
    """Not only in the one that happens to come at the right moment."""
    silent, lag = "broker_worker_silent_seconds", "broker_loop_lag_seconds"
    await until(started, lambda now: worst(now, silent) < 0.7)
    with stopped(started.workers[0]), stopped(started.reader):
        await until(started, lambda now: worst(now, silent) > 2)
    await until(
        started,
        lambda now: (
            worst(now, lag) > 0.3 and now["broker_reader_loop_lag_seconds"] > 0.3
        ),
    )


def worst(series: Series, name: str) -> float:
    """The largest number of a metric that each of two workers has."""
    return max(series[f'{name}{{worker="{number}"}}'] for number in (1, 2))


async def test_a_hung_or_dead_process_neither_breaks_nor_distorts_a_scrape(
    started: BrokerServer, author: Author, session: str
) -> None:
    """All series are there, no counter falls, and what is gone is not shown."""
    async with readers(started, session, 6) as clients:
        await author.publish(session, 5)
        before = await until(
            started,
            lambda now: (
                now["broker_events_delivered_total"] == 30
                and now["broker_users_connected"] == 6
            ),
        )
        worker = started.workers[0]
        with stopped(worker), stopped(started.reader):
            hung = await scrape(started)
        os.kill(worker, signal.SIGKILL)
        os.kill(started.reader, signal.SIGKILL)
        dead = await scrape(started)
        after = await until(started, is_whole_again)
        ended = sum(client.ended.done() for client in clients)

    for series in (hung, dead, after):
        assert series.keys() == before.keys()
    assert fallen(before, hung) == fallen(hung, dead) == fallen(dead, after) == []
    assert hung["broker_events_delivered_total"] == 30
    assert hung['broker_connections_open{protocol="websocket"}'] == 6
    assert after['broker_connections_open{protocol="websocket"}'] == 6 - ended
    assert after["broker_users_connected"] == 6 - ended


def is_whole_again(series: Series) -> bool:
    """Whether a worker and the reader were replaced and both serve."""
    restarts = 'broker_child_restarts_total{role="%s"}'
    return (
        [series[restarts % role] for role in ("worker", "reader")] == [1, 1]
        and series["broker_workers_up"] == 2
        and series["broker_redis_up"] == 1
    )
