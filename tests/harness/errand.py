"""One way through everything of a broker that reaches Redis."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson

from broker.admin import Admin
from broker.client import Client
from tests.harness.publisher import key_of
from tests.harness.servers import BrokerServer

ERRAND_S = 30.0


async def run_errand(broker: BrokerServer, redis: Any) -> None:
    """Read, resume, commit, send, publish, look and revoke as user ann.

    Args:
        broker: With two workers and ``max_sessions_per_user=1``.
        redis: A client of its Redis that may do everything.
    """
    host, port = broker.public
    admin = Admin("http://{}:{}".format(*broker.admin), "")
    await redis.xadd(key_of("s1"), {"event": "stored", "data": '"é"'})
    async with (
        asyncio.timeout(ERRAND_S),
        Client(f"http://{host}:{port}", user="ann") as client,
        client.events(
            "s1", last_event_id="0", consumer="c1", ack="auto", presence=True
        ) as events,
    ):
        stored: Any = await anext(events)
        await redis.xadd(key_of("s1"), {"event": "live", "data": "1"})
        live: Any = await anext(events)
        sent = await client.send("s1", "do", {"n": 1}, id="errand-command")
        again = await client.send("s1", "do", {"n": 1}, id="errand-command")
        body = {"event": "said", "data": {}}
        await admin.ask("publish", body, session="s1")
        said: Any = await anext(events)
        open_now = orjson.loads(await admin.ask("user_sessions", user="ann"))
        history = orjson.loads(await admin.ask("history", session="s1"))
        newest = orjson.loads(
            await admin.ask("history", query="?reverse=true", session="s1")
        )
        seen = orjson.loads(await admin.ask("connections"))
        await admin.ask("revoke", {"user": "bob"})
        await admin.ask("pardon_user", user="bob")
        async with Client(f"http://{host}:{port}", user="ann") as other:
            next_one = other.events("s2", last_event_id="0")
            await redis.xadd(key_of("s2"), {"event": "second", "data": "2"})
            second: Any = await anext(next_one)
            after = orjson.loads(await admin.ask("user_sessions", user="ann"))
            await next_one.aclose()

    assert [one.event for one in (stored, live, said, second)] == [
        *("stored", "live", "said", "second"),
    ]
    assert stored.data == "é"
    assert sent == again
    assert [one["session"] for one in open_now["sessions"]] == ["s1"]
    assert {one["state"] for one in after["sessions"]} == {"open", "evicted"}
    assert len(history["events"]) == 3
    assert newest["events"] == history["events"][::-1]
    assert seen["workers"] == seen["answered"] == 2
