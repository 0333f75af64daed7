"""Frames as values."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import orjson
import pytest

from broker.client import Event, Gap, Item, Notice, Reset, Skipped
from broker.client.items import read_data, read_item
from broker.client.wire import read_frame
from tests.unit.client.script import about, event, gap, subscribed


def item(content: dict[str, Any]) -> Item:
    return read_item(read_frame(orjson.dumps(content)))


def test_event_has_everything_of_its_frame():
    """With seq and node_id where they are known."""
    content = event("5-0@2", {"text": "hä"}) | {"node_id": "writer"}

    assert item(content) == Event(
        "5-0@2", "e", {"text": "hä"}, "s1", "2026-11-21T12:31:13Z", 2, "writer"
    )
    assert item(event("5-0")) == Event("5-0", "e", None, "s1", "2026-11-21T12:31:13Z")


def test_gap_has_its_number():
    """And the form of the frame, for whoever looks at names only."""
    lost = item(gap("3-0", "7-0", 2))

    assert lost == Gap("s1", "3-0", "7-0", 2, True, "trimmed")
    assert (lost.id, lost.event) == (None, "gap")
    assert lost.data == gap("3-0", "7-0", 2)["data"]


@pytest.mark.parametrize(
    "content",
    [subscribed("reset"), about("reset", tip="9-0@9", **{"from": "0-0@0"})],
    ids=["resume", "live"],
)
def test_reset_is_the_same_on_resume_and_live(content: dict[str, Any]):
    """The broker has two ways to say it."""
    reset = item(content)

    assert reset == Reset("s1", "0-0@0", "9-0@9")
    assert (reset.id, reset.event) == (None, "reset")
    assert reset.data == {"from": "0-0@0", "tip": "9-0@9"}


def test_skipped_entry_is_no_event():
    """It takes its place by its id."""
    data = {"reason": "not_json", "message": "data is not JSON text"}
    content = event("5-0@2", data, "skipped")
    named_so = item(content)
    del content["timestamp"]
    skipped = item(content)

    assert skipped == Skipped("5-0@2", "s1", "not_json", "data is not JSON text", 2)
    assert skipped.data == data
    assert isinstance(named_so, Event)


def test_the_rest_is_a_notice():
    """Of a session or of the connection; also with names that are not known yet."""
    assert item(about("joined", users=["bob"], count=1)) == Notice(
        "joined", {"users": ["bob"], "count": 1}, "s1"
    )
    assert item({"event": "heartbeat"}) == Notice("heartbeat", None)
    assert item({"event": "news", "more": 1}) == Notice("news", None)


def test_gap_without_its_parts_is_no_frame_of_the_broker():
    """It is not taken for a loss of nothing."""
    with pytest.raises(msgspec.ValidationError):
        item(about("gap", after="3-0"))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (b"123456789012345678901234567890", 123456789012345678901234567890),
        (b'"\\ud800"', "\ud800"),
        (b"[1e400]", [math.inf]),
        (b'{"a":1,"a":2}', {"a": 2}),
        ('"ä"'.encode(), "ä"),
    ],
    ids=str,
)
def test_whatever_the_broker_lets_through_can_be_read(text: bytes, value: object):
    """JSON by its grammar, though some readers refuse it; large numbers stay exact."""
    assert read_data(msgspec.Raw(text)) == value
