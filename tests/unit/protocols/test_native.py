"""The JSON of broker.v1."""

from __future__ import annotations

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from broker.entry import Event
from broker.model import FIRST_ID, START, U64_MAX, Position, parse_position
from broker.protocols.native import (
    HEARTBEAT,
    BadFrame,
    event_json,
    notice_json,
    position_text,
    read_client_frame,
    skipped_json,
)

MS = 1763699200000
EVENT = Event(b"token_stream", b'{"chunk": "a"}', b"", b"agent", b"k", False)
U64 = st.integers(0, U64_MAX)
JSON_OBJECTS = st.dictionaries(st.text(), st.none() | st.text() | st.integers(0, 99))
NAMES = st.text(min_size=1, max_size=128)


def test_event_has_the_keys_of_the_protocol_in_their_order():
    """An event looks as the protocol page shows it, data byte for byte."""
    assert event_json(b"s1", MS, 0, 412, EVENT) == (
        b'{"id":"1763699200000-0@412","seq":412,"session":"s1","event":"token_stream",'
        b'"data":{"chunk": "a"},"timestamp":"2025-11-21T04:26:40.000000000Z",'
        b'"node_id":"agent"}'
    )


def test_unknown_seq_is_left_out():
    """A seq that is not exact is sent neither by itself nor in the id."""
    assert event_json(b"s1", MS, 7, 0, EVENT) == (
        b'{"id":"1763699200000-7","session":"s1","event":"token_stream",'
        b'"data":{"chunk": "a"},"timestamp":"2025-11-21T04:26:40.000000007Z",'
        b'"node_id":"agent"}'
    )


def test_empty_node_id_is_left_out():
    """The envelope of the workflow hub omits an empty node_id."""
    frame = json.loads(
        event_json(b"s", MS, 0, 1, Event(b"e", b"1", b"", b"", b"", True))
    )

    assert list(frame) == ["id", "seq", "session", "event", "data", "timestamp"]


def test_given_timestamp_is_kept():
    """The publisher's timestamp wins over the id's time."""
    event = Event(b"e", b"1", b"2025-01-01T00:00:00+08:00", b"", b"", False)

    assert b'"timestamp":"2025-01-01T00:00:00+08:00"' in event_json(
        b"s", MS, 0, 1, event
    )


@given(U64, U64, U64, st.text(min_size=1), st.text(), st.none() | JSON_OBJECTS)
@example(U64_MAX, U64_MAX, U64_MAX, '"\\\n\x00\u2028é', '"}', {'"': "😀"})
def test_event_decodes_to_what_was_encoded(ms, n, seq, name, node_id, data):
    """Whatever a publisher names its events, the frame is JSON that says it."""
    event = Event(
        name.encode(), json.dumps(data).encode(), b"", node_id.encode(), b"", False
    )
    frame = json.loads(event_json(b"s1", ms, n, seq, event))

    assert parse_position(frame["id"]).id == (ms, n)
    assert frame["id"].endswith(f"@{seq}" if seq else f"{ms}-{n}")
    assert frame.get("seq", 0) == seq
    assert (frame["session"], frame["event"], frame["data"]) == ("s1", name, data)
    assert frame.get("node_id", "") == node_id


@given(U64, U64, U64)
def test_position_text_is_a_position(ms, n, seq):
    """What is sent as a position is accepted as one."""
    read = parse_position(position_text(ms, n, seq).decode())

    expected = START if (ms, n) == FIRST_ID else Position((ms, n), seq or None)
    assert read == expected


def test_skipped_takes_its_place_in_the_log():
    """A broken entry leaves a frame with its id and seq, so there is no silent hole."""
    assert skipped_json(b"s1", MS, 0, 5, "not_json", b"data is not JSON") == (
        b'{"id":"1763699200000-0@5","seq":5,"session":"s1","event":"skipped",'
        b'"data":{"reason":"not_json","message":"data is not JSON"}}'
    )


def test_skipped_with_unknown_seq_has_none():
    """Skipped entries follow the rule of seq as well."""
    frame = json.loads(skipped_json(b"s1", U64_MAX, U64_MAX, 0, "too_large", b"big"))

    assert frame["id"] == f"{U64_MAX}-{U64_MAX}"
    assert "seq" not in frame


def test_notice_names_its_session():
    """A broker event about a session has event, session and data, but no id."""
    assert notice_json("caught_up", {"position": "1-0@1", "replayed": 3}, "s1") == (
        b'{"event":"caught_up","session":"s1","data":{"position":"1-0@1","replayed":3}}'
    )


