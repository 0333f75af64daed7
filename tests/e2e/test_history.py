"""Reading what is retained by plain HTTP."""

from __future__ import annotations

from typing import Any

import pytest
from redis.asyncio import Redis

from broker.model import StreamId
from broker.store.embedded import EmbeddedServer
from tests.conftest import NewWatcher, StartBroker
from tests.harness import http
from tests.harness.publisher import Author, key_of
from tests.harness.servers import BrokerServer


def text(entry_id: StreamId) -> str:
    return f"{entry_id[0]}-{entry_id[1]}"


async def read(broker: BrokerServer, session: str, **query: str | int) -> Any:
    response = await http.get(
        broker.public, f"/v1/sessions/{session}/events", dict(query)
    )
    assert response.status == 200, response
    assert response.headers["content-type"].startswith("application/json")
    return response.json()


def numbers(page: Any) -> list[int]:
    return [event["data"]["i"] for event in page["events"]]


async def test_history_has_the_envelopes_of_the_live_events(
    broker: BrokerServer, watch: NewWatcher, author: Author, session: str
) -> None:
    """Except for the ordinal, which a page cannot always know, they are the same."""
    watcher = await watch(broker, session).open()
    await author.publish(session, 5, node_id="n", timestamp="2024-01-01T00:00:00Z")
    await author.publish(session, event="end")
    await watcher.next("end")
    page = await read(broker, session)

    assert [plain(event) for event in page["events"]] == [
        plain(event) for event in watcher.events
    ]


async def test_pages_follow_each_other_to_the_end(
    broker: BrokerServer, author: Author, session: str
) -> None:
    """Next is the after of the following page, and null at the end."""
    await author.publish(session, 25)
    seen: list[int] = []
    page = await read(broker, session, limit=10)
    seen += numbers(page)
    page = await read(broker, session, limit=10, after=page["next"])
    seen += numbers(page)
    page = await read(broker, session, limit=10, after=page["next"])
    seen += numbers(page)

    assert seen == list(range(1, 26))
    assert page["next"] is None


async def test_after_and_before_are_exclusive(
    broker: BrokerServer, author: Author, session: str
) -> None:
    """The range is what lies between the two positions."""
    ids = await author.publish(session, 10)
    page = await read(broker, session, after=f"{text(ids[2])}@3", before=text(ids[7]))

    assert numbers(page) == [4, 5, 6, 7]


async def test_reverse_begins_at_the_newest(
    broker: BrokerServer, author: Author, session: str
) -> None:
    """reverse=1 pages backwards; next is then the following before."""
    await author.publish(session, 25)
    first = await read(broker, session, reverse=1, limit=10)
    second = await read(broker, session, reverse=1, limit=10, before=first["next"])

    assert numbers(first) == list(range(25, 15, -1))
    assert numbers(second) == list(range(15, 5, -1))


async def test_missing_session_is_an_empty_history(
    broker: BrokerServer, session: str
) -> None:
    """Without a stream there is nothing to read and nothing wrong."""
    assert await read(broker, session) == {"events": [], "next": None}


async def test_transient_and_bad_entries_in_history(
    broker: BrokerServer, author: Author, session: str
) -> None:
    """Transient entries are never read back; bad ones are skipped frames."""
    await author.publish(session)
    await author.publish(session, transient=1)
    await author.publish_raw(session, {"data": "1"})
    await author.publish(session)
    page = await read(broker, session)

    assert [event["event"] for event in page["events"]] == ["tick", "skipped", "tick"]


async def test_count_tells_kept_and_added(
    broker: BrokerServer, author: Author, redis: Redis, session: str
) -> None:
    """Count is what is retained, added is what there ever was."""
    ids = await author.publish(session, 30)
    await redis.xtrim(key_of(session), maxlen=12, approximate=False)
    response = await http.get(broker.public, f"/v1/sessions/{session}/events/count")
    count = response.json()

    assert count["count"] == 12
    assert count["added"] == 30
    assert count["first"].partition("@")[0] == text(ids[18])
    assert count["last"].partition("@")[0] == text(ids[29])


async def test_count_of_a_missing_session_is_zero(
    broker: BrokerServer, session: str
) -> None:
    """No stream counts as an empty one."""
    response = await http.get(broker.public, f"/v1/sessions/{session}/events/count")
    count = response.json()

    assert (count["count"], count["added"]) == (0, 0)


@pytest.mark.parametrize(
    "query",
    [
        {"limit": "0"},
        {"limit": "-1"},
        {"limit": "x"},
        {"after": "garbage"},
        {"before": "1-2-3"},
        {"reverse": "maybe"},
    ],
    ids=str,
)
async def test_bad_questions_are_400(
    broker: BrokerServer, session: str, query: dict[str, str | int]
) -> None:
    """What cannot be read is refused with a JSON body."""
    response = await http.get(broker.public, f"/v1/sessions/{session}/events", query)

    assert response.status == 400
    assert isinstance(response.json(), dict)


@pytest.mark.parametrize("tail", ["events", "events/count"])
async def test_bad_session_is_refused(broker: BrokerServer, tail: str) -> None:
    """The broker's own keys cannot be read this way."""
    response = await http.get(broker.public, f"/v1/sessions/_probe/{tail}")

    assert response.status in (400, 404)


async def test_page_is_never_larger_than_the_limit_of_the_broker(
    start_broker: StartBroker,
    shared_redis: EmbeddedServer,
    author: Author,
    session: str,
) -> None:
    """One question cannot read a whole stream."""
    broker = start_broker(shared_redis.url, max_replay_entries=20)
    await author.publish(session, 50)
    response = await http.get(
        broker.public, f"/v1/sessions/{session}/events", {"limit": 50}
    )
    page = await read(broker, session)

    assert response.status == 400 or len(response.json()["events"]) == 20
    assert len(page["events"]) <= 20


def plain(event: dict[str, Any]) -> dict[str, Any]:
    """The event without its ordinal."""
    bare = {name: value for name, value in event.items() if name != "seq"}
    return bare | {"id": event["id"].partition("@")[0]}


async def test_a_page_of_large_events_is_small(
    broker: BrokerServer, author: Author, session: str
) -> None:
    """Whatever the limit, a page ends at about 4 MiB, and the next one follows."""
    await author.publish(session, 40, pad_bytes=500_000)
    pages = seen = largest = 0
    after = "0-0"
    while after:
        page = await http.get(
            broker.public, f"/v1/sessions/{session}/events", {"after": after}
        )
        largest = max(largest, len(page.body))
        found = page.json()
        seen += len(found["events"])
        after = found["next"] or ""
        pages += 1

    assert seen == 40
    assert largest < 5 * 1024 * 1024
    assert pages > 4
