"""What the tests of a service's consumer do with the command stream."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from broker.client import Command, CommandConsumer

STREAM = "broker:commands"
GROUP = "agents"

NewConsumer = Callable[..., CommandConsumer]


async def add(redis: Any, *numbers: int, **fields: str | bytes) -> list[str]:
    """Add commands whose data is a number, as the broker does."""
    entry = {"session": "s1", "user": "ann", "connection": "c1", "cmd": "do", **fields}
    added = [await redis.xadd(STREAM, {"data": n, **entry}) for n in numbers]
    return [entry_id.decode() for entry_id in added]


async def take(commands: CommandConsumer, count: int) -> list[Command]:
    """The next commands; none is done."""
    async with asyncio.timeout(10):
        return [await anext(commands) for _ in range(count)]


async def finish(commands: CommandConsumer, count: int) -> list[Any]:
    """The data of the next commands, each done before the next."""
    found = []
    async with asyncio.timeout(20):
        for _ in range(count):
            command = await anext(commands)
            found.append(command.data)
            await command.done()
    return found


def data_of(commands: list[Command]) -> list[Any]:
    return [command.data for command in commands]


async def pending(redis: Any, group: str = GROUP) -> int:
    """How many commands were given to somebody and are not done."""
    count: int = (await redis.xpending(STREAM, group))["pending"]
    return count


async def names(redis: Any) -> list[str]:
    """The consumers that the group knows."""
    return [one["name"].decode() for one in await redis.xinfo_consumers(STREAM, GROUP)]


async def dead(redis: Any) -> list[dict[str, str]]:
    """The fields of what was buried."""
    return [
        {name.decode(): value.decode("latin-1") for name, value in fields.items()}
        for _, fields in await redis.xrange("broker:dead")
    ]


async def until_buried(redis: Any, count: int) -> None:
    async with asyncio.timeout(10):
        while await redis.xlen("broker:dead") < count:  # noqa: ASYNC110 - no event
            await asyncio.sleep(0.01)


async def blocked(redis: Any) -> None:
    """Return when a consumer waits for news."""
    async with asyncio.timeout(10):
        while not (await redis.info("clients"))["blocked_clients"]:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def own_connections(redis: Any) -> set[str]:
    """What the consumers under test have open."""
    clients = await redis.client_list()
    return {one["id"] for one in clients if one["name"] == "broker-client-commands"}


async def drop_connections(redis: Any) -> None:
    """Close what the consumers under test have open."""
    for number in await own_connections(redis):
        await redis.client_kill_filter(_id=number)
