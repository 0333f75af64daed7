"""What a client reads of the protocol, and which place it stands for."""

from __future__ import annotations

import msgspec
import orjson
import pytest

from broker.client.wire import Frame, Place, command_text, is_reset, read_frame
from tests.unit.client.script import about, event, gap, subscribed


def frame(content: dict[str, object]) -> Frame:
    return read_frame(orjson.dumps(content))


@pytest.mark.parametrize(
    ("content", "position"),
    [
        (event("5-0@2"), "5-0@2"),
        (event("5-0", name="reset"), "5-0"),
        (subscribed("live", "8-0", "8-0@4"), "8-0@4"),
        (subscribed("complete", "1-0", "8-0@4"), "3-0"),
        (subscribed("gap", "1-0", "8-0@4"), "3-0"),
        (subscribed("reset"), "0-0@0"),
        (about("reset", tip="8-0@4", **{"from": "0-0@0"}), "0-0@0"),
        (about("caught_up", position="8-0@4", replayed=0), "8-0@4"),
        (gap("3-0", "7-0", 2), "3-0"),
        (about("joined", users=["ada"], count=1, position="8-0"), "3-0"),
    ],
    ids=str,
)
def test_place_moves_with_what_says_so(content: dict[str, object], position: str):
    """PROTOCOL.md, "Resume"."""
    place = Place("3-0")
    place.note(frame(content))

    assert place.position == position


def test_only_the_broker_resets():
    """A publisher may call an event as he likes."""
    assert is_reset(frame(subscribed("reset")))
    assert is_reset(frame(about("reset", **{"from": "0-0@0"})))
    assert not is_reset(frame(subscribed("complete")))
    assert not is_reset(frame(event("5-0", {"resume": "reset"}, "subscribed")))


def test_data_stays_as_it_came():
    """Who only passes it on need not read it."""
    text = '{"id":"1-0","event":"e","data": {"a" : [1,2]},"unknown":1}'

    assert bytes(read_frame(text).data) == b'{"a" : [1,2]}'


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"event":1}', '{"event":"e"'])
def test_what_is_no_frame_is_refused(text: str):
    """By one kind of error."""
    with pytest.raises(msgspec.DecodeError):
        read_frame(text)


def test_command_names_what_it_has():
    """Nothing is sent that was not given."""
    full = command_text("go", "c1", {"a": 1}, "s1")
    short = command_text("ping", "c2", None)

    assert orjson.loads(full) == {
        "cmd": "go",
        "id": "c1",
        "session": "s1",
        "data": {"a": 1},
    }
    assert orjson.loads(short) == {"cmd": "ping", "id": "c2"}
