"""The names of keys, and the patterns that would let a client name another one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.errors import ConfigError
from broker.store.keys import (
    DEFAULT_EVENT_STREAM,
    OWN_NAMES,
    OWN_PREFIXES,
    check_event_stream,
    event_key_pattern,
)

SESSIONS = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._:@-]{0,127}", fullmatch=True)


def test_default_pattern_gives_the_documented_key() -> None:
    """Publishers write to broker:events:{session}, without braces."""
    assert event_key_pattern(DEFAULT_EVENT_STREAM).key("s1") == b"broker:events:s1"


@given(
    SESSIONS,
    st.sampled_from(["broker:events:{session}", "a{session}", "x:{session}:y"]),
)
def test_key_gives_back_its_session(session: str, pattern: str) -> None:
    """Key and session are one to one."""
    keys = event_key_pattern(pattern)

    assert keys.session(keys.key(session)) == session


@pytest.mark.parametrize("key", [b"broker:events:", b"other", b"x:", b"x::y", b"x:y"])
def test_key_that_is_no_event_stream_is_refused(key: bytes) -> None:
    """A foreign key is not mistaken for a session with an odd name."""
    with pytest.raises(ValueError, match="not the key"):
        event_key_pattern("x:{session}:y").session(key)


@pytest.mark.parametrize(
    "pattern",
    [
        "events:{session}",
        "broker:events:{session}",
        "broker:ev{session}",
        "broker:runs:{session}:log",
    ],
)
def test_pattern_with_a_prefix_of_its_own_is_taken(pattern: str) -> None:
    """Any literal prefix that no other key of the broker begins with will do."""
    check_event_stream(pattern)


@pytest.mark.parametrize(
    ("pattern", "why"),
    [
        ("broker:events:", "exactly once"),
        ("", "exactly once"),
        ("{session}:{session}", "exactly once"),
        ("a:{session}:{session}", "exactly once"),
        ("{session}", "in front"),
        ("{session}:events", "in front"),
        ("b{session}", "the beginning of"),
        ("broker:{session}", "the beginning of"),
        ("broker:comm{session}", "the beginning of"),
        ("broker:e{session}", "the beginning of"),
        ("broker:rev{session}", "the beginning of"),
        ("broker:presence:x{session}", "the broker's"),
        ("broker:commands{session}", "the beginning of"),
        ("broker:offsets:{session}", "the beginning of"),
        ("broker:offsets:x{session}", "the broker's"),
        ("broker:_selftest:{session}", "the beginning of"),
        ("broker:{tag}:{session}", "printable ASCII"),
        ("a b:{session}", "printable ASCII"),
        ("a:{session}\n", "printable ASCII"),
        ("é:{session}", "printable ASCII"),
    ],
)
def test_pattern_that_could_name_another_key_is_refused(pattern: str, why: str) -> None:
    """No session name may turn into a key of the broker's own."""
    with pytest.raises(ConfigError, match=why) as caught:
        check_event_stream(pattern)

    assert "BROKER_EVENT_STREAM" in str(caught.value)


@given(st.text("abcdefghinorstv:_", max_size=16), st.text(":ad", max_size=3), SESSIONS)
def test_accepted_pattern_never_names_a_key_of_the_broker(
    prefix: str, suffix: str, session: str
) -> None:
    """Whatever pattern is taken, no session leads to another key."""
    try:
        keys = event_key_pattern(f"broker:{prefix}{{session}}{suffix}")
    except ConfigError:
        return
    key = keys.key(session).decode()

    assert key not in OWN_NAMES
    assert not key.startswith(OWN_PREFIXES)
