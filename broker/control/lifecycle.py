"""Tells services which sessions and connections come and go, in one Redis stream.

Entries have ``event``, ``session``, ``user`` and ``data`` (JSON). Those of sessions
have ``fence`` as well. They come at least once: entries of the same session, fence,
event and ``data.at`` are the same one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import msgspec

from broker.store.connection import Command, Connection
from broker.store.session_outcomes import News, Outcome
from broker.store.sessions import forget_news, index_due

LIFECYCLE = "broker:lifecycle"
ENTRIES_MAX = 100_000
"""About how many entries the stream keeps."""


async def announce(connection: Connection, *outcomes: Outcome) -> None:
    """Do what must follow a script: tell the news, and note when to look again.

    News leave the outbox only when they are in the stream, so two round trips. Whoever
    dies between them has them told twice, and whoever dies before has others tell them.

    Raises:
        StoreUnavailable: Redis is away; the news are still in the outbox.
        StoreRefused: Redis cannot do it; the same.
    """
    entries = [
        _session_entry(outcome.user, one)
        for outcome in outcomes
        for one in outcome.news
    ]
    if entries:
        await connection.call_all(*entries)
    if outcomes:
        await connection.call_all(*_settled(outcomes))


def connection_entry(
    event: str,
    session: str,
    user: str,
    connection: str,
    data: Mapping[str, object],
) -> Command:
    """The command that announces that a connection has come or gone.

    Such entries are sent once and may be lost: services that must know who is there
    ask for presence.

    Args:
        event: ``connection_opened`` or ``connection_closed``.
        session: What the connection reads.
        user: Whose it is.
        connection: Its id.
        data: What else there is to say, such as ``code``; fit for JSON.
    """
    fields = ("session", session, "user", user, "connection", connection)
    return _entry(event, *fields, "data", msgspec.json.encode(data))


def _session_entry(user: str, news: News) -> Command:
    data = {
        name: value
        for name in ("replaced_by", "reason", "at")
        if (value := getattr(news, name))
    }
    fields = ("session", news.session, "user", user, "fence", news.fence)
    return _entry(news.event, *fields, "data", msgspec.json.encode(data))


def _entry(event: str, *fields: bytes | str | int) -> Command:
    bound = ("MAXLEN", "~", ENTRIES_MAX)
    return (b"XADD", LIFECYCLE, *bound, "*", "event", event, *fields)


def _settled(outcomes: tuple[Outcome, ...]) -> Iterator[Command]:
    for outcome in outcomes:
        if outcome.news:
            yield forget_news(outcome.user, outcome.news)
        yield index_due(outcome.user, outcome.due_ms)
