"""The two sockets of OpenHands V1: what clients say, and what they are sent."""

from __future__ import annotations

import json
from contextlib import suppress
from datetime import datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.entry import Event
from broker.protocols.formats import event_payload
from broker.protocols.native import BadFrame
from broker.protocols.openhands import v1
from broker.protocols.openhands.v1 import BadQuery, Resend, State, Trouble
from broker.protocols.openhands.v1_formats import (
    EVENTS,
    FORMATS,
    SESSION,
    SocketFormat,
    sync_frame,
)
from tests.unit.protocols.peer import read_server_frames

UUID = "0f4f3f0e-6d8a-4b0e-9a55-7a1f0a3b2c1d"
AT = (1763699200123, 2)
BOTH = pytest.mark.parametrize("wire", FORMATS, ids=["events", "session"])
SPACED = b' {"id": "e1",\n "kind": "MessageEvent"}'


def entry(data: bytes, *, name: bytes = b"oh_event", transient: bool = False) -> Event:
    return Event(name, data, b"", b"", b"", transient)


def state(key: str, value: object) -> bytes:
    kind = "ConversationStateUpdateEvent"
    return json.dumps({"kind": kind, "key": key, "value": value}).encode()


def frames(wire: SocketFormat, event: Event, seq: int = 3) -> list[bytes]:
    """What both ways to make the frame of an entry agree on."""
    session = UUID.encode()
    recorded = wire.recorded(*AT, seq, event_payload(session, *AT, seq, event))
    assert recorded == wire.event(session, *AT, seq, event)
    return [text for _opcode, text in read_server_frames(recorded)]


def told(frame: bytes) -> dict[str, Any]:
    ((_opcode, text),) = read_server_frames(frame)
    message: dict[str, Any] = json.loads(text)
    return message


# What clients of the events socket are sent.


@pytest.mark.parametrize("transient", [True, False])
@pytest.mark.parametrize("data", [SPACED, b'{"kind":"StreamingDeltaEvent"}'])
def test_an_event_is_sent_byte_for_byte(data, transient):
    """Nothing is added, and only space around it is gone."""
    assert frames(EVENTS, entry(data, transient=transient)) == [data.strip()]


@BOTH
@pytest.mark.parametrize("data", [b"null", b" 17", b'"text"', b"[{}]"])
def test_what_is_no_object_is_no_event(wire, data):
    """Clients take every frame for an object."""
    assert frames(wire, entry(data)) == []


@BOTH
def test_other_entries_are_not_sent(wire):
    """A stream may carry what is for other clients."""
    assert frames(wire, entry(b"{}", name=b"token_stream")) == []


@BOTH
def test_a_heartbeat_is_a_ping(wire):
    """There is no text that all clients would ignore."""
    assert read_server_frames(wire.heartbeat) == [(9, b"")]
    assert wire.answers
    assert wire.editor() is None


@BOTH
@pytest.mark.parametrize("size", [0, 1])
def test_frames_stay_below_the_limit_of_python_clients(wire, size):
    """A frame over 1 MiB would end their connections again and again."""
    pad = "x" * (v1.MESSAGE_BYTES_MAX - 100 + 200 * size)
    data = json.dumps({"id": "big-1", "pad": pad}).encode()
    (text,) = frames(wire, entry(data))
    message = json.loads(text)

    assert len(text) < 1024 * 1024
    assert (message.get("code") == "EventTooLarge") is bool(size)


def test_a_large_event_is_replaced_by_the_way_to_read_it():
    """The id and time are the entry's own, so that a client shows it once."""
    data = json.dumps({"id": "big-1", "pad": "x" * 2_000_000}).encode()
    (text,) = frames(EVENTS, entry(data))
    message = json.loads(text)
    (again,) = frames(EVENTS, entry(data))

    assert again == text
    assert message["kind"] == "ServerErrorEvent"
    assert message["source"] == "environment"
    assert message["timestamp"] == "2025-11-21T04:26:40.123000"
    assert f"/api/conversations/{UUID}/events/big-1" in message["detail"]


def test_a_large_event_without_a_usable_id_is_only_counted():
    """What cannot be asked for is not offered."""
    data = json.dumps({"id": "a/../b", "pad": "x" * 2_000_000}).encode()
    (text,) = frames(EVENTS, entry(data))

    assert json.loads(text)["detail"] == (
        f"an event of {len(data)} bytes is too large for this socket"
    )


# What clients of the session socket are sent.


def test_the_place_of_an_event_is_its_ordinal_from_zero():
    """An envelope around the bytes that were published."""
    assert frames(SESSION, entry(SPACED), 1) == [
        b'{"type":"durable","seq":0,"event":' + SPACED.strip() + b"}"
    ]


