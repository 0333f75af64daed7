"""What requests of OpenHands V1 ask for, and what they are answered."""

from __future__ import annotations

import contextlib
import json
from datetime import datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.entry import Event
from broker.protocols.openhands.rest import (
    COMMANDS,
    EVERYTHING,
    EventFilter,
    Invalid,
    Search,
    check_command,
    event_id,
    read_conversation,
    read_filter,
    read_ids,
    read_search,
)
from broker.protocols.openhands.rest_answers import (
    Life,
    conversation_json,
    docs_page,
    invalid_json,
    list_json,
    page_json,
    server_info_json,
)

ID = "7d1c29f4-35d0-4b0c-8e7a-1f2e3d4c5b6a"
WHERE = ("path", "conversation_id")
NEW_YEAR = datetime.fromisoformat("2026-01-01")
TEXT = st.text(max_size=40)
QUERIES = st.dictionaries(
    st.sampled_from(
        (
            *("page_id", "limit", "kind", "source", "body", "sort_order"),
            *("timestamp__gte", "timestamp__lt", "kind__eq"),
        )
    ),
    TEXT | st.datetimes().map(str) | st.integers().map(str) | st.uuids().map(str),
)
JSON = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False) | TEXT,
    lambda some: st.lists(some) | st.dictionaries(TEXT, some),
    max_leaves=10,
)
HEADS = st.dictionaries(
    st.sampled_from(
        (
            *("id", "kind", "source", "timestamp", "llm_message"),
            *("extended_content", "reasoning_content"),
        )
    ),
    JSON | st.just("MessageEvent"),
)


def entry(data: bytes, event: bytes = b"oh_event", *, transient: bool = False) -> Event:
    return Event(event, data, b"", b"", b"", transient)


def event(**fields: Any) -> Event:
    return entry(json.dumps(fields).encode())


def message(*texts: str, **fields: Any) -> Event:
    content = [{"type": "text", "text": text} for text in texts]
    said = {"role": "user", "content": content}
    return event(kind="MessageEvent", source="user", llm_message=said, **fields)


# Conversations.


@pytest.mark.parametrize("text", [ID, ID.replace("-", ""), ID.upper()])
def test_a_conversation_has_one_name_however_its_uuid_is_written(text: str):
    """The session's name is the lower-case form with dashes."""
    assert read_conversation(text, WHERE) == ID


@pytest.mark.parametrize("text", ["", "c1", ID + "0", f"{{{ID}}}", f"urn:uuid:{ID}"])
def test_what_is_no_uuid_is_no_conversation(text: str):
    """And the answer says which part of the request is wrong."""
    with pytest.raises(Invalid) as caught:
        read_conversation(text, WHERE)

    assert json.loads(invalid_json(caught.value))["detail"][0]["loc"] == list(WHERE)


# Filters.


def test_only_kept_events_of_openhands_are_events():
    """Others, transient ones and data that is no object are never shown."""
    assert EVERYTHING.takes(entry(b' {"kind":"X"}'))
    assert not EVERYTHING.takes(entry(b'{"kind":"X"}', b"token_stream"))
    assert not EVERYTHING.takes(entry(b'{"kind":"X"}', transient=True))
    assert not EVERYTHING.takes(entry(b'["kind"]'))


@pytest.mark.parametrize(
    "kind", ["ActionEvent", "openhands.sdk.event.llm_convertible.action.ActionEvent"]
)
def test_a_kind_is_a_class_with_or_without_its_module(kind: str):
    """Older releases asked for the whole path of the class."""
    wanted = read_filter({"kind": kind})

    assert wanted.takes(event(kind="ActionEvent"))
    assert not wanted.takes(event(kind="MessageEvent"))


def test_the_app_servers_name_of_a_kind_counts_too():
    """The GUI of Nov 2025 asks for kind__eq."""
    assert read_filter({"kind__eq": "ActionEvent"}).kind == "ActionEvent"


def test_a_source_is_compared_as_it_is():
    """No event without this source is shown."""
    wanted = read_filter({"source": "agent"})

    assert wanted.takes(event(source="agent"))
    assert not wanted.takes(event(source="Agent"))
    assert not wanted.takes(event(kind="ActionEvent"))


def test_a_body_is_looked_for_in_the_text_of_messages_only():
    """In whatever case, and in all parts of what was said."""
    wanted = read_filter({"body": "Straße"})

    assert wanted.takes(message("eins", "STRASSE zwei"))
    assert wanted.takes(message("eins", reasoning_content="die strasse"))
    added = [{"type": "text", "text": "straße"}]
    assert wanted.takes(message("eins", extended_content=added))
    assert not wanted.takes(message("eins"))
    said = {"content": [{"type": "text", "text": "strasse"}]}
    assert not wanted.takes(event(kind="ActionEvent", llm_message=said))
    assert not wanted.takes(event(kind="MessageEvent", source="Straße"))


