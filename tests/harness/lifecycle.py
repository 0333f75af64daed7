"""What services read of sessions that come and go."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
from redis.asyncio import Redis

STREAM = "broker:lifecycle"


async def entries(redis: Redis, user: str) -> list[dict[str, Any]]:
    """The entries about *user*, oldest first; ``data`` is read."""
    found = []
    there: Any = await redis.xrange(STREAM)
    for entry_id, fields in there:
        entry: dict[str, Any] = {k.decode(): v.decode() for k, v in fields.items()}
        if entry["user"] == user:
            data = orjson.loads(entry.pop("data"))
            found.append(entry | {"id": entry_id.decode(), "data": data})
    return found


async def until(
    redis: Redis, user: str, event: str, timeout_s: float = 10
) -> dict[str, Any]:
    """The first entry about *user* with this event, as soon as it is there."""
    async with asyncio.timeout(timeout_s):
        while True:
            for entry in await entries(redis, user):
                if entry["event"] == event:
                    return entry
            await redis.xread({STREAM: "$"}, block=100)
