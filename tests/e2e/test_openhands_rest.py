"""What clients of OpenHands V1 read by HTTP, on a broker as users run it."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any
from urllib.parse import quote_from_bytes

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

from tests.conftest import RedisAt, StartBroker, StartRedis
from tests.harness import http
from tests.harness.client import Address
from tests.harness.publisher import key_of
from tests.harness.servers import BrokerServer

Json = dict[str, Any]
FULL_STATE = {
    "id": "s-1",
    "kind": "ConversationStateUpdateEvent",
    "key": "full_state",
    "value": {"execution_status": "idle", "title": "Tests", "max_iterations": 7},
}
SAID = {"role": "user", "content": [{"type": "text", "text": "hi"}], "run": True}


@pytest.fixture
def conversation() -> str:
    """A conversation of the test's own."""
    return str(uuid.uuid4())


def path_of(conversation: str, rest: str = "") -> str:
    return f"/api/conversations/{conversation}{rest}"


def message(number: int, **fields: Any) -> Json:
    content = [{"type": "text", "text": f"Number {number}"}]
    return {
        "id": str(uuid.UUID(int=number)),
        "timestamp": f"2026-01-01T00:00:{number:02}.000000",
        "source": "user",
        "llm_message": {"role": "user", "content": content},
        "kind": "MessageEvent",
        **fields,
    }


async def publish(
    redis: Redis, conversation: str, *events: Json, **fields: str | int
) -> None:
    pipeline: Any = redis.pipeline(transaction=True)
    for event in events:
        entry = {"event": "oh_event", "data": orjson.dumps(event), **fields}
        pipeline.xadd(key_of(conversation), entry)
    await pipeline.execute()


async def ask(
    broker: BrokerServer, conversation: str, rest: str = "", **query: str | int
) -> Any:
    answer = await http.get(broker.public, path_of(conversation, rest), query)
    assert answer.status == 200, answer
    assert answer.headers["content-type"].startswith("application/json")
    return answer.json()


async def pages(broker: BrokerServer, conversation: str, **query: Any) -> list[Json]:
    """All pages of a search, as a client follows them."""
    found = [await ask(broker, conversation, "/events/search", **query)]
    while following := found[-1]["next_page_id"]:
        query["page_id"] = following
        found.append(await ask(broker, conversation, "/events/search", **query))
    return found


def numbers(*found: Json) -> list[int]:
    return [uuid.UUID(item["id"]).int for page in found for item in page["items"]]


async def until_ready(server: BrokerServer) -> None:
    """Wait until its only worker is connected."""
    async with asyncio.timeout(10):
        while (await http.get(server.public, "/ready")).status != 200:
            pass  # Each question is a round trip, so this is no busy loop.


async def raw(address: Address, request: bytes) -> bytes:
    """The head of the answer to bytes that nobody has put in order."""
    reader, writer = await asyncio.open_connection(*address)
    writer.write(request)
    async with asyncio.timeout(10):
        head = await reader.readuntil(b"\r\n\r\n")
    writer.transport.abort()
    return head


# Conversations.


async def test_a_conversation_is_what_its_newest_state_says(
    broker: BrokerServer, redis: Redis, conversation: str
):
    """A status that was published after it is newer."""
    await publish(redis, conversation, message(1))
    plain = await ask(broker, conversation)
    await publish(redis, conversation, FULL_STATE, transient=1)
    stated = await ask(broker, conversation.replace("-", ""))
    status = {"key": "execution_status", "value": "running"}
    await publish(redis, conversation, {**FULL_STATE, **status})
    running = await ask(broker, conversation)

    assert plain["id"] == stated["id"] == conversation
    assert plain["agent"]["kind"] == "Agent"
    assert (stated["title"], stated["max_iterations"]) == ("Tests", 7)
    assert stated["execution_status"] == "idle"
    assert running["execution_status"] == "running"
    assert running["updated_at"] >= running["created_at"] > "2020"


@pytest.mark.parametrize("rest", ["", "/events/search", "/events/count"])
async def test_a_conversation_without_a_stream_is_not_found(
    broker: BrokerServer, conversation: str, rest: str
):
    """In the words of the agent-server."""
    answer = await http.get(broker.public, path_of(conversation, rest))

    assert answer.status == 404
    assert answer.json() == {"detail": f"Conversation not found: {conversation}"}


async def test_a_key_that_is_no_stream_is_not_found(
    broker: BrokerServer, redis: Redis, conversation: str
):
    """Somebody's mistake is no error of ours."""
    await redis.set(key_of(conversation), "text", px=10_000)
    answer = await http.get(broker.public, path_of(conversation, "/events/search"))

    assert answer.status == 404


# Pages.


async def test_pages_follow_each_other_in_the_order_of_the_stream(
    broker: BrokerServer, redis: Redis, conversation: str
):
    """And against it; each event once."""
    await publish(redis, conversation, *map(message, range(1, 26)))
    along = await pages(broker, conversation, limit=10)
    against = await pages(broker, conversation, limit=10, sort_order="TIMESTAMP_DESC")

    assert [len(page["items"]) for page in along] == [10, 10, 5]
    assert numbers(*along) == list(range(1, 26))
    assert numbers(*against) == list(range(25, 0, -1))
    assert along[0]["items"][0] == message(1)