@pytest.mark.parametrize(("seq", "transient"), [(0, False), (5, True)])
def test_without_a_place_in_the_log_no_place_is_moved(seq, transient):
    """Transient entries, and those whose ordinal is not known, come as transient."""
    assert frames(SESSION, entry(SPACED, transient=transient), seq) == [
        b'{"type":"transient","event":' + SPACED.strip() + b"}"
    ]


@pytest.mark.parametrize("transient", [True, False])
def test_deltas_never_appear_on_the_session_socket(transient):
    """They have frames of their own there, which nobody publishes."""
    data = b'{"kind":"StreamingDeltaEvent","content":"Hel"}'

    assert frames(SESSION, entry(data, transient=transient)) == []


def test_an_event_that_speaks_of_deltas_is_none():
    """Only the kind counts."""
    data = b'{"kind":"MessageEvent","text":"a StreamingDeltaEvent"}'

    assert len(frames(SESSION, entry(data))) == 1


@pytest.mark.parametrize(
    ("first", "through", "expected"),
    [
        (31, 33, {"type": "sync", "from_seq": 31, "through_seq": 33}),
        (None, 33, {"type": "sync", "through_seq": 33}),
        (0, None, {"type": "sync", "from_seq": 0}),
    ],
)
def test_sync_leaves_out_what_is_not_known(first, through, expected):
    """A client that asked for nothing is promised nothing."""
    assert told(sync_frame(first, through)) == expected


# What both are told besides.


@pytest.mark.parametrize("lost", [37, None])
def test_a_real_loss_is_told_once_per_gap(lost):
    """The same gap has the same id on every connection."""
    gap = {"after": "5-0@1", "next": "1763699200000-0@39", "lost": lost}
    gap |= {"exact": True, "reason": "trimmed"}
    event = told(EVENTS.notice("gap", gap, UUID))
    frame = told(SESSION.notice("gap", gap, UUID))
    count = "an unknown number of" if lost is None else "37"

    assert EVENTS.notice("gap", gap, UUID) == EVENTS.notice("gap", gap, UUID)
    assert event["kind"] == "ServerErrorEvent"
    assert event["code"] == "EventsLost"
    assert event["timestamp"] == "2025-11-21T04:26:40.000000"
    assert event["detail"].startswith(f"{count} entries")
    assert frame == {
        "type": "error",
        "code": "EventsLost",
        "detail": event["detail"],
    }


@BOTH
@pytest.mark.parametrize("reason", ["transient", "conflated"])
def test_what_is_left_out_on_purpose_is_no_loss(wire, reason):
    """Deltas and snapshots are not replayed, and nobody misses them."""
    gap = {"after": "1-0@1", "next": "3-0@3", "lost": 1, "reason": reason}

    assert wire.notice("gap", gap, UUID) == b""


@BOTH
@pytest.mark.parametrize("event", ["welcome", "present", "token_expiring", "ack"])
def test_other_notices_have_no_words(wire, event):
    """They would be frames that clients do not know."""
    assert wire.notice(event, {}, UUID) == b""


@BOTH
def test_trouble_with_the_stream_is_told(wire):
    """In a ServerErrorEvent, or in an error frame."""
    data = {"code": "wrong_type", "message": "why"}

    assert told(wire.notice("error", data, UUID))["code"] == "StreamUnreadable"


def test_another_history_is_told():
    """On the session socket it also says that its places begin anew."""
    data = {"from": "0-0@0", "tip": "0-0@0"}
    event = told(EVENTS.notice("reset", data, UUID))
    frames = read_server_frames(SESSION.notice("reset", data, UUID))
    error, sync = (json.loads(text) for _opcode, text in frames)

    assert event["code"] == "HistoryReset"
    assert error == {"type": "error", "code": "HistoryReset", "detail": event["detail"]}
    assert sync == {"type": "sync", "from_seq": -1}


@BOTH
def test_a_skipped_entry_is_told(wire):
    """Nobody sees a hole that is not accounted for."""
    frame = wire.skipped(UUID.encode(), *AT, 4, "not_json", b"data is not JSON text")

    assert told(frame)["code"] == "EventSkipped"
    assert "data is not JSON text" in told(frame)["detail"]
    assert frame == wire.skipped(
        UUID.encode(), *AT, 4, "not_json", b"data is not JSON text"
    )


def test_a_state_is_told_as_it_was_published():
    """On the session socket it moves no place."""
    data = state("full_state", {"execution_status": "running"})

    assert told(EVENTS.state(data)) == json.loads(data)
    assert told(SESSION.state(data)) == {
        "type": "transient",
        "event": json.loads(data),
    }


