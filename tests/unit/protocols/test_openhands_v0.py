"""What V0 clients are sent and what they send."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from broker.disconnect import Disconnect
from broker.entry import Event
from broker.model import U64_MAX
from broker.protocols.formats import Editor, Format, event_payload
from broker.protocols.native import BadFrame
from broker.protocols.openhands import v0
from broker.protocols.openhands.socketio import Said
from tests.unit.protocols.peer import read_server_frames

AT = (b"c1", 1763699200000, 0, 1)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 2**70) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)
SPACE = st.text(" \t\r\n", max_size=3)
NAMES = st.sampled_from([b"oh_event", b"oh_event2", b"tick"]) | st.text(min_size=1).map(
    str.encode
)


def event(data: bytes, name: bytes = b"oh_event", **parts: bytes) -> Event:
    texts = {"timestamp": b"", "node_id": b"", "key": b""} | parts
    return Event(event=name, data=data, transient=False, **texts)


def sent(data: object) -> bytes:
    """The frame of an ``oh_event``."""
    return v0.LIVE.event(*AT, event(json.dumps(data).encode()))


def recorded(said: Event) -> bytes:
    """The same by way of the ring."""
    return v0.LIVE.recorded(*AT[1:], event_payload(*AT, said))


def texts(frames: bytes) -> list[str]:
    """The packets in some frames."""
    return [text.decode() for opcode, text in read_server_frames(frames) if opcode == 1]


def told(frames: bytes) -> list[Any]:
    """The payloads of the ``oh_event`` packets in some frames."""
    return [json.loads(text[2:])[1] for text in texts(frames)]


def editor(wire: Format) -> Editor:
    """For one page of a replay."""
    made = wire.editor(lagging=False)
    assert made is not None
    return made


# Events.


def test_an_event_is_sent_byte_for_byte() -> None:
    """Odd spacing, large numbers and escapes reach the client as they were written."""
    data = b' {"id": 12345678901234567890,\n "a":"\\u00e9\xc3\xa9"} '

    assert texts(v0.LIVE.event(*AT, event(data))) == [f'42["oh_event",{data.decode()}]']


@given(
    JSON.map(json.dumps),
    SPACE,
    NAMES,
    st.text().map(str.encode),
    st.sampled_from([b"", b"2025-11-21T04:26:40Z"]),
    st.integers(0, U64_MAX),
)
@example('{"action":"null"}', "", b"oh_event", b"", b"", 1)
@example('{"event":"oh_event","data":5,"timestamp":"x"}', "", b"oh_event", b"", b"", 1)
@example('{"a":1,"event":"oh_event","data":5}', " ", b"oh_event", b"n", b"", 1)
@example('[",\\"timestamp\\":\\"",{"event":"x"}]', "\n", b"oh_event", b'"', b"", 1)
def test_an_entry_is_the_same_from_the_ring_and_from_redis(
    text: str, space: str, name: bytes, node_id: bytes, timestamp: bytes, seq: int
) -> None:
    """A replay cannot differ from what was sent live, whatever is in the entry."""
    data = (space + text + space).encode()
    said = event(data, name, node_id=node_id, timestamp=timestamp)
    payload = event_payload(b"c1", 1763699200000, 3, seq, said)

    for wire in (v0.LIVE, v0.JOINING):
        frame = wire.event(b"c1", 1763699200000, 3, seq, said)
        assert wire.recorded(1763699200000, 3, seq, payload) == frame


@given(st.binary())
def test_any_data_is_an_event(data: bytes) -> None:
    """Data that is no JSON never gets here; if it did, nothing would fail."""
    assert data in v0.LIVE.event(*AT, event(data))
    assert v0.event_id(event(data)) is None or data.strip().startswith(b"{")


@pytest.mark.parametrize("nested", [900, 2000], ids=["deep", "too-deep"])
def test_a_deeply_nested_event_is_sent(nested: int) -> None:
    """What cannot be looked into is no event that is left out."""
    said = event(b'{"a":' + b"[" * nested + b"]" * nested + b"}")

    assert said.data in recorded(said)


@pytest.mark.parametrize(
    "data",
    [
        {"id": 1, "action": "null", "args": {}},
        {"id": 2, "action": "recall", "args": {}},
        {"id": 3, "observation": "null", "content": ""},
    ],
    ids=str,
)
def test_null_events_and_recalls_are_never_sent(data: object) -> None:
    """Upstream leaves them out of replays, and null events out of everything."""
    said = event(json.dumps(data).encode())

    assert v0.JOINING.event(*AT, said) == b""
    assert v0.LIVE.event(*AT, said) == b""
    assert recorded(said) == b""


@pytest.mark.parametrize(
    "data",
    [
        {"id": 1, "observation": "recall"},
        {"id": 1, "action": "message", "args": {"action": "null"}},
        {"id": 1, "action": ["null"]},
        {"id": 1, "action": None, "observation": None},
        ["null"],
        "null",
    ],
    ids=str,
)
def test_what_only_looks_like_a_null_event_is_sent(data: object) -> None:
    """Only the event's own kind counts."""
    assert told(sent(data)) == [data]