def test_notice_about_the_connection_has_no_session():
    """What concerns the whole connection names no session."""
    assert notice_json("welcome", {"a": 1}) == b'{"event":"welcome","data":{"a":1}}'


def test_heartbeat_is_an_event():
    """Clients see heartbeats as an event of their own."""
    assert json.loads(HEARTBEAT) == {"event": "heartbeat"}


def test_client_frame_is_read():
    """Command, id and arguments arrive; unknown keys are ignored."""
    payload = b'{"cmd":"subscribe","id":"c1","data":{"session":"s1"},"x":[1]}'

    frame = read_client_frame(payload)

    assert (frame.cmd, frame.id, frame.arguments) == (
        "subscribe",
        "c1",
        {"session": "s1"},
    )
    assert bytes(frame.data) == b'{"session":"s1"}'


@pytest.mark.parametrize("payload", [b'{"cmd":"ping"}', b'{"cmd":"ping","id":null}'])
def test_id_and_data_may_be_absent(payload):
    """A command alone is a frame."""
    frame = read_client_frame(payload)

    assert (frame.cmd, frame.id, frame.session, frame.arguments) == (
        "ping",
        None,
        None,
        {},
    )


@given(NAMES, st.none() | NAMES, st.none() | JSON_OBJECTS)
def test_client_frame_decodes_to_what_was_encoded(cmd, ref, data):
    """Any command, id and arguments come through."""
    payload = json.dumps({"cmd": cmd, "id": ref, "data": data}).encode()

    frame = read_client_frame(payload)

    assert (frame.cmd, frame.id, frame.arguments) == (cmd, ref, data or {})


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"hello",
        b'{"cmd":',
        b'{"cmd":"a"} x',
        b'{"cmd":"\xff"}',
        b'{"cmd":"\\ud800"}',
        b'{"cmd":"a","data":[',
        b'{"cmd":"a","data":{"n":' + b"[" * 60_000,
    ],
    ids=lambda payload: repr(payload[:20]),
)
def test_what_is_not_json_is_bad_json(payload):
    """Text that is not JSON is told apart from JSON of the wrong shape."""
    with pytest.raises(BadFrame) as caught:
        read_client_frame(payload)

    assert (caught.value.code, caught.value.ref) == ("bad_json", None)


@pytest.mark.parametrize(
    "payload",
    [
        b"[]",
        b"1",
        b"null",
        b"{}",
        b'{"cmd":1}',
        b'{"cmd":""}',
        b'{"cmd":"' + b"x" * 129 + b'"}',
        b'{"cmd":"a","id":1}',
        b'{"cmd":"a","id":""}',
        b'{"cmd":"a","id":"' + b"x" * 129 + b'"}',
    ],
    ids=lambda payload: repr(payload[:20]),
)
def test_wrong_shape_is_bad_frame(payload):
    """JSON that is no command is refused."""
    with pytest.raises(BadFrame) as caught:
        read_client_frame(payload)

    assert (caught.value.code, caught.value.ref) == ("bad_frame", None)


def test_bad_frame_names_the_frame_it_answers():
    """A client can tell which of its frames was refused."""
    with pytest.raises(BadFrame) as caught:
        read_client_frame(b'{"id":"c7","cmd":"a","data":[]}')

    assert caught.value.ref == "c7"


def test_bad_frame_repeats_nothing_of_the_frame():
    """A token in a broken frame reaches neither the answer nor a log."""
    with pytest.raises(BadFrame) as caught:
        read_client_frame(b'{"cmd":"auth","id":"c1","data":"canary"}')

    assert "canary" not in f"{caught.value.message}{caught.value}"


@given(
    st.binary(max_size=60)
    | st.text(alphabet='{}[]",:\\cmdia0123456789e-+.', max_size=30).map(str.encode)
)
@example(b'{"cmd":"a","data":{"n":' + b"9" * 5000 + b"}}")
@example(b'{"cmd":"a","data":{"n":1e999}}')
def test_any_bytes_give_a_frame_or_bad_frame(payload):
    """No client can make the reading of its frame fail otherwise."""
    try:
        frame = read_client_frame(payload)
    except BadFrame as bad:
        assert bad.code in {"bad_json", "bad_frame"}  # noqa: PT017 - either is right
    else:
        assert frame.cmd
