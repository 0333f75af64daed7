"""The envelope of the hub, its timestamps and what its clients say."""

from __future__ import annotations

import json
from datetime import datetime
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from broker.entry import Skipped, read_entry
from broker.model import is_session_name
from broker.protocols.council import (
    AHEAD_MAX_NS,
    Clock,
    CouncilFormat,
    named_session,
)
from broker.protocols.formats import event_payload
from broker.protocols.native import BadFrame, read_client_frame
from tests.unit.protocols.council_parts import (
    MS,
    NOW_NS,
    SESSION,
    entry,
    frames,
    new_format,
)
from tests.unit.protocols.peer import read_server_frames

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
OBJECTS = st.dictionaries(
    st.sampled_from(
        ["session_uuid", "node_id", "chunk", "data", "timestamp", "event", "", 'é"\\']
    ),
    JSON,
)
NAMES = st.text(min_size=1, max_size=20).filter(lambda text: text.isprintable())


def told(data: str, event: str = "token_stream", node_id: str = "") -> dict[str, Any]:
    """The one frame that comes of an entry."""
    made = new_format().event(SESSION, MS, 0, 1, entry(data, event, node_id))
    (frame,) = frames(made)
    return frame


# The envelope.


def test_an_entry_is_the_envelope_of_the_hub_and_nothing_else():
    """Four keys in its order, data as published with the ids behind."""
    made = new_format().event(
        SESSION, MS, 7, 412, entry('{"status": "running"}', "node_state_change", "a")
    )

    assert read_server_frames(made) == [
        (
            1,
            b'{"event":"node_state_change","timestamp":"2025-11-21T04:26:40.000000007Z",'
            b'"node_id":"a","data":{"status":"running","node_id":"a",'
            b'"session_uuid":"s1"}}',
        )
    ]


def test_without_a_node_there_is_no_node_id_anywhere():
    """The hub leaves it out, too."""
    assert told('{"reason":"x"}')["data"] == {"reason": "x", "session_uuid": "s1"}
    assert "node_id" not in told('{"reason":"x"}')


def test_a_node_within_data_is_told_above_it_as_well():
    """The router looks above, other readers of the store only within."""
    frame = told('{"node_id":"agent_a","chunk":"x"}')

    assert frame["node_id"] == frame["data"]["node_id"] == "agent_a"


def test_a_node_of_the_entry_is_told_within_data_as_well():
    """Whoever publishes it has to name it only once."""
    frame = told('{"status":"failed"}', node_id='Ä"\\')

    assert frame["node_id"] == frame["data"]["node_id"] == 'Ä"\\'


@pytest.mark.parametrize("own", ["null", '""', "5", "[]"])
def test_an_id_that_is_no_name_gives_way_to_the_one_of_the_entry(own: str):
    """The front end would take it for none."""
    frame = told(f'{{"node_id":{own}}}', node_id="a")

    assert (frame["node_id"], frame["data"]["node_id"]) == ("a", "a")


@pytest.mark.parametrize("own", ["null", '""', "5", "[]"])
def test_an_id_that_is_no_name_is_not_told_above_data(own: str):
    """It stays where it was published."""
    frame = told(f'{{"node_id":{own}}}')

    assert "node_id" not in frame
    assert frame["data"]["node_id"] == json.loads(own)


def test_ids_that_were_published_are_kept():
    """Even if they differ: the publisher knows what it means by them."""
    frame = told('{"node_id":"inner","session_uuid":"theirs"}', node_id="outer")

    assert frame["node_id"] == "outer"
    assert frame["data"] == {"node_id": "inner", "session_uuid": "theirs"}


@pytest.mark.parametrize("own", ["null", '""', "5"])
def test_a_session_that_is_no_name_is_replaced(own: str):
    """There is always one."""
    assert told(f'{{"session_uuid":{own}}}')["data"] == {"session_uuid": "s1"}


@pytest.mark.parametrize("value", ["1", '"x"', "[1,2]", "true", "1e400", '"{}"'])
def test_a_value_that_is_no_object_stands_within_one(value: str):
    """The front end reads properties of data without looking whether it is one."""
    made = new_format().event(SESSION, MS, 0, 1, entry(f" {value}\n", node_id="a"))
    ((_, text),) = read_server_frames(made)

    assert text.endswith(
        b',"data":{"value":%b,"node_id":"a","session_uuid":"s1"}}' % value.encode()
    )


def test_no_data_is_an_empty_object():
    """An entry without data has null, which says nothing."""
    assert told("null")["data"] == {"session_uuid": "s1"}