def test_entries_of_other_names_are_not_shown() -> None:
    """A session may carry more than one protocol."""
    said = event(b'{"id":1}', b"token_stream")

    assert v0.LIVE.event(*AT, said) == b""
    assert recorded(said) == b""


@pytest.mark.parametrize(
    ("data", "number"),
    [
        (b'{"id":7}', 7),
        (b'{"a":{"id":1},"id": 0 }', 0),
        (b'{"id":"7"}', None),
        (b'{"id":7.5}', None),
        (b'{"id":null}', None),
        (b'{"status_update":true}', None),
        (b"[7]", None),
    ],
)
def test_the_number_of_an_event_is_its_id(data: bytes, number: int | None) -> None:
    """Whatever is no integer there is no number."""
    assert v0.event_id(event(data)) == number
    assert v0.event_id(event(data, b"tick")) is None


# Replays.


def test_of_agent_states_only_the_newest_is_held_back_while_joining() -> None:
    """It is sent last, so that a page shows how the agent stands now."""
    first = sent({"id": 1, "observation": "agent_state_changed"})
    message = sent({"id": 2, "action": "message"})
    newest = sent({"id": 3, "observation": "agent_state_changed"})
    said = editor(v0.JOINING)

    assert [said.add(frame) for frame in (first, message, newest)] == [
        b"",
        message,
        b"",
    ]
    assert said.finish() == b""
    assert said.held == newest


def test_an_event_that_speaks_of_agent_states_is_not_held_back() -> None:
    """Only an observation of that kind is one."""
    frame = sent({"args": {"observation": "agent_state_changed"}, "action": "message"})
    said = editor(v0.JOINING)

    assert said.add(frame) == frame
    assert said.held == b""


def test_agent_states_keep_their_order_once_a_client_is_connected() -> None:
    """Who lags behind sees each of them where it happened."""
    frame = sent({"id": 1, "observation": "agent_state_changed"})
    said = editor(v0.LIVE)

    assert said.add(frame) == frame
    assert said.held == b""


@pytest.mark.parametrize("wire", [v0.JOINING, v0.LIVE], ids=["joining", "live"])
def test_a_long_replay_carries_pings(wire: Format) -> None:
    """A client that is busy receiving must not take the server for dead."""
    frame = sent({"id": 1})
    large = sent({"id": 1, "args": "x" * v0.PING_BYTES})
    said = editor(wire)
    many = b"".join(said.add(frame) for _ in range(v0.PING_FRAMES))

    assert many == frame * v0.PING_FRAMES + v0.PING_FRAME
    assert said.add(frame) == frame
    assert said.add(large) == large + v0.PING_FRAME


# What the broker says.


@pytest.mark.parametrize(
    ("lost", "reason", "message"),
    [
        (37, "trimmed", "37 events were removed before they could be sent"),
        (1, "dropped", "1 event was removed before they could be sent"),
        (None, "trimmed", "Some events were removed before they could be sent"),
    ],
)
def test_a_loss_is_told_as_a_status(
    lost: int | None, reason: str, message: str
) -> None:
    """Upstream has no word for it; a status of type error is what its clients know."""
    notice = v0.LIVE.notice("gap", {"lost": lost, "reason": reason}, "c1")

    assert told(notice) == [
        {
            "status_update": True,
            "type": "error",
            "id": "STATUS$EVENTS_LOST",
            "message": message,
        }
    ]


