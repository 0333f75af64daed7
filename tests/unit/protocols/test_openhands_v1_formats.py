"""The two sockets of OpenHands V1: the frames that their clients are sent."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.entry import Event
from broker.protocols.formats import event_payload
from broker.protocols.openhands import v1
from broker.protocols.openhands.v1 import Trouble
from broker.protocols.openhands.v1_formats import (
    EVENTS,
    FORMATS,
    SESSION,
    SocketFormat,
    sync_frame,
)
from tests.unit.protocols.openhands_events import ANY_JSON, entry, state
from tests.unit.protocols.peer import read_server_frames

UUID = "0f4f3f0e-6d8a-4b0e-9a55-7a1f0a3b2c1d"
AT = (1763699200123, 2)
BOTH = pytest.mark.parametrize("wire", FORMATS, ids=["events", "session"])
SPACED = b' {"id": "e1",\n "kind": "MessageEvent"}'


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
    assert wire.editor(lagging=False) is None


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


def test_troubles_without_a_name_are_told_apart():
    """Two errors of one client are two."""
    trouble = Trouble("RateLimited", "too many")

    assert told(EVENTS.trouble(trouble))["id"] != told(EVENTS.trouble(trouble))["id"]


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
