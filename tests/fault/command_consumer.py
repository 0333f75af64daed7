"""A service in a process of its own, to be killed: notes each command it has done."""

from __future__ import annotations

import asyncio
import sys

import redis.asyncio

from broker.client import CommandConsumer

DONE = "test:done"


async def main(url: str) -> None:
    """Read commands for ever."""
    notes = redis.asyncio.Redis.from_url(url)
    async with CommandConsumer(
        url, group="services", name="only", claim_after_s=2
    ) as commands:
        async for command in commands:
            note = f"{command.connection} {command.user} {command.data['n']}"
            await notes.rpush(DONE, note)
            await command.done()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