def test_of_a_state_that_is_too_large_the_status_is_told():
    """The first frame is a state in any case."""
    data = state("full_state", {"execution_status": "paused", "x": "x" * 2_000_000})
    event = told(EVENTS.state(data))

    assert event["kind"] == "ConversationStateUpdateEvent"
    assert (event["key"], event["value"]) == ("execution_status", "paused")


def test_ids_beyond_all_calendars_have_a_time():
    """Publishers may give ids themselves."""
    frame = EVENTS.skipped(b"s", 2**64 - 1, 0, 0, "no_event", b"why")

    assert told(frame)["timestamp"].startswith("9999-")


# What requests ask for.


@pytest.mark.parametrize("text", [UUID, UUID.replace("-", ""), UUID.upper()])
def test_a_conversation_is_named_by_its_uuid(text):
    """With or without dashes; its session has them."""
    assert v1.read_session(text) == UUID


@pytest.mark.parametrize("text", ["", "s1", UUID[:-1], UUID + "0", "{" + UUID + "}"])
def test_other_names_are_refused(text):
    """Before anybody is let in."""
    with pytest.raises(BadQuery):
        v1.read_session(text)


TEN = datetime.fromisoformat("2026-01-01T10:00:00")


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({}, Resend()),
        ({"resend_mode": "all"}, Resend(everything=True)),
        ({"resend_all": "true"}, Resend(everything=True)),
        ({"resend_all": "0"}, Resend()),
        ({"resend_mode": "since", "resend_all": "true"}, Resend()),
        ({"after_timestamp": "2026-01-01T10:00:00"}, Resend()),
        (
            {"resend_mode": "since", "after_timestamp": "2026-01-01T10:00:00"},
            Resend(since=TEN),
        ),
        (
            {"resend_mode": "since", "after_timestamp": "2026-01-01T12:00:00+02:00"},
            Resend(since=TEN),
        ),
        (
            {"resend_mode": "all", "after_timestamp": "2026-01-01T10:00:00Z"},
            Resend(everything=True),
        ),
    ],
)
def test_what_is_resent_stands_in_the_query(query, expected):
    """The newer parameter wins; a time counts for since only, in UTC."""
    assert v1.read_resend(query) == expected


@pytest.mark.parametrize(
    "query",
    [
        {"resend_mode": ""},
        {"resend_mode": "ALL"},
        {"resend_all": "maybe"},
        {"resend_mode": "since", "after_timestamp": "yesterday"},
        {"after_timestamp": ""},
        {"after_timestamp": "2026-13-01T00:00:00"},
        {"after_timestamp": "0001-01-01T00:00:00+14:00"},
    ],
)
def test_a_query_that_cannot_be_used_is_refused(query):
    """Also where it would not count."""
    with pytest.raises(BadQuery):
        v1.read_resend(query)


@pytest.mark.parametrize(
    ("text", "expected"), [("-1", -1), ("0", 0), ("+7", 7), ("-99", -99)]
)
def test_after_seq_is_a_whole_number(text, expected):
    """Everything below zero is the whole log."""
    assert v1.read_after_seq({"after_seq": text}) == expected


@pytest.mark.parametrize("text", ["", "x", "1.0", "1" * 19, "0x1", "\u0661"])
def test_any_other_after_seq_is_refused(text):
    """Rather than guessed at."""
    with pytest.raises(BadQuery):
        v1.read_after_seq({"after_seq": text})


def test_without_after_seq_only_new_events_are_wanted():
    """None is not the same as -1."""
    assert v1.read_after_seq({}) is None


# What clients say.


@pytest.mark.parametrize(
    "payload",
    [
        b'{"role":"user","content":"hi"}',
        b'{"role":"system","content":[]}',
        b'{"role":"user","content":[{"type":"text","text":"hi"}],"run":true}',
        b'{"role":"tool","content":[{"type":"image","image_urls":[]}],"x":{"y":1}}',
    ],
)
def test_a_message_has_a_role_and_content(payload):
    """Other keys are the services' business."""
    assert v1.check_message(payload)


@pytest.mark.parametrize(
    "payload",
    [b'{"type":"auth"}', b'{"type":"auth","session_api_key":"k"}'],
)
def test_another_auth_is_ignored(payload):
    """Clients may show their key twice."""
    assert not v1.check_message(payload)