def test_values_in_data_are_kept_to_the_letter():
    """Numbers beyond those of this language among them."""
    made = new_format().event(
        SESSION, MS, 0, 1, entry('{"a":1e400,"b":12345678901234567890123,"c":1.0 }')
    )

    assert b'"data":{"a":1e400,"b":12345678901234567890123,"c":1.0,' in made


def test_data_that_is_nested_too_deeply_to_be_read_is_told_all_the_same():
    """What the reader has let pass must not end a worker."""
    deep = '{"a":' + "[" * 990 + "]" * 990 + "}"
    made = new_format().event(SESSION, MS, 0, 1, entry(deep, node_id="n"))
    ((_, text),) = read_server_frames(made)

    assert text.endswith(
        b'"node_id":"n","data":{"session_uuid":"s1","node_id":"n",%b}'
        % deep[1:].encode()
    )


@given(OBJECTS | JSON, NAMES, st.just("") | NAMES, st.integers(0, 2))
@example({"a": 1, "data": 2}, ',"data":', ',"timestamp":"', 1)
@example([{"a": 1, "timestamp": ""}], '","event":', '"node_id":', 0)
def test_the_ring_and_redis_give_the_same_frame(
    data: object, event: str, node_id: str, seq: int
):
    """Whatever the data, the names and the ordinal are."""
    made = entry(msgspec.json.encode(data).decode(), event, node_id)
    payload = event_payload(SESSION, MS, 3, seq, made)
    recorded = new_format().recorded(MS, 3, seq, payload)

    assert recorded == new_format().event(SESSION, MS, 3, seq, made)


@given(st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode()))
def test_whatever_keeps_the_contract_is_told(data: bytes):
    """Any bytes are an entry of the log or a frame of the hub."""
    read = read_entry([b"event", b"e", b"data", data], 10_000)
    made = (
        b""
        if isinstance(read, Skipped)
        else new_format().event(SESSION, MS, 0, 1, read)
    )

    assert all(frame["data"]["session_uuid"] for frame in frames(made))


def test_an_entry_that_breaks_the_contract_is_told_as_skipped():
    """The front end ignores the name; a log has no silent hole."""
    (frame,) = frames(new_format().skipped(SESSION, MS, 0, 5, "not_json", b"why"))

    assert (frame["event"], frame["timestamp"]) == (
        "skipped",
        "2025-11-21T04:26:40.000000000Z",
    )
    assert frame["data"] == {
        "reason": "not_json",
        "message": "why",
        "session_uuid": "s1",
    }


# What the broker has to say.


@pytest.mark.parametrize("reason", ["trimmed", "dropped"])
def test_losses_are_told(reason: str):
    """In the envelope, under the name that they have everywhere."""
    data = {"after": "1-0", "next": "3-0", "lost": 1, "exact": True, "reason": reason}
    (frame,) = frames(new_format().notice("gap", data, "s1"))

    assert list(frame) == ["event", "timestamp", "data"]
    assert frame["event"] == "gap"
    assert frame["data"] == {**data, "session_uuid": "s1"}


@pytest.mark.parametrize("reason", ["transient", "conflated"])
def test_holes_that_are_no_losses_are_not_told(reason: str):
    """Nobody misses anything that he was to have."""
    assert new_format().notice("gap", {"reason": reason}, "s1") == b""


def test_another_history_is_told():
    """With the session whose stream it is."""
    (frame,) = frames(new_format().notice("reset", {"from": "0-0@0"}, "s1"))

    assert (frame["event"], frame["data"]) == (
        "reset",
        {"from": "0-0@0", "session_uuid": "s1"},
    )


def test_an_error_stands_where_the_front_end_looks_for_it():
    """``data.error`` is what it logs."""
    data = {"code": "forbidden", "message": "no", "retry": True, "ref": "c1"}
    (frame,) = frames(new_format().notice("error", data, "s1"))

    assert frame["data"] == {
        "error": "no",
        "code": "forbidden",
        "ref": "c1",
        "session_uuid": "s1",
    }


def test_an_error_may_name_its_session_itself():
    """As that of a subscription which was refused does."""
    data = {"code": "wrongtype", "message": "no", "session": "s2"}
    (frame,) = frames(new_format().notice("error", data))

    assert frame["data"]["session_uuid"] == "s2"


@pytest.mark.parametrize(
    ("reason", "text"),
    [
        ("session_evicted", "the user opened a newer session"),
        ("session_closed", "the session was closed"),
        ("forbidden", "this is not allowed here"),
    ],
)
def test_a_subscription_that_has_ended_is_an_error(reason: str, text: str):
    """The connection stays, and may have others."""
    (frame,) = frames(new_format().notice("unsubscribed", {"reason": reason}, "s1"))

    assert frame["event"] == "error"
    assert frame["data"] == {"error": text, "code": reason, "session_uuid": "s1"}


