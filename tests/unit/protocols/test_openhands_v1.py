"""OpenHands V1: what its requests ask for, what its clients say, and its events."""

from __future__ import annotations

import json
from contextlib import suppress
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.protocols.native import BadFrame
from broker.protocols.openhands import v1
from broker.protocols.openhands.v1 import BadQuery, Resend, State
from tests.unit.protocols.openhands_events import ANY_JSON, entry, state

UUID = "0f4f3f0e-6d8a-4b0e-9a55-7a1f0a3b2c1d"


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


# Whatever comes.


@given(st.binary(max_size=200))
def test_any_bytes_of_a_client_are_understood_or_refused(payload):
    """No other error can come of a frame."""
    with suppress(BadFrame):
        v1.check_message(payload)
    with suppress(BadFrame):
        v1.read_key(payload)


@given(ANY_JSON)
def test_any_json_of_a_client_is_understood_or_refused(value):
    """The same for what is JSON."""
    payload = json.dumps(value).encode()
    with suppress(BadFrame):
        v1.check_message(payload)
    with suppress(BadFrame):
        v1.read_key(payload)


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