@pytest.mark.parametrize("reason", ["transient", "conflated"])
def test_what_is_left_out_on_purpose_is_not_told(reason: str) -> None:
    """A replay without status updates lacks nothing."""
    assert v0.LIVE.notice("gap", {"lost": 3, "reason": reason}, "c1") == b""


def test_resets_and_unreadable_entries_are_losses_too() -> None:
    """Nothing that is missing goes without a word."""
    frames = v0.LIVE.notice("reset", {}) + v0.LIVE.skipped(*AT, "too_large", b"why")

    assert [status["message"] for status in told(frames)] == [
        "The conversation began anew; its new events follow",
        "An event cannot be shown: too_large",
    ]


@pytest.mark.parametrize("name", ["welcome", "subscribed", "caught_up", "present"])
def test_what_v0_has_no_word_for_is_not_said(name: str) -> None:
    """Its clients would take it for an event."""
    assert v0.LIVE.notice(name, {"resume": "live"}, "c1") == b""
    assert v0.LIVE.notice(name, None) == b""


def test_an_eviction_is_told_in_upstreams_words() -> None:
    """Its notice, then the packet after which a client does not come back by itself."""
    assert texts(v0.TOO_MANY_FRAME + v0.DISCONNECT_FRAME) == [
        '42["oh_event",{"status_update":true,"type":"error",'
        '"id":"AGENT_ERROR$TOO_MANY_CONVERSATIONS","message":"Too many conversations '
        "at once. If you are still using this one, try reactivating it by prompting "
        'the agent to continue"}]',
        "41",
    ]


@pytest.mark.parametrize(
    ("reason", "message"),
    [
        (Disconnect.UNAUTHORIZED, "invalid_session_api_key"),
        (Disconnect.TOKEN_EXPIRED, "SESSION$TIMEOUT_MESSAGE"),
        (Disconnect.FORBIDDEN, "User is not allowed to join conversation c1"),
        (
            Disconnect.SESSION_CLOSED,
            "Failed to join conversation: the session was closed",
        ),
    ],
)
def test_a_refusal_has_upstreams_words_and_our_code(
    reason: Disconnect, message: str
) -> None:
    """Clients show the message; the data is for who wants to know exactly."""
    packet = v0.refusal_packet(reason, "c1", {"replaced_by": "c2"})

    assert packet.startswith(b"44")
    assert json.loads(packet[2:]) == {
        "message": message,
        "data": {"code": reason.code, "reason": reason.label, "replaced_by": "c2"},
    }


# What clients ask.


@pytest.mark.parametrize(
    ("value", "number"),
    [("0", 0), ("41", 41), ("007", 7)]
    + [(value, -1) for value in (None, "", "-1", "null", "undefined", "x", "1.5")]
    + [(value, -1) for value in ("+1", " 1", "1_0", "\u0661", "9" * 19)],
)
def test_the_last_number_is_read_or_everything_is_wanted(
    value: str | None, number: int
) -> None:
    """What is no plain number is -1, as upstream has it."""
    assert v0.read_latest_event_id(value) == number


@pytest.mark.parametrize(
    ("data", "token"),
    [
        (b"", None),
        (b"{}", None),
        (b'{"token":"a"}', "a"),
        (b'{"session_api_key":"b"}', "b"),
        (b'{"token":null,"session_api_key":"b"}', "b"),
        (b'{"token":"undefined","session_api_key":5}', None),
    ],
)
def test_the_token_of_a_connect_packet_is_read(data: bytes, token: str | None) -> None:
    """Under either name; what JavaScript makes of nothing is none."""
    assert v0.read_auth(data) == token


@pytest.mark.parametrize("arguments", [[], [b"5"], [b"{}", b"{}"]], ids=str)
def test_an_action_is_exactly_one_object(arguments: list[bytes]) -> None:
    """Upstream fails at anything else, in its log only."""
    with pytest.raises(BadFrame):
        v0.read_command(Said("oh_action", arguments))

    assert v0.read_command(Said("oh_action", [b'{"a": 1}'])) == b'{"a": 1}'
