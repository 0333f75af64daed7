"""What workers write to the reader."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.ring.requests import Hello, Request, Unwatch, Watch, decode, encode

WORDS = st.integers(0, 2**63 - 1)
SESSIONS = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9._:@-]{0,127}\Z")
REQUESTS = (
    st.builds(Hello, worker=st.integers(1, 128))
    | st.builds(
        Watch,
        token=WORDS,
        session=SESSIONS,
        have=st.none() | st.tuples(WORDS, WORDS, WORDS),
        channel=st.integers(0, 2**32 - 1),
    )
    | st.builds(Unwatch, session=SESSIONS)
)


@given(REQUESTS)
def test_request_comes_back_from_its_line(request: Request) -> None:
    """One request is one line."""
    line = encode(request)

    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    assert decode(line[:-1]) == request


def test_largest_position_comes_back() -> None:
    """A stream may be closed by the largest id there is."""
    request = Watch(1, "s", (2**64 - 1, 2**64 - 1, 1), 2**32 - 1)

    assert decode(encode(request)) == request


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{",
        b"{}",
        b'{"type":"other"}',
        b'{"type":"hello"}',
        b'{"type":"watch","token":"x","session":"s"}',
        b'{"type":"watch","token":1,"session":"s","have":[1,2]}',
        b"\xff\xfe",
    ],
)
def test_anything_else_is_no_request(line: bytes) -> None:
    """A peer that writes it is cut off by the caller."""
    with pytest.raises(msgspec.MsgspecError):
        decode(line)