@pytest.mark.parametrize(
    "event",
    ["welcome", "subscribed", "caught_up", "ack", "pong", "closing", "token_expiring"],
)
def test_what_the_hub_has_no_word_for_is_not_told(event: str):
    """Its front end would only wonder."""
    assert new_format().notice(event, {}, "s1") == b""


def test_the_heartbeat_is_a_ping_alone():
    """Browsers answer it by themselves."""
    assert read_server_frames(CouncilFormat.heartbeat) == [(9, b"")]


# Timestamps.


def moments(*stamps: bytes) -> list[str]:
    return [stamp.decode() for stamp in stamps]


def test_a_timestamp_is_the_time_of_the_id():
    """To the nanosecond, with a zone."""
    stamp = Clock(lambda: NOW_NS).stamp(MS, 12)

    assert stamp == b"2025-11-21T04:26:40.000000012Z"
    assert datetime.fromisoformat(stamp.decode()).timestamp() == MS / 1000


def test_no_timestamp_is_given_twice():
    """Not for the same id in two sessions, nor for an older one."""
    clock = Clock(lambda: NOW_NS)
    stamps = moments(
        clock.stamp(MS, 0), clock.stamp(MS, 0), clock.stamp(MS - 5000, 0),
        clock.stamp_now(),
    )  # fmt: skip

    assert stamps == [f"2025-11-21T04:26:40.00000000{n}Z" for n in range(4)]


def test_an_id_far_in_the_future_does_not_drag_the_clock_along():
    """It is believed up to a minute; what comes after it stays near the present."""
    clock = Clock(lambda: NOW_NS)
    first, second = clock.stamp(2**64 - 1, 2**64 - 1), clock.stamp(MS, 0)

    assert AHEAD_MAX_NS == 60_000_000_000
    assert moments(first, second) == [
        "2025-11-21T04:27:40.000000000Z",
        "2025-11-21T04:27:40.000000001Z",
    ]


@given(st.lists(st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1))))
def test_timestamps_rise_as_text_and_stay_in_bounds(ids: list[tuple[int, int]]):
    """Whatever ids come in whatever order."""
    clock = Clock(lambda: NOW_NS)
    stamps = [clock.stamp(ms, n) for ms, n in ids]

    assert all(earlier < later for earlier, later in pairwise(stamps))
    assert all(stamp < b"2025-11-21T04:27:40.1" for stamp in stamps)


def test_an_entry_that_is_encoded_again_gets_a_later_timestamp():
    """So a replay never goes back behind what was live."""
    wire = new_format()
    again = [wire.event(SESSION, MS, 0, 1, entry("{}")) for _ in range(2)]
    first, second = frames(b"".join(again))

    assert first["timestamp"] < second["timestamp"]


# Commands.


@pytest.mark.parametrize(
    ("data", "session"),
    [
        ({"session_id": "s1"}, "s1"),
        ({"session_uuid": "s2"}, "s2"),
        ({"session_id": "s1", "session_uuid": "s2"}, "s1"),
        ({"session_id": "", "session_uuid": "s2"}, "s2"),
        ({"session_id": None}, ""),
        ({}, ""),
        (None, ""),
    ],
)
def test_a_command_names_its_session_in_its_data(data: object, session: str):
    """The chat box says ``session_id``, the rest of the product ``session_uuid``."""
    text = msgspec.json.encode({"cmd": "user_input", "data": data})

    assert named_session(read_client_frame(text)) == session


@pytest.mark.parametrize("named", [5, ["s1"], "_probe", "a b", "x" * 129, True])
def test_a_session_that_cannot_be_is_a_bad_frame(named: object):
    """The answer has the id of the command, if it had one."""
    frame = {"cmd": "user_input", "id": "c1", "data": {"session_id": named}}
    with pytest.raises(BadFrame) as refused:
        named_session(read_client_frame(msgspec.json.encode(frame)))

    assert (refused.value.code, refused.value.ref) == ("bad_session", "c1")


@given(
    st.binary()
    | st.fixed_dictionaries(
        {"cmd": JSON}, optional={"data": OBJECTS | JSON, "id": JSON}
    ).map(msgspec.json.encode)
    | st.fixed_dictionaries({"session_id": JSON, "session_uuid": JSON}).map(
        lambda data: msgspec.json.encode({"cmd": "c", "data": data})
    )
)
def test_whatever_a_client_says_is_a_command_or_a_bad_frame(payload: bytes):
    """Nothing else ever comes of it."""
    try:
        session = named_session(read_client_frame(payload))
    except BadFrame:
        session = ""

    assert session == "" or is_session_name(session)
