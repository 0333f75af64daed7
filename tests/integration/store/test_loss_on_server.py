"""The counting of lost entries against real servers, in random schedules."""

from __future__ import annotations

import random

import pytest

from broker.model import FIRST_ID, Position, StreamId, parse_stream_id
from broker.store.connection import Command, Connection
from broker.store.loss import Anchor, Reset, belongs, settle
from broker.store.streams import (
    BatchError,
    doorbell_read,
    parse_doorbell_reply,
    read_page,
)
from tests.integration.store.conftest import Open
from tests.unit.store.account import Account

KEY = b"s"
SCHEDULES = 100
STEPS = 60


class Publisher:
    """Adds, trims and deletes at random, and remembers every id ever added."""

    def __init__(self, connection: Connection, chance: random.Random) -> None:
        self.ever: list[StreamId] = []
        self._connection = connection
        self._chance = chance

    async def add(self) -> None:
        many = self._chance.randint(1, 6)
        trim = self._chance.choice([(), (), ("MAXLEN", "=", 5), ("MAXLEN", "~", 100)])
        command: Command = ("XADD", KEY, *trim, "*", "event", "x")
        for raw in await self._connection.call_all(*[command] * many):
            self.ever.append(parse_stream_id(raw))

    async def trim(self) -> None:
        if self._chance.random() < 0.5:
            length = self._chance.randint(0, 8)
            await self._connection.call("XTRIM", KEY, "MAXLEN", "=", length)
        else:
            await self._connection.call("XTRIM", KEY, "MINID", "=", self._recent())

    async def delete(self) -> None:
        await self._connection.call("XDEL", KEY, self._recent())

    async def change(self) -> None:
        """One random step, mostly an XADD."""
        verbs = [self.add, self.add, self.trim, self.delete, self.delete]
        await self._chance.choice(verbs)()

    def _recent(self) -> bytes:
        recent = self.ever[-12:]
        return b"%d-%d" % self._chance.choice(recent)


async def read_live(
    connection: Connection, account: Account, count: int, with_info: bool
) -> int:
    """One read as the reader does it."""
    cursors = [account.anchor.cursor]
    commands = doorbell_read([KEY], cursors, count, with_info)
    read = parse_doorbell_reply(await connection.send(*commands), [KEY], with_info)
    assert not isinstance(read, BatchError)
    ids = [entry_id for entry_id, _ in read[0].entries]
    account.take(ids, count, read[0].info())
    return len(ids)


async def read_replay(connection: Connection, account: Account, count: int) -> int:
    """One read as a resume does it: the first page looks for the cursor."""
    first = not account.delivered and account.anchor.cursor == account.start.id
    page = await read_page(
        connection, KEY, account.anchor.cursor, count, inclusive_check=first
    )
    ids = [entry_id for entry_id, _ in page.entries]
    account.take(ids, count, page.info, present=page.cursor_present)
    return len(ids)


@pytest.mark.parametrize("count", [2, 5, 100])
async def test_live_reader_is_told_of_every_loss(
    open_connection: Open, count: int
) -> None:
    """Delivered and lost together are what was published, and no reset is false."""
    connection = await open_connection()
    lost = 0
    for seed in range(SCHEDULES):
        await connection.call("DEL", KEY)
        chance = random.Random(seed)
        publisher = Publisher(connection, chance)
        await publisher.add()
        account = Account(Position(FIRST_ID, 0), publisher.ever)
        for _ in range(STEPS):
            await publisher.change()
            if chance.random() < 0.4:
                await read_live(connection, account, count, chance.random() < 0.8)
        while await read_live(connection, account, count, True) == count:
            pass
        account.check_settled()
        lost += account.lost

    assert lost > SCHEDULES, "the schedules lose nothing, so they prove nothing"


@pytest.mark.parametrize("count", [2, 5, 100])
@pytest.mark.parametrize("with_seq", [True, False])
async def test_resume_is_told_of_every_loss(
    open_connection: Open, count: int, with_seq: bool
) -> None:
    """A client that was away gets the same account, exact if it has the ordinal."""
    connection = await open_connection()
    told = 0
    for seed in range(SCHEDULES):
        await connection.call("DEL", KEY)
        chance = random.Random(seed)
        publisher = Publisher(connection, chance)
        await publisher.add()
        for _ in range(STEPS // 2):
            await publisher.change()
        place = chance.randrange(max(len(publisher.ever) - 12, 0), len(publisher.ever))
        seq = place + 1 if with_seq else None
        account = Account(Position(publisher.ever[place], seq), publisher.ever)
        for _ in range(STEPS // 4):
            await publisher.change()
            await read_replay(connection, account, count)
        while await read_replay(connection, account, count) == count:
            pass
        account.check_settled()
        told += len(account.gaps)

    assert told > SCHEDULES // 2


async def test_stream_that_began_anew_is_a_reset(open_connection: Open) -> None:
    """Deleted and refilled to less than before: its reader has to begin again."""
    connection = await open_connection()
    publisher = Publisher(connection, random.Random(0))
    for _ in range(10):
        await publisher.add()
    anchor = Anchor.at(Position(publisher.ever[-1], len(publisher.ever)))
    await connection.call("DEL", KEY)
    gone = await read_page(connection, KEY, anchor.cursor, 5, inclusive_check=False)
    await connection.call("XADD", KEY, "*", "event", "x")

    page = await read_page(connection, KEY, anchor.cursor, 5, inclusive_check=False)

    ids = [entry_id for entry_id, _ in page.entries]
    assert settle(anchor, [], False, gone.info) == Reset()
    assert settle(anchor, ids, False, page.info) == Reset()


async def test_primary_that_lost_acknowledged_writes_is_found_out(
    open_connection: Open,
) -> None:
    """After a failover new entries may hide the loss; the missing cursor tells."""
    connection = await open_connection()
    ids = [f"{1000 + number}-0" for number in range(5)]
    await connection.call_all(*(("XADD", KEY, one, "event", "x") for one in ids))
    ahead = Position((1007, 0), 8)
    more = [f"{2000 + number}-0" for number in range(9)]
    await connection.call_all(*(("XADD", KEY, one, "event", "x") for one in more))

    page = await read_page(connection, KEY, ahead.id, 100, inclusive_check=True)

    entry_ids = [entry_id for entry_id, _ in page.entries]
    anchor = Anchor.at(ahead)
    outcome = settle(
        anchor, entry_ids, page.full, page.info, cursor_present=page.cursor_present
    )
    assert not belongs(ahead, page.info, present=page.cursor_present)
    assert outcome == Reset()
