"""What ends connections from outside: evicted sessions, revoked tokens, operators."""

from __future__ import annotations

import asyncio
import time

import orjson

from broker.control.notices import SessionEnded
from broker.control.revocations import Revocations
from broker.disconnect import Disconnect
from broker.metrics import catalog
from broker.metrics.slots import Row
from broker.process import Boot
from broker.worker.catchup import Catchup
from broker.worker.channels import State, Subscription
from broker.worker.connection import Connection
from broker.worker.depth import entries_behind
from broker.worker.members import Members
from broker.worker.people import People
from broker.worker.subscriptions import Subscriptions

SLICE = 500
"""Connections looked at in one turn of the loop: about 1 ms."""
REASONS = {
    "evicted": Disconnect.SESSION_EVICTED,
    "closed": Disconnect.SESSION_CLOSED,
}


class Evictions:
    """Carries out what the control plane has decided or heard of."""

    def __init__(
        self,
        boot: Boot,
        values: Row,
        people: People,
        revocations: Revocations,
        subscriptions: Subscriptions,
        members: Members,
        catchup: Catchup,
    ) -> None:
        self._boot = boot
        self._values = values
        self._people = people
        self._revocations = revocations
        self._subscriptions = subscriptions
        self._members = members
        self._catchup = catchup
        self._loop = asyncio.get_running_loop()
        self._task: asyncio.Task[None] | None = None

    def end_session(self, notice: SessionEnded) -> None:
        """A session of a user was evicted or closed: its connections end."""
        reason = REASONS[notice.reason]
        self._values[catalog.SESSIONS_ENDED.slots[notice.reason]] += 1
        details = {"replaced_by": notice.replaced_by} if notice.replaced_by else {}
        for connection in self._people.of(notice.user):
            sub = connection.subs.get(notice.session)
            if sub is None:
                continue
            if connection.session == notice.session:
                connection.close(reason, **details)
                continue
            self._subscriptions.end(sub)
            data = {"reason": reason.label, **details}
            connection.notify("unsubscribed", data, notice.session)

    def check_access(self, key: str) -> None:
        """A user or token was revoked: its connections must go."""
        kind, _, name = key.partition(":")
        people = self._people
        self._check(people.of(name) if kind == "user" else people.with_token(name))

    def check_everybody(self) -> None:
        """The list of what is revoked was read: who is in it must go."""
        self._task = self._loop.create_task(self._check_in_slices())

    async def _check_in_slices(self) -> None:
        everybody = list(self._people)
        for start in range(0, len(everybody), SLICE):
            self._check(everybody[start : start + SLICE])
            await asyncio.sleep(0)

    def _check(self, connections: list[Connection]) -> None:
        now_s = time.time_ns() / 1e9
        for connection in connections:
            identity = connection.identity
            if identity is not None and self._revocations.refuses(identity, now_s):
                connection.close(Disconnect.REVOKED)

    def disconnect_user(self, user: str) -> None:
        """All connections of *user* end; they may come back."""
        for connection in self._people.of(user):
            connection.close(Disconnect.DISCONNECTED)

    def tell_presence(self, session: str, data: dict[str, object]) -> None:
        """Users came to *session* or left it."""
        self._members.tell(session, data)

    def describe_lag(self, limit: int) -> bytes:
        """The connections furthest behind, as a JSON array."""
        behind = sorted(self._catchup.behind, key=entries_behind, reverse=True)
        return orjson.dumps([self._describe(sub) for sub in behind[:limit]])

    def _describe(self, sub: Subscription) -> dict[str, object]:
        connection = sub.socket
        assert isinstance(connection, Connection)  # noqa: S101 - narrows for mypy
        return {
            "connection": connection.connection_id,
            "user": connection.user or None,
            "session": sub.channel.session,
            "protocol": connection.format.name,
            "state": State(sub.state).name.lower(),
            "behind_entries": entries_behind(sub),
            "buffered_bytes": connection.buffered_bytes,
            "lagging_s": round(max(0.0, self._loop.time() - sub.behind_since), 3),
            "pod": self._boot.pod,
            "worker": self._boot.index,
        }
