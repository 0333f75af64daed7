"""Watch, watch again, and stop: what a worker may rely on."""

from __future__ import annotations

import asyncio

from broker.metrics import catalog
from broker.model import START, Position
from broker.store.embedded import EmbeddedServer
from tests.integration.reader.publisher import Publisher
from tests.integration.reader.rig import Rig


async def test_watch_during_a_load_is_told_everything_behind_its_cursor(
    rig: Rig, publisher: Publisher
) -> None:
    """Above the JOIN's cursor nothing is missing, below it nothing comes."""
    sessions = [f"s{number}" for number in range(40)]
    for session in sessions:
        await publisher.publish(session, 3)
    load = asyncio.create_task(publish_rounds(publisher, sessions, 60))
    chains = {}
    for session in sessions:
        chains[session] = await rig.watch(session)
    await load
    await rig.until(lambda: all(publisher.is_told(*one) for one in chains.items()))

    for session, chain in chains.items():
        publisher.check(session, chain)
        assert not chain.holes
    bases = {chain.base.seq for chain in chains.values()}
    assert len(bases) > 3, "all were watched at the same moment"


async def publish_rounds(
    publisher: Publisher, sessions: list[str], rounds: int
) -> None:
    for _ in range(rounds):
        await publisher.publish_to_all(sessions, 2)


async def test_second_worker_joins_the_chain_that_is_there(
    rig: Rig, publisher: Publisher
) -> None:
    """It learns the base, the last record and the cursor of the one channel."""
    chain = await rig.watch("s", worker=1)
    await publisher.publish("s", 4)
    await rig.until(lambda: len(chain.ids) == 4)
    answer = await rig.answer(rig.ask("s", worker=2))

    assert answer.join is not None
    assert answer.join.worker == 2
    assert answer.channel == chain.number
    assert answer.cursor == Position(publisher.ever["s"][3], 4)
    assert answer.join.base == START


async def test_missing_stream_is_watched_from_its_beginning(rig: Rig) -> None:
    """A session may be subscribed before anybody has published to it."""
    answer = await rig.answer(rig.ask("nobody"))

    assert answer.join is not None
    assert (answer.cursor, answer.join.base) == (START, START)


async def test_many_requests_of_one_session_are_all_answered(
    rig: Rig, publisher: Publisher
) -> None:
    """Those that come while the channel is being opened as well."""
    tokens = [rig.ask("s", worker=1 + number % 2) for number in range(6)]
    answers = [await rig.answer(token) for token in tokens]

    assert len({answer.channel for answer in answers}) == 1
    assert len(rig.follower.chains) == 1


async def test_session_that_several_workers_open_is_heard_at_once(
    rig: Rig, publisher: Publisher
) -> None:
    """Each opening reads it, and finds nothing: no reason to wait with its entries."""
    token = rig.ask("s", worker=1)
    watched = rig.watched("s")
    while not watched.channel:  # So one comes when the XINFO for the first is asked.
        token = rig.ask("s", worker=2)
        await asyncio.sleep(0)
    chain = rig.follower.chains[(await rig.answer(token)).channel]
    await rig.until(lambda: watched.reads == 2)
    await publisher.publish("s")
    await rig.until(lambda: len(chain.ids) == 1, patience_s=0.5)


async def test_watch_again_within_the_linger_is_the_same_channel(
    rig: Rig, publisher: Publisher
) -> None:
    """Nothing is read anew because somebody reloaded a page."""
    chain = await rig.watch("s")
    rig.unwatch("s")
    await publisher.publish("s", 2)
    again = await rig.watch("s")
    await rig.until(lambda: len(chain.ids) == 2)

    assert again is chain


async def test_watch_again_ends_the_linger(
    server: EmbeddedServer, publisher: Publisher
) -> None:
    """A session that is needed again is not forgotten later."""
    async with Rig(server.url, linger_s=0.2) as rig:
        chain = await rig.watch("s")
        rig.unwatch("s")
        again = await rig.watch("s")
        await asyncio.sleep(0.6)  # Longer than the linger and the next look at it.
        await publisher.publish("s", 2)
        await rig.until(lambda: len(chain.ids) == 2)

        assert again is chain


async def test_watch_again_after_the_linger_is_another_channel(
    server: EmbeddedServer, publisher: Publisher
) -> None:
    """The former chain has a hole behind it, so it must not be continued."""
    async with Rig(server.url, linger_s=0.3) as rig:
        former = await rig.watch("s")
        await publisher.publish("s", 2)
        await rig.until(lambda: len(former.ids) == 2)
        rig.unwatch("s")
        await rig.until(lambda: rig.count(catalog.WATCHED.slot) == 0)
        await publisher.publish("s", 3)
        chain = await rig.watch("s")
        await publisher.publish("s", 1)
        await rig.until(lambda: len(chain.ids) == 1)

        assert chain.number > former.number
        assert chain.base == Position(publisher.ever["s"][4], 5)
        assert len(former.ids) == 2
        publisher.check("s", chain)


async def test_session_of_another_worker_outlives_one_that_left(
    server: EmbeddedServer, publisher: Publisher
) -> None:
    """The count is per worker, and a worker that is gone has none."""
    async with Rig(server.url, linger_s=0) as rig:
        chain = await rig.watch("s", worker=1)
        await rig.watch("s", worker=2)
        await rig.watch("alone", worker=1)
        rig.openings.handle_gone(1)
        await rig.until(lambda: rig.count(catalog.WATCHED.slot) == 1)
        await publisher.publish("s", 2)
        await rig.until(lambda: len(chain.ids) == 2)

        assert rig.watches.get("alone") is None