async def test_a_full_last_page_is_the_last_one(
    broker: BrokerServer, redis: Redis, conversation: str
):
    """Nobody has to ask for an empty page."""
    await publish(redis, conversation, *map(message, range(1, 11)))

    assert len(await pages(broker, conversation, limit=5)) == 2


async def test_only_kept_events_of_openhands_are_found(
    broker: BrokerServer, redis: Redis, conversation: str
):
    """Not what is delivered live only, nor what is of another kind or broken."""
    await publish(redis, conversation, message(1))
    await publish(redis, conversation, message(2), transient=1)
    await redis.xadd(key_of(conversation), {"event": "other", "data": "{}"})
    await redis.xadd(key_of(conversation), {"event": "oh_event", "data": "{"})
    await redis.xadd(key_of(conversation), {"event": "oh_event", "data": "[]"})
    await publish(redis, conversation, message(3))
    found = await pages(broker, conversation, limit=1)

    assert numbers(*found) == [1, 3]
    assert await ask(broker, conversation, "/events/count") == 2


async def test_filters_narrow_pages_and_counts(
    broker: BrokerServer, redis: Redis, conversation: str
):
    """All of them have to agree."""
    await publish(redis, conversation, *map(message, range(1, 26)))
    agent = message(26, source="agent", kind="ActionEvent")
    await publish(redis, conversation, agent)
    for query, expected in (
        ({"kind": "ActionEvent"}, [26]),
        ({"source": "user", "body": "NUMBER 2"}, [2, 20, 21, 22, 23, 24, 25]),
        ({"timestamp__gte": "2026-01-01T00:00:24Z"}, [24, 25, 26]),
        ({"timestamp__lt": "2026-01-01T00:00:03"}, [1, 2]),
        ({"kind": "ActionEvent", "source": "user"}, []),
    ):
        found = await pages(broker, conversation, limit=3, **query)
        count = await ask(broker, conversation, "/events/count", **query)

        assert numbers(*found) == expected
        assert count == len(expected)


async def test_a_page_may_begin_with_an_event(
    broker: BrokerServer, redis: Redis, conversation: str
):
    """By its own id, as the agent-server names pages; an unknown one is none."""
    await publish(redis, conversation, *map(message, range(1, 8)))
    fifth = str(uuid.UUID(int=5))
    for query, expected in (
        ({"page_id": fifth}, [5, 6, 7]),
        ({"page_id": fifth, "sort_order": "TIMESTAMP_DESC"}, [5, 4, 3, 2, 1]),
        ({"page_id": str(uuid.uuid4())}, [1, 2, 3, 4, 5, 6, 7]),
    ):
        page = await ask(broker, conversation, "/events/search", **query)

        assert numbers(page) == expected


@pytest.mark.parametrize(
    "query", ["limit=101", "limit=0", "sort_order=UP", "timestamp__gte=then"]
)
async def test_a_search_that_cannot_be_used_is_422(
    broker: BrokerServer, conversation: str, query: str
):
    """Also where there is nothing to find."""
    path = path_of(conversation, f"/events/search?{query}")
    answer = await http.get(broker.public, path)

    assert answer.status == 422
    assert answer.json()["detail"][0]["loc"] == ["query", query.partition("=")[0]]


async def test_a_page_is_never_larger_than_a_few_mib(
    broker: BrokerServer, redis: Redis, conversation: str
):
    """It ends early, and the next one goes on with the next event."""
    large = [message(n, pad="x" * 900_000) for n in range(1, 8)]
    await publish(redis, conversation, *large)
    found = await pages(broker, conversation)

    assert [len(page["items"]) for page in found] == [4, 3]
    assert numbers(*found) == [1, 2, 3, 4, 5, 6, 7]


# Counts.


async def test_a_count_follows_the_stream(
    broker: BrokerServer, redis: Redis, conversation: str
):
    """Through what is added, trimmed, deleted, and begun anew."""
    counts = []

    async def note() -> None:
        counts.append(await ask(broker, conversation, "/events/count"))

    await publish(redis, conversation, *map(message, range(30)))
    await note()
    await publish(redis, conversation, *map(message, range(12)))
    await publish(redis, conversation, message(0), transient=1)
    await note()
    await redis.xtrim(key_of(conversation), maxlen=20, approximate=False)
    await note()
    last: Any = await redis.xrevrange(key_of(conversation), count=3)
    await redis.xdel(key_of(conversation), last[2][0])
    await note()
    await redis.delete(key_of(conversation))
    await publish(redis, conversation, *map(message, range(5)))
    await note()

    assert counts == [30, 42, 19, 18, 5]


async def test_counts_at_the_same_moment_agree(
    broker: BrokerServer, redis: Redis, conversation: str
):
    """Many tabs open at once."""
    await publish(redis, conversation, *map(message, range(50)))
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(ask(broker, conversation, "/events/count"))
            for _ in range(30)
        ]

    assert {task.result() for task in tasks} == {50}


# Single events.