def test_times_take_what_is_from_one_up_to_before_the_other():
    """The event's own time counts; without a zone it is taken for UTC."""
    wanted = read_filter(
        {
            "timestamp__gte": "2026-01-01T01:00:00+01:00",
            "timestamp__lt": "2026-01-02T00:00:00",
        }
    )

    assert wanted.since == NEW_YEAR
    assert wanted.takes(event(timestamp="2026-01-01T00:00:00"))
    assert wanted.takes(event(timestamp="2026-01-01T23:59:59.999999"))
    assert not wanted.takes(event(timestamp="2025-12-31T23:59:59.999999"))
    assert not wanted.takes(event(timestamp="2026-01-02T00:00:00"))
    assert not wanted.takes(event(timestamp=5))
    assert not wanted.takes(event(kind="ActionEvent"))


def test_a_plus_that_became_a_space_is_still_a_zone():
    """Clients that do not escape it mean it all the same."""
    wanted = read_filter({"timestamp__gte": "2026-01-01T01:00:00 01:00"})

    assert wanted.since == NEW_YEAR


@pytest.mark.parametrize(
    "query",
    [
        {"timestamp__gte": "yesterday"},
        {"timestamp__lt": "0001-01-01T00:00:00+12:00"},
        {"body": "x" * 513},
    ],
)
def test_a_filter_that_cannot_be_used_is_refused(query: dict[str, str]):
    """Rather than that it shows everything."""
    with pytest.raises(Invalid):
        read_filter(query)


@given(QUERIES, HEADS)
def test_any_filter_says_yes_or_no_to_any_event(
    query: dict[str, str], head: dict[str, Any]
):
    """Whatever stands in it, of whatever type."""
    with contextlib.suppress(Invalid):
        assert read_filter(query).takes(event(**head)) in (True, False)


@given(st.binary())
def test_any_bytes_are_an_event_or_none(data: bytes):
    """Entries were checked before, but nothing here relies on that."""
    assert EventFilter(kind="X", source="agent").takes(entry(b"{" + data)) is False
    assert isinstance(event_id(data), str)


def test_an_id_is_text():
    """The numbers that V0 has are none by which anybody asks here."""
    assert event_id(b'{"id":"a"}') == "a"
    assert event_id(b'{"id":5}') == ""
    assert event_id(b"{}") == ""


# Pages.


def test_a_search_without_parameters_is_the_first_page():
    """A hundred events from the beginning; or as many as are asked for."""
    assert read_search({}) == Search(EVERYTHING, 100, False, None, "")
    assert read_search({"limit": "7"}).limit == 7


@pytest.mark.parametrize(
    ("page_id", "start", "start_event"),
    [
        ("1763699200000-7", (1763699200000, 7), ""),
        (ID, None, ID),
        ("0-0", None, ""),
        ("no such page", None, ""),
        ("99999999999999999999999-1", None, "99999999999999999999999-1"),
    ],
)
def test_a_page_begins_at_an_entry_or_an_event(
    page_id: str, start: tuple[int, int] | None, start_event: str
):
    """What can be neither begins at the beginning, as the agent-server has it."""
    search = read_search({"page_id": page_id})

    assert (search.start, search.start_event) == (start, start_event)


@pytest.mark.parametrize("limit", ["0", "101", "-1", "1.0", "x", "٣", "9" * 5000])
def test_a_limit_is_a_number_from_1_to_100(limit: str):
    """As the agent-server has it."""
    with pytest.raises(Invalid):
        read_search({"limit": limit})


def test_the_order_is_one_of_two():
    """Against the stream, or along it."""
    assert read_search({"sort_order": "TIMESTAMP_DESC"}).reverse
    assert not read_search({"sort_order": "TIMESTAMP"}).reverse
    with pytest.raises(Invalid):
        read_search({"sort_order": "timestamp"})


@given(QUERIES)
def test_any_query_is_a_search_or_invalid(query: dict[str, str]):
    """Nothing that stands there is an error of ours."""
    with contextlib.suppress(Invalid):
        assert 1 <= read_search(query).limit <= 100


def test_a_page_names_where_the_next_one_begins():
    """Its events stand there byte for byte."""
    assert page_json([b'{ "a":1}', b"{}"], (5, 1)) == (
        b'{"items":[{ "a":1},{}],"next_page_id":"5-1"}'
    )
    assert page_json([], None) == b'{"items":[],"next_page_id":null}'


# Several events.


def test_ids_come_in_a_body_or_in_the_query():
    """A body counts alone."""
    assert read_ids(b'["a","b"]', ["c"]) == ["a", "b"]
    assert read_ids(b"", ["a,b", "c"]) == ["a", "b", "c"]


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{}", b"[1]", b"[", b"\xff", json.dumps(["a"] * 101).encode()]
)
def test_ids_that_are_none_are_refused(body: bytes):
    """None at all, too many, or another type."""
    with pytest.raises(Invalid):
        read_ids(body, [])


