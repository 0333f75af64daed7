"""Writes streams and remembers all that was ever in them."""

from __future__ import annotations

import random
from collections import defaultdict
from typing import Self

from broker.config import load_settings
from broker.model import StreamId, parse_stream_id
from broker.store.connection import Command, Connection
from broker.store.keys import event_key_pattern
from tests.integration.reader.follower import Chain

_KEYS = event_key_pattern(load_settings({}, env_file=None).event_stream)


def key(session: str) -> bytes:
    """The key of a session's stream."""
    return _KEYS.key(session)


class Publisher:
    """Publishes as a service would.

    Attributes:
        ever: All ids ever added, by session, of the present history.
        former: What was in the streams before they began anew, oldest first.
    """

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.ever: defaultdict[str, list[StreamId]] = defaultdict(list)
        self.former: defaultdict[str, list[list[StreamId]]] = defaultdict(list)

    @classmethod
    async def connect(cls, url: str) -> Self:
        return cls(await Connection.open(url, client_name="test-publisher"))

    async def run(self, *commands: Command) -> list[object]:
        """Run commands in one transaction; returns their results."""
        *_, results = await self.connection.call_all((b"MULTI",), *commands, (b"EXEC",))
        found: list[object] = results
        return found

    async def publish(
        self, session: str, count: int = 1, data: bytes = b"1", *more: Command
    ) -> None:
        """Add *count* entries and run *more*, all in one transaction."""
        add = xadd(session, data)
        results = await self.run(*[add] * count, *more)
        self.note(session, results[:count])

    async def publish_to_all(self, sessions: list[str], count: int = 1) -> None:
        """Add *count* entries to each session, pipelined and not in a transaction."""
        commands = [xadd(session, b"1") for session in sessions for _ in range(count)]
        results = await self.connection.call_all(*commands) if commands else []
        for number, session in enumerate(sessions):
            self.note(session, results[number * count : (number + 1) * count])

    def note(self, session: str, ids: list[object]) -> None:
        """Remember what was added."""
        for raw in ids:
            assert isinstance(raw, bytes)
            self.ever[session].append(parse_stream_id(raw))

    async def delete(self, session: str) -> None:
        """Delete the stream: what is added from now on is another history."""
        await self.connection.call("DEL", key(session))
        self.rewound(session, 0)

    def rewound(self, session: str, kept: int) -> None:
        """Note that the server has only the first *kept* entries of the stream."""
        self.former[session].append(self.ever[session])
        self.ever[session] = self.ever[session][:kept]

    async def change(self, session: str, chance: random.Random) -> None:
        """One random change: adds, and perhaps trims or deletes, or both at once."""
        more: list[Command] = []
        if chance.random() < 0.3:
            more.append(("XTRIM", key(session), "MAXLEN", "=", chance.randint(0, 6)))
        recent = self.ever[session][-6:]
        if recent and chance.random() < 0.4:
            one = b"%d-%d" % chance.choice(recent)
            more.append(("XDEL", key(session), one))
        await self.publish(session, chance.randint(1, 5), b"1", *more)

    def begun(self, session: str, chain: Chain) -> int:
        """How many entries of the present history lie before what *chain* covers."""
        base = (0, 0) if chain.resets else chain.base.id
        return sum(one <= base for one in self.ever[session])

    def is_told(self, session: str, chain: Chain) -> bool:
        """Whether all that was published is delivered or announced as lost."""
        return chain.told >= len(self.ever[session]) - self.begun(session, chain)

    def check(self, session: str, chain: Chain) -> None:
        """Hold what *chain* says against what was published."""
        ever = self.ever[session]
        due = ever[self.begun(session, chain) :]
        place = {one: index + 1 for index, one in enumerate(ever)}
        given = set(chain.ids)
        assert given <= set(due), "an entry that was never published after the base"
        assert len(given) == len(chain.ids)
        for entry in chain.entries:
            assert entry.seq in (0, place[entry.id])
        for hole in chain.holes:
            span = [i for i in due if hole.gap.after.id < i <= hole.gap.next.id]
            assert hole.gap.exact
            assert hole.gap.lost == len([i for i in span if i not in given])
        assert chain.told == len(due)

    def close(self) -> None:
        self.connection.close()


def xadd(session: str, data: bytes) -> Command:
    """The command that publishes one event."""
    return ("XADD", key(session), "*", "event", "e", "data", data)
