"""Reads of the past on a connection that comes and goes."""

from __future__ import annotations

import asyncio

import pytest

from broker.errors import StoreUnavailable
from broker.metrics.slots import Slots
from broker.store.embedded import EmbeddedServer
from broker.store.keys import event_key_pattern
from broker.worker import archive as module
from broker.worker.archive import Archive


async def test_who_asks_a_worker_that_has_just_started_is_served(
    shared_redis: EmbeddedServer, session: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection that is being made is waited for; one that never comes is not."""
    pattern = event_key_pattern("broker:events:{session}")
    slots = Slots.create(1)
    made = Archive(shared_redis.url, "test-archive", pattern, slots.row(1), lambda: 0)
    asked = asyncio.create_task(made.history(session, None, None, 1, False))
    running = asyncio.create_task(made.run())
    found = await asked
    running.cancel()
    await asyncio.wait([running])
    never = Archive(shared_redis.url, "test-never", pattern, slots.row(1), lambda: 0)
    monkeypatch.setattr(module, "PATIENCE_S", 0.01)

    assert found == []
    with pytest.raises(StoreUnavailable):
        await never.history(session, None, None, 1, False)
    slots.close()
