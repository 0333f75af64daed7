"""A key that cannot be read, and a server that is busy for a while."""

from __future__ import annotations

import asyncio
import time

from structlog.testing import capture_logs

from broker.metrics import catalog
from broker.reader.pump import LOGGED_PER_S
from broker.store.connection import Connection
from broker.store.embedded import EmbeddedServer
from tests.integration.reader.publisher import Publisher, key
from tests.integration.reader.rig import Rig

GOOD = [f"good{number}" for number in range(30)]

BUSY_SCRIPT = """
local id = redis.call('XADD', KEYS[1], '*', 'event', 'e', 'data', '1')
local turns = 0
for turn = 1, 3e7 do turns = turns + turn % 7 end
return id
"""


async def test_key_that_is_no_stream_does_not_starve_the_others(
    server: EmbeddedServer, publisher: Publisher
) -> None:
    """One read fails for all its keys, but nobody else misses anything."""
    async with Rig(server.url, sweep_s=0.5) as rig:
        chains = {session: await rig.watch(session) for session in [*GOOD, "bad"]}
        await publisher.run(
            ("SET", key("bad"), "no stream"),
            *(("XADD", key(session), "*", "event", "e") for session in GOOD),
        )
        await rig.until(lambda: all(len(chains[one].ids) == 1 for one in GOOD))
        await rig.until(lambda: rig.count(catalog.QUARANTINED.slot) == 1)
        await publisher.publish_to_all(GOOD, 5)
        await rig.until(lambda: all(len(chains[one].ids) == 6 for one in GOOD))

        assert chains["bad"].complaints == ["wrongtype"]
        assert rig.count(catalog.READ_ERRORS.slots["wrongtype"]) >= 1
        assert rig.count(catalog.RECONNECTS["reader"]) == 0


async def test_many_keys_that_are_no_streams_do_not_flood_the_log(
    server: EmbeddedServer, publisher: Publisher
) -> None:
    """Each is counted; the log names some."""
    sessions = [f"bad{number}" for number in range(3 * LOGGED_PER_S)]
    async with Rig(server.url) as rig:
        for session in sessions:
            await rig.watch(session)
        with capture_logs() as logged:
            began = time.monotonic()
            await publisher.run(*(("SET", key(one), "no stream") for one in sessions))
            await rig.until(
                lambda: (
                    rig.count(catalog.READ_ERRORS.slots["wrongtype"]) >= len(sessions)
                )
            )
            took_s = time.monotonic() - began

    said = [line for line in logged if line["event"] == "stream_unreadable"]
    assert LOGGED_PER_S <= len(said) <= LOGGED_PER_S * (1 + int(took_s))


async def test_key_that_is_a_stream_again_is_read_again(
    server: EmbeddedServer, publisher: Publisher
) -> None:
    """The sweep finds out, which is no fault of the doorbell; then rings count."""
    async with Rig(server.url, sweep_s=0.3) as rig:
        chain = await rig.watch("bad")
        await publisher.connection.call("SET", key("bad"), "no stream")
        await rig.until(lambda: rig.count(catalog.QUARANTINED.slot) == 1)
        await publisher.run(("DEL", key("bad")))
        await publisher.publish("bad", 3)
        await rig.until(lambda: rig.count(catalog.QUARANTINED.slot) == 0)
        await publisher.publish("bad", 4)
        await rig.until(lambda: publisher.is_told("bad", chain))

        publisher.check("bad", chain)
        assert rig.count(catalog.DOORBELL_MISSED.slot) == 0


async def test_key_that_is_a_stream_again_is_heard_long_before_the_sweep(
    server: EmbeddedServer, publisher: Publisher
) -> None:
    """It rang just now for what it was; it rings once more and never again unread."""
    async with Rig(server.url, sweep_s=600) as rig:
        chain = await rig.watch("bad")
        await publisher.connection.call("SET", key("bad"), "no stream")
        await rig.until(lambda: rig.watched("bad").quarantined)
        await publisher.run(("DEL", key("bad")))
        await publisher.publish("bad", 3)
        await rig.until(lambda: publisher.is_told("bad", chain), patience_s=3)

        publisher.check("bad", chain)


async def test_key_that_is_no_stream_is_not_watched(
    rig: Rig, publisher: Publisher
) -> None:
    """The worker is told why; later it may ask again."""
    await publisher.connection.call("SET", key("s"), "no stream")
    refusal = await rig.answer(rig.ask("s"))
    await publisher.delete("s")
    await rig.watch("s")

    assert refusal.refused is not None
    assert refusal.refused.reason == "wrongtype"


async def test_entry_of_a_slow_script_is_not_forgotten(
    server: EmbeddedServer, rig: Rig, publisher: Publisher
) -> None:
    """The ring comes while the script runs, the read is refused, no ring follows."""
    chains = {session: await rig.watch(session) for session in [*GOOD, "slow"]}
    other = await Connection.open(server.url, client_name="test", command_timeout_s=30)
    script = asyncio.create_task(other.call("EVAL", BUSY_SCRIPT, 1, key("slow")))
    await rig.until(lambda: rig.count(catalog.READ_ERRORS.slots["busy"]) > 0)
    publisher.note("slow", [await script])
    await rig.until(lambda: publisher.is_told("slow", chains["slow"]))
    await publisher.publish_to_all(GOOD)
    await rig.until(lambda: all(len(chains[one].ids) == 1 for one in GOOD))

    publisher.check("slow", chains["slow"])
    assert rig.count(catalog.RECONNECTS["reader"]) == 0
    other.close()


async def test_watch_during_a_slow_script_is_answered_afterwards(
    server: EmbeddedServer, rig: Rig, publisher: Publisher
) -> None:
    """A server that is not ready is no reason to refuse a session."""
    await rig.watch("slow")
    other = await Connection.open(server.url, client_name="test", command_timeout_s=30)
    script = asyncio.create_task(other.call("EVAL", BUSY_SCRIPT, 1, key("slow")))
    await rig.until(lambda: rig.count(catalog.READ_ERRORS.slots["busy"]) > 0)
    tokens = [rig.ask(session) for session in GOOD]
    before = script.done()
    await script
    answers = [await rig.answer(token) for token in tokens]

    assert not before
    assert all(answer.join for answer in answers)
    other.close()