async def test_an_event_is_found_by_its_id(
    broker: BrokerServer, redis: Redis, conversation: str
):
    """One, or several with null for those that are not there."""
    await publish(redis, conversation, *map(message, range(1, 26)))
    one, two, none = (str(uuid.UUID(int=number)) for number in (3, 20, 99))
    batch = f"?ids={one}&ids={none},{two}"
    by_body = await http.request(
        "GET", broker.public, path_of(conversation, "/events"), body=[two, none]
    )
    missing = await http.get(broker.public, path_of(conversation, f"/events/{none}"))

    assert await ask(broker, conversation, f"/events/{one}") == message(3)
    assert await ask(broker, conversation, f"/events{batch}") == [
        message(3),
        None,
        message(20),
    ]
    assert by_body.json() == [message(20), None]
    assert (missing.status, missing.json()) == (404, {"detail": "Not Found"})


async def test_the_app_servers_routes_name_the_conversation_in_the_query(
    broker: BrokerServer, redis: Redis, conversation: str
):
    """As the GUI of Nov 2025 asks; without a conversation there is no answer."""
    await publish(redis, conversation, message(1), message(2, kind="ActionEvent"))
    query = {"conversation_id__eq": conversation, "kind__eq": "ActionEvent"}
    search = await http.get(broker.public, "/api/v1/events/search", query)
    count = await http.get(broker.public, "/api/v1/events/count", query)
    nobody = await http.get(broker.public, "/api/v1/events/count")

    assert numbers(search.json()) == [2]
    assert count.json() == 1
    assert nobody.status == 422


# Trouble.


async def test_without_redis_clients_are_told_to_come_back(
    start_redis: StartRedis, start_broker: StartBroker, conversation: str
):
    """Reads and acts are 503; the pod stays ready, or all of them would leave."""
    redis = start_redis()
    server = start_broker(redis.url, workers=1, command_timeout_s=0.5)
    await until_ready(server)
    redis.stop()
    answers = [
        await http.get(server.public, path_of(conversation)),
        await http.get(server.public, path_of(conversation, "/events/search")),
        await http.get(server.public, path_of(conversation, "/events/count")),
        await http.post(server.public, path_of(conversation, "/events"), SAID),
    ]
    ready = await http.get(server.public, "/ready")
    redis.start()

    for answer in answers:
        assert answer.status == 503
        assert int(answer.headers["retry-after"]) >= 1
        assert isinstance(answer.json()["detail"], str)
    assert (ready.status, ready.json()) == (200, {"status": "ready"})


async def test_a_count_of_a_stream_that_was_lost_is_that_of_the_new_one(
    start_redis: StartRedis, start_broker: StartBroker, redis_at: RedisAt
):
    """After a flush nothing that was counted before is told."""
    server = start_redis()
    broker = start_broker(server.url, workers=1)
    redis = redis_at(server.url)
    conversation = str(uuid.uuid4())
    await publish(redis, conversation, *map(message, range(9)))
    before = await ask(broker, conversation, "/events/count")
    await redis.flushall()
    await publish(redis, conversation, *map(message, range(10)))

    assert (before, await ask(broker, conversation, "/events/count")) == (9, 10)


PARAMETERS = st.lists(
    st.tuples(
        st.sampled_from(
            (
                *(b"page_id", b"limit", b"kind", b"source", b"body", b"sort_order"),
                *(b"timestamp__gte", b"timestamp__lt", b"ids", b"session_api_key"),
                b"conversation_id__eq",
            )
        ),
        st.binary(max_size=40).map(quote_from_bytes).map(str.encode)
        | st.from_regex(rb"[!\"$-;=?-~]{0,40}", fullmatch=True),
    ),
    max_size=5,
)
RESTS = st.sampled_from(
    (
        *("", "/events", "/events/search", "/events/count", "/events/%ff%00"),
        *("/run", "/events/respond_to_confirmation", "/../x", "/events/"),
    )
)


@pytest.fixture
async def known(redis: Redis, conversation: str) -> str:
    """A conversation with something to find."""
    await publish(redis, conversation, message(1), message(2, kind="ActionEvent"))
    return conversation


@given(
    method=st.sampled_from((b"GET", b"POST", b"OPTIONS", b"PATCH")),
    rest=RESTS,
    parameters=PARAMETERS,
    body=st.binary(max_size=60) | st.sampled_from((b"[]", b'{"content":[]}')),
)
@settings(max_examples=300, suppress_health_check=list(HealthCheck))
async def test_any_request_has_an_answer(
    broker: BrokerServer,
    known: str,
    method: bytes,
    rest: str,
    parameters: list[tuple[bytes, bytes]],
    body: bytes,
):
    """Never 500, and nothing in the log."""
    broker.allowed.append("bad_request|Error handling request|BadStatusLine")
    query = b"&".join(b"%b=%b" % pair for pair in parameters)
    path = path_of(known, rest).encode()
    head = b"%b %b?%b HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"
    answer = await raw(broker.public, head % (method, path, query, len(body)) + body)

    assert answer.split()[1] in (
        *(b"200", b"204", b"400", b"404", b"405", b"422", b"429"),
    )