def test_missing_events_are_null():
    """So the answer has a place for each id."""
    assert list_json([b"{}", None]) == b"[{},null]"


# Commands.


def test_a_command_is_handed_on_as_it_was_said():
    """Byte for byte, with keys that nobody here knows."""
    said = b' {"role": "user", "content": [{"type":"text","text":"hi"}], "x": 1}'

    assert check_command("message", said) == said


@pytest.mark.parametrize("cmd", ["run", "pause", "interrupt"])
@pytest.mark.parametrize("body", [b"", b" \n", b"{}"])
def test_nothing_is_an_empty_object(cmd: str, body: bytes):
    """Clients send no body where there is nothing to say."""
    assert check_command(cmd, body) == b"{}"


@pytest.mark.parametrize(
    ("cmd", "body"),
    [
        ("message", b""),
        ("message", b'{"content":"hi"}'),
        ("message", b'{"content":[1]}'),
        ("message", b'{"content":[{}]}'),
        ("message", b'{"content":[],"role":"boss"}'),
        ("message", b'{"content":[],"role":[]}'),
        ("message", b'{"content":[],"run":"yes"}'),
        ("respond_to_confirmation", b"{}"),
        ("respond_to_confirmation", b'{"accept":1}'),
        ("respond_to_confirmation", b'{"accept":true,"reason":null}'),
        ("run", b"[]"),
        ("run", b"null"),
        ("run", b"{"),
        ("run", b'{"a":"\\ud800"}'),
        ("run", b'{"a":"\xff"}'),
        ("run", b"[" * 100_000),
    ],
)
def test_a_command_that_services_could_not_read_is_refused(cmd: str, body: bytes):
    """Nothing reaches the command stream that is not what its name says."""
    with pytest.raises(Invalid):
        check_command(cmd, body)


@given(st.sampled_from(sorted(COMMANDS.values())), st.binary() | JSON.map(json.dumps))
def test_any_body_is_a_command_or_invalid(cmd: str, body: bytes | str):
    """And what is taken is JSON text of an object."""
    raw = body.encode() if isinstance(body, str) else body
    with contextlib.suppress(Invalid):
        assert isinstance(json.loads(check_command(cmd, raw)), dict)


# Conversations.


def info(state: bytes | None, status: str | None = None) -> Any:
    return json.loads(conversation_json(ID, state, status, Life(0, 1_000)))


def test_a_conversation_without_a_state_has_what_clients_cannot_do_without():
    """The Python client attaches to it."""
    assert (
        info(None).items()
        >= {
            "id": ID,
            "execution_status": "idle",
            "max_iterations": 500,
            "stats": {"usage_to_metrics": {}},
            "created_at": "1970-01-01T00:00:00.000000Z",
            "updated_at": "1970-01-01T00:00:01.000000Z",
            "title": None,
            "tags": {},
        }.items()
    )
    assert info(None)["agent"] == {
        "kind": "Agent",
        "llm": {"model": "unknown", "usage_id": "agent"},
        "tools": [],
    }


def test_a_published_state_wins():
    """But for the id; and a newer status wins over its own."""
    value = {"id": "another", "title": "T", "execution_status": "running", "more": [1]}
    state = json.dumps({"key": "full_state", "value": value}).encode()

    assert info(state)["id"] == ID
    assert info(state)["title"] == "T"
    assert info(state)["more"] == [1]
    assert info(state)["execution_status"] == "running"
    assert info(state, "finished")["execution_status"] == "finished"


@pytest.mark.parametrize("state", [b"", b"[]", b'{"value":1}', b'{"value":{"a":\xff}}'])
def test_a_state_that_cannot_be_read_is_as_good_as_none(state: bytes):
    """A service's mistake does not keep clients out."""
    assert info(state) == info(None)


def test_any_time_of_a_stream_can_be_told():
    """Explicit ids may lie beyond what has a date."""
    life = Life(2**64 - 1, 2**64 - 1)

    assert json.loads(conversation_json(ID, None, None, life))["created_at"] > "9"


def test_the_server_says_whose_routes_these_are():
    """Browsers look for the version of the agent-server, and so does its own test."""
    said = json.loads(server_info_json("1.2.3", 61.9, 3.5))

    assert said["title"] == "OpenHands Agent Server"
    assert said["version"] == "1.58.0"
    assert said["broker_version"] == "1.2.3"
    assert (said["uptime"], said["idle_time"]) == (61, 3)
    assert b"OpenHands Agent Server" in docs_page()
    assert b"/api/conversations/{id}/events/search" in docs_page()