@pytest.mark.parametrize(
    ("payload", "code"),
    [
        (b"", "bad_json"),
        (b"hi", "bad_json"),
        (b'{"role":"user","content":"\\ud800"}', "bad_json"),
        (b"[" * 100_000, "bad_json"),
        (b"[]", "bad_frame"),
        (b"{}", "bad_frame"),
        (b'{"role":"robot","content":"hi"}', "bad_frame"),
        (b'{"role":["user"],"content":"hi"}', "bad_frame"),
        (b'{"role":"user"}', "bad_frame"),
        (b'{"role":"user","content":7}', "bad_frame"),
        (b'{"role":"user","content":["hi"]}', "bad_frame"),
        (b'{"role":"user","content":[{"text":"hi"}]}', "bad_frame"),
        (b'{"type":"auth","session_api_key":"k","x":1}', "bad_frame"),
    ],
)
def test_anything_else_is_a_bad_frame(payload, code):
    """With the code from which the client's error is made."""
    with pytest.raises(BadFrame) as caught:
        v1.check_message(payload)

    assert caught.value.code == code


def test_the_first_frame_carries_the_key():
    """Of a client that has shown none in its request."""
    assert v1.read_key(b'{"type":"auth","session_api_key":"k","more":1}') == "k"


@pytest.mark.parametrize(
    "payload",
    [
        b"k",
        b'"k"',
        b'{"session_api_key":"k"}',
        b'{"type":"hello","session_api_key":"k"}',
        b'{"type":"auth"}',
        b'{"type":"auth","session_api_key":""}',
        b'{"type":"auth","session_api_key":7}',
    ],
)
def test_any_other_first_frame_is_refused(payload):
    """Its sender has not said who it is."""
    with pytest.raises(BadFrame):
        v1.read_key(payload)


# What is inside of events.


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (state("full_state", {}), State()),
        (state("execution_status", "running"), State("running")),
        (state("execution_status", ""), None),
        (state("execution_status", 7), None),
        (state("stats", {}), None),
        (b'{"kind":"MessageEvent","x":"ConversationStateUpdateEvent"}', None),
        (b'{"kind":"ConversationStateUpdateEvent","key":"execution_status"}', None),
        (b'["ConversationStateUpdateEvent"]', None),
        (state("execution_status", float("inf")).replace(b"Infinity", b"1e999"), None),
    ],
)
def test_two_keys_tell_a_state(data, expected):
    """The whole state, and how the conversation is going."""
    assert v1.read_state(entry(data)) == expected
    assert v1.read_state(entry(data, name=b"other")) is None


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b'{"timestamp":"2026-01-01T10:00:00.000000"}', TEN),
        (b'{"timestamp":"2026-01-01T11:00:00+01:00"}', TEN),
        (b'{"timestamp":"once"}', None),
        (b'{"timestamp":7}', None),
        (b"{}", None),
        (b"[]", None),
    ],
)
def test_the_time_of_an_event_is_its_own(data, expected):
    """Without a zone it is taken as it is."""
    assert v1.event_time(entry(data)) == expected
    assert v1.event_time(entry(data, name=b"other")) is None


def test_troubles_without_a_name_are_told_apart():
    """Two errors of one client are two."""
    trouble = Trouble("RateLimited", "too many")

    assert told(EVENTS.trouble(trouble))["id"] != told(EVENTS.trouble(trouble))["id"]


# Whatever comes.


@given(st.binary(max_size=200))
def test_any_bytes_of_a_client_are_understood_or_refused(payload):
    """No other error can come of a frame."""
    with suppress(BadFrame):
        v1.check_message(payload)
    with suppress(BadFrame):
        v1.read_key(payload)


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["type", "role", "content", "kind", "key", "value", "id"])
            | st.text(max_size=3),
            inner
            | st.sampled_from(
                ["auth", "user", "full_state", "ConversationStateUpdateEvent"]
            ),
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(ANY_JSON)
def test_any_json_of_a_client_is_understood_or_refused(value):
    """The same for what is JSON."""
    payload = json.dumps(value).encode()
    with suppress(BadFrame):
        v1.check_message(payload)
    with suppress(BadFrame):
        v1.read_key(payload)


@given(ANY_JSON | st.binary(max_size=50), st.booleans(), st.integers(0, 9))
def test_any_data_of_an_entry_gives_frames_or_nothing(value, transient, seq):
    """One entry is at most one frame, and all that is read of it is harmless."""
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    event = entry(data, transient=transient)
    v1.read_state(event)
    v1.read_status(data)
    v1.event_time(event)

    assert len(read_server_frames(EVENTS.event(b"s", *AT, seq, event))) <= 1
    assert len(read_server_frames(SESSION.event(b"s", *AT, seq, event))) <= 1


@given(st.text(max_size=40))
def test_any_text_of_a_query_is_understood_or_refused(text):
    """The same for what stands in a URL."""
    for read, name in (
        (v1.read_resend, "resend_mode"),
        (v1.read_resend, "resend_all"),
        (v1.read_resend, "after_timestamp"),
        (v1.read_after_seq, "after_seq"),
    ):
        with suppress(BadQuery):
            read({name: text})
    with suppress(BadQuery):
        v1.read_session(text)
