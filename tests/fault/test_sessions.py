"""Limits on sessions hold over a fleet whose pods and whose Redis are killed."""

from __future__ import annotations

import asyncio
import random
from typing import Any

from redis.asyncio import Redis

from broker.store.embedded import EmbeddedServer
from tests.conftest import RedisAt, StartBroker, StartRedis
from tests.harness import lifecycle
from tests.harness.load import SECONDS
from tests.harness.servers import BrokerServer
from tests.harness.tenants import Stay, Tenants

USERS, LIMIT, PODS = 50, 3, 4
LEASE_S = 3.0
SETTINGS: dict[str, object] = {
    "workers": 1,
    "max_sessions_per_user": LIMIT,
    "session_lease_s": LEASE_S,
    "session_linger_s": 30,
    "ring_bytes": "16MiB",
}
NOTICED_S = 3.0
"""What a client and this machine may take to learn of an eviction."""
EXPECTED = "child_ended|reader_lost|probe|redis_unavailable|server_changed|stream_reset"


def start_pods(start_broker: StartBroker, redis_url: str) -> list[BrokerServer]:
    pods = [start_broker(redis_url, **SETTINGS) for _ in range(PODS)]
    for pod in pods:
        pod.allowed.append(EXPECTED)
    return pods


async def kill_pods(
    pods: list[BrokerServer], tenants: asyncio.Task[None], seed: int
) -> int:
    """Kill pods with all their processes and start them again; how many."""
    choose = random.Random(seed)
    kills = 0
    while not tenants.done():
        await asyncio.wait([tenants], timeout=choose.uniform(1, 3))
        pod = choose.choice(pods)
        await asyncio.to_thread(pod.destroy)  # SIGKILL, to all of them.
        pod.spawn()  # In this thread: with the one that starts it, it would end.
        await asyncio.to_thread(pod.wait_ready)
        kills += 1
    return kills


async def stories(redis: Redis, users: int) -> dict[str, list[dict[str, Any]]]:
    """The lifecycle entries of each session, without those told again."""
    told: dict[str, dict[tuple[object, ...], dict[str, Any]]] = {}
    for number in range(users):
        for entry in await lifecycle.entries(redis, f"user{number}"):
            if "fence" in entry:
                key = (entry["event"], entry["fence"], entry["data"]["at"])
                told.setdefault(entry["session"], {})[key] = entry
    return {session: list(entries.values()) for session, entries in told.items()}


def fences(entries: list[dict[str, Any]], event: str) -> list[int]:
    return [int(entry["fence"]) for entry in entries if entry["event"] == event]


def wrong_stays(
    stays: list[Stay], told: dict[str, list[dict[str, Any]]]
) -> list[tuple[Stay, list[str]]]:
    """Clients that learned something else than the services."""
    wrong = []
    for stay in stays:
        events = [entry["event"] for entry in told.get(stay.session, ())]
        was_evicted = "session_evicted" in events
        differs = stay.opened and (stay.how == "evicted") != was_evicted
        if differs or stay.how not in ("open", "evicted", "opening"):
            wrong.append((stay, events))
    return wrong


def wrong_victims(told: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Evictions for a session that was not opened later."""
    wrong = []
    for entries in told.values():
        for entry in entries:
            if entry["event"] == "session_evicted":
                newer = told.get(entry["data"]["replaced_by"], [])
                opened = fences(newer, "session_opened")
                if not opened or max(opened) <= int(entry["fence"]):
                    wrong.append(entry)
    return wrong


async def test_limits_hold_while_pods_are_killed(
    start_broker: StartBroker, own_redis: EmbeddedServer, redis_at: RedisAt
) -> None:
    """Never too many for longer than a lease, the newest stays, everybody is told."""
    pods = start_pods(start_broker, own_redis.url)
    tenants = Tenants(pods, USERS, LIMIT, seed=1)
    running = asyncio.create_task(tenants.run(1.5 * SECONDS, (0.5, 3.0)))
    kills = await kill_pods(pods, running, seed=2)
    await running
    await asyncio.sleep(2 * LEASE_S)  # The last eviction may be found by a renewal.
    await tenants.leave()
    told = await stories(redis_at(own_redis.url), USERS)

    evicted = [stay for stay in tenants.stays if stay.how == "evicted"]
    assert kills > SECONDS / 6
    assert len(evicted) > USERS
    assert tenants.crowd.worst_s < LEASE_S + NOTICED_S
    assert wrong_victims(told) == []
    assert wrong_stays(tenants.stays, told) == []


async def test_limits_hold_again_after_redis_was_emptied(
    start_broker: StartBroker, start_redis: StartRedis
) -> None:
    """The pods register what they serve again; nothing hangs, and evictions go on."""
    server = start_redis()
    pods = start_pods(start_broker, server.url)
    tenants = Tenants(pods, USERS, LIMIT, seed=3)
    running = asyncio.create_task(tenants.run(SECONDS, (0.5, 3.0)))
    for _ in range(2):
        await asyncio.sleep(SECONDS / 3)
        server.kill()
        await asyncio.to_thread(server.start)
    await running
    await asyncio.sleep(2 * LEASE_S)
    open_now: dict[str, int] = {}
    for stay in tenants.stays:
        open_now[stay.user] = open_now.get(stay.user, 0) + (stay.how == "open")
    await tenants.leave()

    stuck = [stay for stay in tenants.stays if stay.how.startswith("not let in")]
    assert stuck == []
    assert max(open_now.values()) <= LIMIT
    assert min(open_now.values()) >= 1
    assert tenants.crowd.worst_s < LEASE_S + NOTICED_S
