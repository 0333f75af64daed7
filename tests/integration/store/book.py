"""The sessions of one user, as a test opens, ages and reads them."""

from __future__ import annotations

import json
from typing import Any, TypeVar

from broker.store.connection import Connection
from broker.store.session_outcomes import (
    Closed,
    Held,
    Lease,
    Outcome,
    Record,
    Renewal,
    Standing,
    Terms,
)
from broker.store.sessions import (
    close_session,
    forget_news,
    list_sessions,
    open_session,
    renew_sessions,
    sweep_sessions,
)

Some = TypeVar("Some", bound=Outcome)

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
PARTS = ("sessions", "leases", "active", "idle", "evicted", "tombs", "news")
TERMS = Terms(lease_ms=HOUR_MS, idle_ms=HOUR_MS)
BY_ACTIVITY = Terms(lease_ms=HOUR_MS, idle_ms=HOUR_MS, evict_by="activity")


class Book:
    """Keys are spelled out here, so that a test sees if the broker's change.

    Attributes:
        announces: Whether news are taken out of the outbox at once; else it is as if
            whoever ran the script had died over it.
    """

    def __init__(
        self, connection: Connection, user: str = "ann", terms: Terms = TERMS
    ) -> None:
        self.connection = connection
        self.user = user
        self.terms = terms
        self.announces = True

    def key(self, part: str) -> str:
        return f"broker:{{{self.user}}}:{part}"

    async def open(self, session: str, *, limit: int = 3, **more: Any) -> Held:
        return await self._announced(
            await open_session(
                self.connection, self.user, session, self.terms, limit=limit, **more
            )
        )

    async def open_all(self, *sessions: str, limit: int = 3) -> dict[str, int]:
        """Open them one after the other; returns their fences."""
        held = [await self.open(session, limit=limit) for session in sessions]
        return {one.standings[0].session: one.standings[0].fence for one in held}

    async def renew(self, *leases: Lease, limit: int = 3) -> Held:
        renewal = Renewal(self.user, limit, leases)
        (held,) = await renew_sessions(self.connection, [renewal], self.terms)
        assert isinstance(held, Held)
        return await self._announced(held)

    async def renew_one(
        self, session: str, fence: int, lease_ms: int = HOUR_MS
    ) -> Standing:
        return (await self.renew(Lease(session, fence, lease_ms))).standings[0]

    async def close(self, session: str) -> Closed:
        return await self._announced(
            await close_session(self.connection, self.user, session, self.terms)
        )

    async def sweep(self) -> Outcome:
        (swept,) = await sweep_sessions(self.connection, [self.user], self.terms)
        assert isinstance(swept, Outcome)
        return await self._announced(swept)

    async def _announced(self, outcome: Some) -> Some:
        if self.announces and outcome.news:
            await self.connection.call_all(forget_news(self.user, outcome.news))
        return outcome

    async def records(self) -> dict[str, Record]:
        found = await list_sessions(self.connection, self.user)
        return {one.session: one for one in found}

    async def states(self) -> dict[str, str]:
        return {name: one.state for name, one in (await self.records()).items()}

    # The clock cannot be moved, so what it is compared with is.

    async def now(self) -> int:
        seconds, micros = await self.connection.call("TIME")
        return int(seconds) * 1000 + int(micros) // 1000

    async def put(self, part: str, **scores: int) -> None:
        """Overwrite scores, in ms."""
        for session, score in scores.items():
            await self.connection.call("ZADD", self.key(part), score, session)

    async def run_out(self, *sessions: str) -> None:
        """Let the leases of *sessions* be over."""
        await self.put("leases", **dict.fromkeys(sessions, await self.now() - 1))

    async def score(self, part: str, session: str) -> int | None:
        found = await self.connection.call("ZSCORE", self.key(part), session)
        return None if found is None else int(found)

    async def lose(self, *parts: str) -> None:
        """Let Redis have dropped keys."""
        await self.connection.call("DEL", *map(self.key, parts))

    async def age_news(self, by_ms: int) -> None:
        """Let what is in the outbox be older."""
        found = await self.connection.call("HGETALL", self.key("news"))
        await self.lose("news")
        for field, text in found.items():
            name, _, at = field.decode().rpartition("|")
            entry = json.loads(text) | {"at": int(at) - by_ms}
            older = f"{name}|{int(at) - by_ms}", json.dumps(entry)
            await self.connection.call("HSET", self.key("news"), *older)


def told(outcome: Outcome) -> list[tuple[str, str]]:
    """What happened to which session, in order."""
    return [(one.event.removeprefix("session_"), one.session) for one in outcome.news]


def victims(held: Held) -> list[str]:
    return [one.session for one in held.victims]