async def test_session_that_is_given_up_before_the_answer_is_forgotten(
    server: EmbeddedServer, publisher: Publisher
) -> None:
    """Nobody is told, and the next request is served."""
    async with Rig(server.url, linger_s=0) as rig:
        await publisher.connection.call("CLIENT", "PAUSE", 200, "ALL")
        token = rig.ask("s")
        await asyncio.sleep(0.05)  # The XINFO is sent, and its answer held back.
        rig.unwatch("s")
        await rig.until(lambda: rig.count(catalog.WATCHED.slot) == 0)
        await rig.watch("s")

        assert token not in rig.follower.answers


async def test_restarted_reader_goes_on_where_the_worker_is(
    rig: Rig, publisher: Publisher
) -> None:
    """The first position that it is told becomes the base: no worker reads Redis."""
    former = await rig.watch("s")
    await publisher.publish("s", 5)
    await rig.until(lambda: len(former.ids) == 5)
    have = Position(former.ids[-1], former.entries[-1].seq)
    await rig.end()
    await publisher.publish("s", 4)
    await rig.restart()
    chain = await rig.watch("s", have=have, channel=former.number)
    await rig.until(lambda: publisher.is_told("s", chain))

    assert rig.follower.generations == 2
    assert chain.number > former.number
    assert chain.base == have
    assert [entry.seq for entry in chain.entries] == [6, 7, 8, 9]
    publisher.check("s", chain)


async def test_position_without_an_ordinal_is_enough_after_a_restart(
    rig: Rig, publisher: Publisher
) -> None:
    """The ordinals are counted from the tail again."""
    await publisher.publish("s", 5)
    have = Position(publisher.ever["s"][1])
    chain = await rig.watch("s", have=have)
    await rig.until(lambda: publisher.is_told("s", chain))

    assert chain.base == have
    assert [entry.seq for entry in chain.entries] == [3, 4, 5]


async def test_two_workers_with_two_positions_share_one_chain(
    rig: Rig, publisher: Publisher
) -> None:
    """The one that comes second may have to read what lies before the base."""
    await publisher.publish("s", 8)
    ever = publisher.ever["s"]
    first = await rig.watch("s", have=Position(ever[4], 5), worker=1)
    answer = await rig.answer(rig.ask("s", have=Position(ever[2], 3), worker=2))
    await rig.until(lambda: publisher.is_told("s", first))

    assert answer.join is not None
    assert not answer.join.reset
    assert answer.join.base == first.base == Position(ever[4], 5)
    assert [entry.seq for entry in first.entries] == [6, 7, 8]


async def test_position_of_another_history_is_not_believed(
    rig: Rig, publisher: Publisher
) -> None:
    """The answer says so, and the stream is read from its beginning."""
    await publisher.publish("s", 5)
    foreign = Position(publisher.ever["s"][4], 5)
    await publisher.delete("s")
    await publisher.publish("s", 3)
    answer = await rig.answer(rig.ask("s", have=foreign))
    chain = rig.follower.chains[answer.channel]
    await rig.until(lambda: publisher.is_told("s", chain))

    assert answer.join is not None
    assert answer.join.reset
    assert answer.cursor == chain.base == START
    publisher.check("s", chain)


async def test_position_that_fits_by_number_only_is_not_believed(
    rig: Rig, publisher: Publisher
) -> None:
    """Its id is in range, but there never was such an entry."""
    await publisher.publish("s", 5)
    ms, n = publisher.ever["s"][2]
    await asyncio.sleep(0.002)  # The server's clock moves on.
    await publisher.publish("s", 5)
    first = await rig.watch("s", worker=1)
    foreign = Position((ms, n + 100), 4)
    other = await rig.answer(rig.ask("s", have=foreign, worker=2))

    assert other.join is not None
    assert other.join.reset
    assert other.channel == first.number


async def test_position_of_the_same_channel_is_believed_without_asking(
    rig: Rig, publisher: Publisher
) -> None:
    """A worker that only lost its socket continues at once."""
    chain = await rig.watch("s")
    await publisher.publish("s", 2)
    await rig.until(lambda: len(chain.ids) == 2)
    await rig.end()
    have = Position(chain.ids[0], 1)
    answer = await rig.answer(rig.ask("s", have=have, channel=chain.number))

    assert answer.join is not None
    assert not answer.join.reset
    assert answer.cursor.seq == 2


async def test_names_that_no_client_may_use_are_refused(rig: Rig) -> None:
    """But those of the broker itself are watched."""
    refused = [await rig.answer(rig.ask(name)) for name in ("", "a b", "x" * 200)]
    own = await rig.answer(rig.ask("_probe:1"))

    reasons = [one.refused.reason for one in refused if one.refused]
    assert reasons == ["bad_session"] * 3
    assert own.join is not None


async def test_more_sessions_than_allowed_are_refused(server: EmbeddedServer) -> None:
    """Those that are watched already may be watched by more workers."""
    async with Rig(server.url, max_subscriptions=3) as rig:
        for number in range(3):
            await rig.watch(f"s{number}")
        fourth = await rig.answer(rig.ask("s3"))
        await rig.watch("s0", worker=2)

    assert fourth.refused is not None
    assert fourth.refused.reason == "overloaded"
