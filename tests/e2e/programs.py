"""What the tests of the Python client share."""

from __future__ import annotations

import asyncio

from broker.client import (
    Event,
    Item,
    Stream,
)


def url(address: tuple[str, int]) -> str:
    return f"http://{address[0]}:{address[1]}"


async def take(stream: Stream, count: int) -> list[Item]:
    """The next *count* items."""
    async with asyncio.timeout(30):
        return [await anext(stream) for _ in range(count)]


def seqs(items: list[Item]) -> list[int | None]:
    return [item.seq for item in items if isinstance(item, Event)]


async def until_named(stream: Stream, name: str) -> Item:
    """The next item with this name."""
    async with asyncio.timeout(10):
        async for item in stream:
            if item.event == name:
                return item
    raise AssertionError(name)
